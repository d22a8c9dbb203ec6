"""python -m export.train MODEL --scale S --data DIR: photographs in, weights and a log out."""

from __future__ import annotations

import hashlib
import json
import shlex
import signal
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import safetensors.torch
import typer
from torch import Tensor

from export.checkpoints import load_state_dict
from export.models import NETWORKS, Network, find_network
from export.train.log import draw_log, read_log, write_log
from export.train.patches import Photograph, find_photographs, load_photographs
from export.train.recipe import Progress, Recipe, Training, fitting, measure_psnr_db, run
from runtime.bundle import BUILD, sha256_file
from runtime.errors import UserError, WeightsError
from runtime.files.whole import check_writable, write_whole
from runtime.terminal import console

_HALF_COSTS_AT_MOST_DB = 0.001  # what storing the weights as float16 may cost
_LARGE = 4096  # values; smaller tensors are a hundredth of the file, and the last layer, one of them, is most of the cost
_DEFAULT = Recipe(model="", scale=1)
_SIZES = ",".join(f"{size:g}" for size in _DEFAULT.sizes)

app = console.application("Train a network, or fine-tune one, on a folder of photographs.")


@app.command()
def train(
    model: Annotated[str, typer.Argument(help=f"the network: {', '.join(network.name for network in NETWORKS)}")],
    scale: Annotated[int, typer.Option(help="how many times larger the picture becomes")],
    data: Annotated[Path, typer.Option(help="pictures: a folder of pictures, those in folders below it too")],
    held_out: Annotated[
        Path | None, typer.Option(help="folder of photographs to measure PSNR on [default: one in forty of --data]")
    ] = None,
    init: Annotated[Path | None, typer.Option(help="checkpoint to start from; tensors of other shapes start anew")] = None,
    steps: Annotated[int, typer.Option(min=40, help="how many times weights are updated")] = _DEFAULT.steps,
    batch: Annotated[int, typer.Option(min=1, help="pictures at a time: patches per step")] = _DEFAULT.batch,
    patch: Annotated[int, typer.Option(min=8, help="pixels per side of a patch, as the network is given it")] = _DEFAULT.patch,
    rate: Annotated[float, typer.Option(min=0.0, help="step size at the top of the one-cycle rate")] = _DEFAULT.peak_rate,
    sizes: Annotated[str, typer.Option(help="each photograph is trained on at these, relative to its own")] = _SIZES,
    seed: Annotated[int, typer.Option(min=0, help="seed of what is random: patches, and weights that start anew")] = _DEFAULT.seed,
    report_every: Annotated[int, typer.Option(min=1, help="steps between lines of the log, each with a checkpoint")] = 500,
    out: Annotated[
        Path | None,
        typer.Option(help="where the result goes: the .safetensors file [default: build/train/MODEL_xSCALE.safetensors]"),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="begin anew where there is a checkpoint to go on from")] = False,
) -> None:
    """Train a network; typed again, the same command goes on where it was stopped."""
    network = find_network(model, scale=scale)
    out = out if out is not None else BUILD / "train" / f"{network.name}_x{scale}.safetensors"
    _check_out(out)
    files, kept = find_photographs(data, held_out=held_out)
    recipe = Recipe(
        model=network.name,
        scale=scale,
        steps=steps,
        batch=batch,
        patch=patch,
        peak_rate=rate,
        seed=seed,
        init_sha256="" if init is None else _hash_init(init),
        data_sha256=_hash_files(files),
        sizes=_parse_sizes(sizes),
    )
    training = Training(network, recipe, init=None if init is None else _load_init(init, network, scale))
    checkpoint = out.with_suffix(".checkpoint.pt")
    if checkpoint.is_file() and not restart:
        training.resume(checkpoint)
        console.show(f"going on from step {training.step} of {steps}, as {checkpoint} has it")
    photographs, held = _load(files, network, recipe, sizes=recipe.sizes), _load(kept, network, recipe)
    reports = read_log(out.with_suffix(".csv"), up_to=training.step)
    with console.stopped_by(raising=False) as interrupted, console.progress() as bar:
        task = bar.add_task(f"{network.name} x{scale}", total=steps, completed=training.step)

        def on_step(step: int, loss: float) -> None:
            best = f", held out {reports[-1].held_out_db:.2f} dB" if reports else ""
            bar.update(task, completed=step, description=f"{network.name} x{scale}: loss {loss:.4f}{best}")

        def on_report(report: Progress) -> None:
            reports.append(report)
            training.save(checkpoint)
            write_log(out.with_suffix(".csv"), reports)

        run(
            training,
            photographs,
            held,
            report_every=report_every,
            on_step=on_step,
            on_report=on_report,
            should_stop=lambda: bool(interrupted),
        )
        if interrupted:
            training.save(checkpoint)
    if interrupted:
        console.say(f"{checkpoint} has step {training.step}; the same command goes on from there")
        signal.raise_signal(interrupted[0])
    stored, held_out_db = _write_weights(training, held, out)
    described = {**asdict(recipe), "photographs": len(files), "held_out_db": held_out_db, "stored": stored}
    write_whole(out.with_suffix(".json"), json.dumps({**described, "sha256": sha256_file(out)}, indent=1).encode() + b"\n")
    title = f"{network.name} x{scale}, {len(files)} photographs, batch {batch} of {patch}×{patch}, peak rate {rate:g}, seed {seed}"
    write_whole(out.with_suffix(".png"), draw_log(reports, title=title))
    _print_result(out, stored, training.step, held_out_db)


