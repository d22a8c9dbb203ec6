"""python -m tests.architectures.train [NAME…] --data DIR: the short trainings that made `weights/`, minutes each on one thread.

Each is export/train's recipe: L1 on random patches, Adam at a one-cycle rate, the averaged weights kept. Seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import torch
import typer

from export.models import Network
from export.train.patches import Photograph, find_photographs, load_photographs
from export.train.recipe import Progress, Recipe, Training, measure_psnr_db, run
from runtime.files.whole import write_whole
from runtime.terminal import console
from tests.architectures import ARCHITECTURES, find_architecture
from tests.architectures.weights import pack_weights, scale_of, weights_file

_BATCH = 8
_SIZES = (0.8, 0.5)  # below 1: the blocks that JPEG left in the photographs are gone
_REPORT_EVERY = 500


@dataclass(frozen=True)
class Schedule:
    """How long a training takes; what it costs by the step differs fifteenfold between architectures."""

    steps: int
    peak_rate: float = 2e-3
    patch: int = 32


SCHEDULES: Mapping[str, Schedule] = {
    "rrdbnet": Schedule(6000, patch=24),
    "compact": Schedule(5000),
    "span": Schedule(8000, peak_rate=1e-3),
    "edsr": Schedule(8000),
    "imdn": Schedule(3000, patch=24),
    "rfdn": Schedule(6000),
    "carn_m": Schedule(5000),
    "fsrcnn": Schedule(6000),
    "lapsrn": Schedule(2000, patch=24),
    "pan": Schedule(3000, patch=24),
    "swinir": Schedule(3000, patch=24),
    "unet": Schedule(5000, patch=48),
    "plksr": Schedule(2500),
    "safmn": Schedule(3000, patch=24),
}

app = console.application("Train the small architectures of the tests.")


@app.command()
def train(
    names: Annotated[list[str] | None, typer.Argument(help="which architectures [default: every one]")] = None,
    data: Annotated[Path, typer.Option(help="pictures: a folder of pictures, those in folders below it too")] = Path(),
) -> None:
    """Train architectures one after the other, and write their weights."""
    torch.set_num_threads(1)
    for network in [find_architecture(name) for name in names] if names else ARCHITECTURES:
        held_out_db = _train(network, data)
        console.show(f"{weights_file(network)}: {held_out_db:.2f} dB on the held-out pictures")


def _train(network: Network, data: Path) -> float:
    scale, schedule = scale_of(network), SCHEDULES[network.name]
    recipe = Recipe(
        model=network.name,
        scale=scale,
        steps=schedule.steps,
        batch=_BATCH,
        patch=schedule.patch,
        peak_rate=schedule.peak_rate,
        sizes=_SIZES,
    )
    training = Training(network, recipe)
    pictures, held_out = _load(data, network.colour, scale)
    run(
        training,
        pictures,
        held_out,
        report_every=_REPORT_EVERY,
        on_step=_ignore_step,
        on_report=_reporter(network.name),
        should_stop=lambda: False,
    )
    write_whole(weights_file(network), pack_weights(training.averaged))
    return measure_psnr_db(training.averaged, held_out, scale=scale)


@cache
def _load(data: Path, colour: str, scale: int) -> tuple[Sequence[Photograph], Sequence[Photograph]]:
    network = next(network for network in ARCHITECTURES if network.colour == colour and scale_of(network) == scale)
    files, kept = find_photographs(data, held_out=None)
    smallest = max(schedule.patch for name, schedule in SCHEDULES.items() if scale_of(find_architecture(name)) == scale)
    pairs = (
        load_photographs(some, network, scale=scale, smallest=smallest, on_step=_ignore_step, sizes=sizes)
        for some, sizes in ((files, _SIZES), (kept, (0.8,)))
    )
    pictures, held_out = pairs
    return pictures, [_even(photograph) for photograph in held_out]


def _even(photograph: Photograph) -> Photograph:
    """Cropped to sides that every architecture takes."""
    height, width = (side // 8 * 8 for side in photograph.low.shape[1:])
    factor = photograph.factor
    return Photograph(photograph.low[:, :height, :width], photograph.high[:, : height * factor, : width * factor])


def _ignore_step(done: int, total: float) -> None:
    """Nothing is shown of single steps."""


def _reporter(name: str) -> Callable[[Progress], None]:
    return lambda report: console.show(f"{name}: step {report.step}, loss {report.loss:.4f}, held out {report.held_out_db:.2f} dB")


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m tests.architectures.train")


if __name__ == "__main__":
    main()
