"""python -m sredge upscale|info|pack on a device, python -m runtime in a checkout: a bundle and pictures in, pictures out."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .backends import BACKENDS
from .batch.jobs import Job, check_outputs, find_jobs, run_jobs, share_of
from .batch.progress import TileBars
from .bundle import Bundle, find_io, pack_bundle, resolve_bundle, sha256_bytes
from .describe import describe
from .errors import PROGRAM, BundleError, ImageError, UserError
from .files.whole import write_whole
from .images import read_file, read_image
from .pictures.decode import Decoded, decode
from .pictures.encode import make_writer, open_writer
from .targets import PRECISIONS, TARGETS, find_precision, find_target
from .terminal import console
from .terminal.commands import Command, group
from .tiles.memory import parse_bytes
from .tiles.seams import SeamError
from .upscaler import Upscaler
from .verify.pairs import only_for
from .verify.value_check import VERIFY, find_verify

_HELP = "Run a bundle's network: upscale pictures, say what a bundle holds, pack it."
COMMANDS = (
    Command("upscale", __name__, "upscale pictures", within="upscale"),
    Command("info", __name__, "say what a bundle holds, and which of its graphs run here", within="info"),
    Command("pack", __name__, "pack a bundle into one file", within="pack"),
)

app = console.application(_HELP)

BundleArgument = Annotated[Path | None, typer.Option("--bundle", help="the bundle [default: the only one under build/]")]


_PIPE = Path("-")


@app.command()
def upscale(
    pictures: Annotated[list[Path], typer.Argument(metavar="IN…", help="picture files, folders of them, or - for stdin")],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", help="where the result goes: a file, whose suffix is its format, a folder, or - for a PNG to stdout"
        ),
    ],
    bundle: BundleArgument = None,
    precision: Annotated[
        str | None, typer.Option(help=f"the graph: {', '.join(PRECISIONS)} [default: int8 where the bundle has it, else fp32]")
    ] = None,
    io: Annotated[
        str | None,
        typer.Option(help="what graphs take and give: float32, uint8 for raw pixels [default: floats where there is one]"),
    ] = None,
    backend: Annotated[
        str, typer.Option(help=f"what runs the graph: auto, {', '.join(entry.name for entry in BACKENDS)}")
    ] = "auto",
    device: Annotated[
        str | None, typer.Option(help="the device, as the backend calls it [default: CPU; of tensorrt the first GPU]")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help=f"the accelerator: {', '.join(known.name for known in TARGETS)} [default: whichever fits best]"),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="threads [default: the backend's own choice]")] = None,
    parallel: Annotated[int, typer.Option(min=1, help="runs of the network at a time")] = 1,
    cache: Annotated[
        Path | None, typer.Option(help="a folder where openvino and onnxruntime-rtx keep compiled graphs for the next start")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="what pictures and tiles may take, 2G for instance [default: tiles a quarter of what is free]"),
    ] = None,
    tile: Annotated[
        int | None, typer.Option(min=1, help="pixels per side that a tile keeps [default: what --memory allows]")
    ] = None,
    verify: Annotated[
        str, typer.Option(help=f"hold the backend against the graph simulated: {', '.join(VERIFY)} (once a machine and graph)")
    ] = "once",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace results that are there already")] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="also write NAME-compare: bicubic and the network side by side")
    ] = False,
) -> None:
    """Upscale pictures: PNG, JPEG, WebP, TIFF, GIF or BMP, grey or colour, 8 or 16 bits."""
    chosen = None if precision is None else find_precision(precision)
    memory_bytes = None if memory is None else parse_bytes(memory, option="--memory")
    piped = _PIPE in (out, *pictures)
    if piped:
        _check_pipe(pictures, compare=compare, out=out, overwrite=overwrite)
    jobs = [] if piped else list(find_jobs(pictures, out))
    left = [] if overwrite else [job for job in jobs if _already_there(job, compare=compare)]
    if left and len(jobs) == 1:
        raise ImageError(f"{_already_there(left[0], compare=compare)[0]} is there already", hint="--overwrite replaces it")
    if left:
        jobs = [job for job in jobs if job not in set(left)]
    check_outputs(jobs, compare=compare, in_place=jobs == [Job(pictures[0], out)])
    with Upscaler.open(
        Bundle.open(resolve_bundle(bundle)),
        precision=chosen,
        io=None if io is None else find_io(io),
        target=target,
        backend=backend,
        device=device,
        threads=threads,
        parallel=parallel,
        cache=cache,
        memory_bytes=memory_bytes,
        tile=tile,
        verify=find_verify(verify),
    ) as upscaler:
        target = "" if upscaler.variant.target is None else f", the graph for {upscaler.variant.target}"
        ran = f"{upscaler.variant.precision} on {upscaler.backend_name}{target}"
        if piped:
            _run_piped(upscaler, pictures[0], out)
        else:
            _run(upscaler, jobs, compare=compare, ran=ran)
        if left:
            console.show(f"{len(left)} left as they are: their results are there already (--overwrite replaces them)")
        if not upscaler.precision_report.verified:
            typer.echo(f"(!) it ran in {upscaler.precision_report}", err=out == _PIPE)


def _already_there(job: Job, *, compare: bool) -> list[Path]:
    return [path for path in job.outputs(compare=compare) if os.path.lexists(path)]


def _run(upscaler: Upscaler, jobs: Sequence[Job], *, compare: bool, ran: str) -> None:
    """Run jobs with progress on stderr and a line each on stdout; one that fails is reported at the end."""
    failed = []
    began, megapixels = time.perf_counter(), 0.0
    with console.progress() as bar:
        shown = TileBars(bar, pictures=len(jobs))
        with closing(run_jobs(upscaler, jobs, compare=compare, on_tile=shown.on_tile)) as outcomes:
            for outcome in outcomes:
                if outcome.error is not None:
                    failed.append(outcome.error)
                else:
                    megapixels += outcome.megapixels
                    (height, width), (tall, wide) = outcome.source_size, outcome.result_size
                    console.show(f"{outcome.job.result}: {width}×{height} -> {wide}×{tall}, {ran}")
                    _show_seams(upscaler, outcome.job.result, outcome.seam_error)
                shown.on_picture(outcome.job, megapixels_per_s=megapixels / (time.perf_counter() - began))
    seconds = time.perf_counter() - began
    if len(jobs) == 1 and failed:
        raise failed[0]
    if len(jobs) > 1:
        done = len(jobs) - len(failed)
        console.show(f"{done} pictures in {seconds:.1f} s: {done / seconds:.2f} per second, {megapixels / seconds:.2f} MP/s")
    for error in failed:
        typer.echo(f"error: {error}", err=True)
    if failed:
        raise ImageError(
            f"{len(failed)} of {len(jobs)} pictures failed; the others are written", hint="mend those and run it again"
        )


def _check_pipe(pictures: Sequence[Path], *, compare: bool, out: Path, overwrite: bool) -> None:
    if len(pictures) > 1:
        raise UserError("a pipe takes one picture", hint=f"{PROGRAM} upscale - -o - < IN.png > OUT.png")
    if compare:
        raise UserError("--compare writes a second file, which a pipe has not", hint="name files instead of -")
    if out == _PIPE and sys.stdout.isatty():
        raise UserError("stdout is a terminal, which shows no picture", hint="-o FILE, or > FILE")
    if out != _PIPE and os.path.lexists(out) and not overwrite:
        raise ImageError(f"{out} is there already", hint="--overwrite replaces it")


def _run_piped(upscaler: Upscaler, source: Path, out: Path) -> None:
    """From stdin, or to stdout as PNG, or both."""
    with share_of(upscaler, () if out == _PIPE else (out,)) as share:
        if source == _PIPE:
            image = decode(read_file(sys.stdin.buffer, name="stdin"), name="stdin", admit=share.admit)
        else:
            share.check_file(source)
            image = read_image(source, admit=share.admit)
        _write_piped(upscaler, image, Job(source, out), held_bytes=share.held_bytes)


def _write_piped(upscaler: Upscaler, image: Decoded, job: Job, *, held_bytes: int) -> None:
    shape = (*upscaler.plan(image.pixels).size, *image.pixels.shape[2:])
    with console.progress() as bar:
        shown = TileBars(bar, pictures=1)
        bands = upscaler.bands(image.pixels, held_bytes=held_bytes, on_tile=partial(shown.on_tile, job))
        if job.result != _PIPE:
            with open_writer(job.result, shape, image.pixels.dtype, icc_profile=image.icc_profile) as writer:
                for band in bands:
                    writer.write(band)
        else:
            first = next(bands)  # before a header is written: what fails in the network leaves stdout empty
            stdout, profile = sys.stdout.buffer, image.icc_profile
            to_stdout = make_writer(stdout, ".png", shape, image.pixels.dtype, icc_profile=profile, name="stdout")
            for band in itertools.chain([first], bands):
                to_stdout.write(band)
            to_stdout.finish()
            stdout.flush()
    _show_seams(upscaler, job.source, bands.seam_error, err=job.result == _PIPE)


def _show_seams(upscaler: Upscaler, picture: Path, error: SeamError | None, *, err: bool = False) -> None:
    if error is not None:
        model = upscaler.bundle.manifest.model
        typer.echo(f"(!) {picture}: {model} looks at the whole picture and was run in tiles: {error}", err=err)


@app.command()
def info(
    bundle: Annotated[Path | None, typer.Argument(help="the bundle [default: the only one under build/]")] = None,
    target: Annotated[
        str | None, typer.Option(help=f"the accelerator: {', '.join(known.name for known in TARGETS)} [default: all]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the result as JSON: the manifest itself")] = False,
) -> None:
    """Say what a bundle holds, after verifying it, and which of it would run here."""
    opened = Bundle.open(resolve_bundle(bundle))
    if target is not None:
        opened = only_for(opened, find_target(target))
    if as_json:
        console.show(opened.manifest.model_dump_json(indent=1))
        return
    for line in describe(opened):
        console.show(line)


@app.command()
def pack(
    out: Annotated[Path, typer.Option("-o", "--out", help="where the result goes: the file")],
    bundle: Annotated[Path | None, typer.Argument(help="the bundle [default: the only one under build/]")] = None,
) -> None:
    """Pack a bundle into one file, which opens as the folder does."""
    packed = pack_bundle(Bundle.open(resolve_bundle(bundle)))
    try:
        write_whole(out, packed)
    except OSError as error:
        raise BundleError(f"cannot write {out}: {error.strerror or error}", hint="-o another file") from error
    console.show(f"{out}: {len(packed)} bytes, sha256 {sha256_bytes(packed)}")


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name=f"python -m {__package__}")


def sredge() -> None:
    """Run the `sredge` command of the wheel; in a checkout .checkout/sredge/cli.py has the workstation's commands, too."""
    hint = "export, quantize, benchmarks and the like are the workstation's: a checkout of the project has them"
    console.run(group(COMMANDS, help_text=_HELP, unknown_hint=hint), None, name="sredge")