def _check_out(out: Path) -> None:
    if out.suffix != ".safetensors":
        raise UserError(
            f"--out {out}: weights are written as .safetensors", hint=f"--out {shlex.quote(str(out.with_suffix('.safetensors')))}"
        )
    try:
        check_writable(out)
    except OSError as error:
        raise UserError(f"cannot write to {out.parent}: {error.strerror or error}", hint="choose another --out") from error


def _parse_sizes(sizes: str) -> tuple[float, ...]:
    try:
        parsed = tuple(float(size) for size in sizes.split(","))
    except ValueError:
        parsed = ()
    if not parsed or not all(0 < size <= 1 for size in parsed):
        raise UserError(f"--sizes {sizes}: sizes are numbers above 0 and at most 1, with commas between", hint=f"--sizes {_SIZES}")
    return parsed


def _hash_init(init: Path) -> str:
    if not init.is_file():
        raise WeightsError(f"--init {init}: there is no such file", hint="give the path of a .pth or .safetensors file")
    return sha256_file(init)


def _load_init(init: Path, network: Network, scale: int) -> dict[str, Tensor]:
    module = network.build(scale)
    state = load_state_dict(init, count_fitting=lambda state: len(fitting(module, state)))
    taken, wanted = len(fitting(module, state)), len(module.state_dict())
    if not taken:
        raise WeightsError(f"--init {init}: none of its tensors fits {network.name} x{scale}")
    console.show(f"{taken} of {wanted} tensors start from {init}")
    return state


def _hash_files(files: Sequence[Path]) -> str:
    return hashlib.sha256("".join(f"{path.name} {path.stat().st_size}\n" for path in files).encode()).hexdigest()


def _load(files: Sequence[Path], network: Network, recipe: Recipe, *, sizes: Sequence[float] = (1.0,)) -> list[Photograph]:
    with console.progress() as bar:
        task = bar.add_task("reading photographs", total=len(files))
        return load_photographs(
            files,
            network,
            scale=recipe.scale,
            smallest=recipe.patch,
            on_step=lambda done, _: bar.update(task, completed=done),
            sizes=sizes,
        )


def _write_weights(training: Training, held_out: Sequence[Photograph], out: Path) -> tuple[str, float]:
    """Write the averaged weights, large tensors as float16 where that costs next to nothing; says which, and their PSNR."""
    module, scale = training.averaged, training.recipe.scale
    whole = {key: value.cpu().contiguous() for key, value in module.state_dict().items()}
    before = measure_psnr_db(module, held_out, scale=scale)
    half = {key: value.half() if value.is_floating_point() and value.numel() >= _LARGE else value for key, value in whole.items()}
    module.load_state_dict(half)
    cost = before - measure_psnr_db(module, held_out, scale=scale)
    module.load_state_dict(whole)
    kept, name = (half, "float16") if cost < _HALF_COSTS_AT_MOST_DB else (whole, "float32")
    write_whole(out, safetensors.torch.save(kept))
    return f"{name} (float16 costs {cost:.5f} dB)", before


def _print_result(out: Path, stored: str, steps: int, held_out_db: float) -> None:
    console.show(f"{out}: {steps} steps, {held_out_db:.2f} dB on the held-out pictures")
    console.show(f"  stored   {stored}, {out.stat().st_size / 1e6:.2f} MB, sha256 {sha256_file(out)}")
    console.show(f"  log      {out.with_suffix('.csv')}, .png (plot), .json (recipe)")


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m export.train")
