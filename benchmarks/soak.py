"""python -m benchmarks.soak [BUNDLE]: does memory stay flat over thousands of pictures of random sizes?

Each backend runs in a process of its own, through the Upscaler as an app does. Memory is the process's resident memory. A backend
prepares something for each new size, and may keep it: the first half of the pictures fills what is bounded, and the second half
should then add nothing, which is why its growth is a figure of its own.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from benchmarks.machine import count_cores, describe_machine
from benchmarks.worker import Case, Worker
from runtime.backends import BACKENDS, choose_backend
from runtime.bundle import Bundle, resolve_bundle
from runtime.errors import UserError
from runtime.targets import PRECISIONS, Precision, find_precision
from runtime.terminal import console

_SAMPLES = 10  # memory is read as often, and at the start

app = console.application("Run thousands of pictures of random sizes, and see whether memory grows.")


@dataclass(frozen=True)
class Sample:
    """Resident memory after so many pictures."""

    pictures: int
    rss_bytes: int


@dataclass(frozen=True)
class Soak:
    """What one backend's process took.

    Attributes:
        samples: the first after one picture of the largest size.
        growth_bytes: from the first sample to the last.
        late_growth_bytes: from the sample at half of the pictures to the last.
    """

    backend: str
    precision: Precision
    samples: tuple[Sample, ...]
    growth_bytes: int
    late_growth_bytes: int
    pictures_per_second: float


@app.command()
def soak(
    bundle: Annotated[Path | None, typer.Argument(help="the bundle [default: the only one under build/]")] = None,
    backend: Annotated[str | None, typer.Option(help="what runs the graph [default: each that is installed]")] = None,
    precision: Annotated[str, typer.Option(help=f"the graph: {', '.join(PRECISIONS)}")] = "int8",
    pictures: Annotated[int, typer.Option(min=2 * _SAMPLES, help="how many")] = 2000,
    smallest: Annotated[str, typer.Option(metavar="HxW", help="picture")] = "16x16",
    largest: Annotated[str, typer.Option(metavar="HxW", help="picture")] = "64x64",
    threads: Annotated[int | None, typer.Option(min=1, help="threads [default: the cores]")] = None,
    seed: Annotated[int, typer.Option(help="seed of what is random: the sizes and the pictures")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="the result as JSON")] = False,
) -> None:
    """Run random pictures of random sizes on every backend, each in a process of its own."""
    opened = Bundle.open(resolve_bundle(bundle))
    able = [entry.name for entry in BACKENDS if entry.opens_graphs and precision in entry.precisions]
    names = able if backend is None else [choose_backend(backend).name]
    least, most = console.parse_size(smallest, option="--smallest"), console.parse_size(largest, option="--largest")
    if any(low > high for low, high in zip(least, most, strict=True)):
        raise UserError(f"--smallest {smallest} is larger than --largest {largest}", hint="--smallest 16x16 --largest 64x64")
    sizes = [most, *_random_sizes(least, most, count=pictures, seed=seed)]
    found = []
    for name in names:
        case = Case(opened.directory, find_precision(precision), name, threads or count_cores())
        found.append(_soak(case, sizes, seed=seed))
    if as_json:
        console.show(json.dumps([asdict(result) for result in found], indent=1))
        return
    for result in found:
        _print_result(result)
    console.show(
        f"{opened.manifest.model} x{opened.manifest.scale:g}, {pictures} pictures of {smallest} to {largest}, "
        f"{threads or count_cores()} threads; {describe_machine().processor}, {count_cores()} cores"
    )


def _random_sizes(least: tuple[int, int], most: tuple[int, int], *, count: int, seed: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    height, width = (rng.integers(low, high + 1, count) for low, high in zip(least, most, strict=True))
    return [(int(rows), int(columns)) for rows, columns in zip(height, width, strict=True)]


def _soak(case: Case, sizes: Sequence[tuple[int, int]], *, seed: int) -> Soak:
    """Run the first size before the first sample is taken."""
    with Worker(case) as worker, console.progress() as bar:
        task = bar.add_task(str(case), total=len(sizes) - 1)
        worker.upscale(sizes[:1], seed=seed)
        samples, began = [Sample(0, _rss_bytes(worker))], time.perf_counter()
        for part in _parts(sizes[1:]):
            worker.upscale(part, seed=seed + len(samples))
            samples.append(Sample(samples[-1].pictures + len(part), _rss_bytes(worker)))
            bar.advance(task, len(part))
        seconds = time.perf_counter() - began
    first, middle, last = samples[0], samples[len(samples) // 2], samples[-1]
    return Soak(
        case.backend,
        case.precision,
        tuple(samples),
        growth_bytes=last.rss_bytes - first.rss_bytes,
        late_growth_bytes=last.rss_bytes - middle.rss_bytes,
        pictures_per_second=last.pictures / seconds,
    )


def _parts(sizes: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
    ends = [len(sizes) * part // _SAMPLES for part in range(_SAMPLES + 1)]
    return (sizes[start:end] for start, end in itertools.pairwise(ends))


def _rss_bytes(worker: Worker) -> int:
    found = worker.rss_bytes()
    if found is None:
        raise UserError("this system does not tell a process's resident memory", hint="run it on Linux")
    return found


def _print_result(result: Soak) -> None:
    table = Table("pictures", f"MB, {result.precision} on {result.backend}", box=None, header_style="bold", pad_edge=False)
    for sample in result.samples:
        table.add_row(str(sample.pictures), f"{sample.rss_bytes / 1e6:.0f}")
    console.out.print(table)
    console.show(
        f"{result.backend} grew by {result.growth_bytes / 1e6:.0f} MB, by {result.late_growth_bytes / 1e6:.0f} MB in the second "
        f"half; {result.pictures_per_second:.1f} pictures per second"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m benchmarks.soak")


if __name__ == "__main__":
    main()
