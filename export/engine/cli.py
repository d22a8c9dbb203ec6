"""python -m export.engine [BUNDLE] --precision fp16: a bundle in, the bundle with a TensorRT engine for this machine out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer

from export.engine.profile import choose_profile
from runtime.backends import choose_backend, load_backend
from runtime.backends.engines import HardwareCompatibility
from runtime.bundle import Bundle, Io, find_io, resolve_bundle
from runtime.errors import BackendError, UnknownNameError
from runtime.targets import Precision, find_precision
from runtime.terminal import console

_BACKEND = "tensorrt"
_LEVELS: tuple[HardwareCompatibility, ...] = get_args(HardwareCompatibility)

app = console.application("Build a TensorRT engine of a bundle's graph, for the GPU of this machine.")


@app.command()
def engine(
    bundle: Annotated[Path | None, typer.Argument(help="the bundle [default: the only one under build/]")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help=f"the graph: fp32, fp16, int8 [default: int8 where the bundle has it for {_BACKEND}, else fp32]"),
    ] = None,
    io: Annotated[str, typer.Option(help="what graphs take and give: float32, uint8 for raw pixels")] = "float32",
    least: Annotated[str | None, typer.Option("--min", metavar="HxW", help="the smallest picture [default: 16x16]")] = None,
    best: Annotated[str | None, typer.Option("--opt", metavar="HxW", help="the size to be fastest at [default: --max]")] = None,
    most: Annotated[
        str | None,
        typer.Option("--max", metavar="HxW", help="the largest picture; larger ones run in tiles [default: 512x512 at most]"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="pictures at a time: the largest batch")] = 1,
    workspace: Annotated[
        int | None, typer.Option(min=1, metavar="MiB", help="memory that a layer may take while it runs [default: all there is]")
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="timings kept from build to build [default: one in BUNDLE/engines]")
    ] = None,
    tf32: Annotated[bool, typer.Option("--tf32", help="let fp32 convolutions round their inputs to TF32")] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="also for later TensorRT versions of the same major; slower")
    ] = False,
    hardware_compatible: Annotated[
        str, typer.Option(metavar="LEVEL", help=f"also for other GPUs: {', '.join(_LEVELS)}; slower")
    ] = "none",
    refit: Annotated[
        bool, typer.Option("--refit", help="an engine that takes other weights of the same graph, in seconds")
    ] = False,
    allow_fallback: Annotated[
        bool, typer.Option("--allow-fallback", help="accept layers that run in another precision than asked for")
    ] = False,
    device: Annotated[str | None, typer.Option(help="the device, cuda:0 for instance [default: the first]")] = None,
) -> None:
    """Build the engine, check what each of its layers runs in, and put it into the bundle; the same one is not built twice."""
    entry = choose_backend(_BACKEND)
    asked = None if precision is None else find_precision(precision)
    if asked is not None and asked not in entry.precisions:
        raise UnknownNameError("precision of engines", asked, valid=entry.precisions)
    ends, level = find_io(io), _find_level(hardware_compatible)
    opened = Bundle.open(resolve_bundle(bundle))
    chosen = asked or _best_precision(opened, io=ends)
    sizes = [
        None if text is None else console.parse_size(text, option=option)
        for text, option in ((least, "--min"), (best, "--opt"), (most, "--max"))
    ]
    profile = choose_profile(opened.manifest, least=sizes[0], best=sizes[1], most=sizes[2], batch=batch)
    load_backend(entry)
    try:
        from export.engine.stage import EngineOptions, build_engine  # imports tensorrt, whose absence was to be told first
    except ModuleNotFoundError as error:
        raise BackendError(f"python -m export.engine needs {error.name}", hint=entry.install) from error
    options = EngineOptions(
        profile=profile,
        io=ends,
        workspace_mib=workspace,
        tf32=tf32,
        version_compatible=version_compatible,
        hardware_compatible=level,
        refit=refit,
        timing_cache=timing_cache,
        allow_fallback=allow_fallback,
        device=device,
    )
    began = time.perf_counter()
    with console.progress() as bar:
        task = bar.add_task("building", total=None)

        def on_step(doing: str, done: int, total: int) -> None:
            bar.update(task, description=doing, completed=done, total=total or None)

        outcome = build_engine(opened, chosen, options, on_step=on_step)
    key, record = outcome.record.key, outcome.record
    pixels = " of raw pixels" if ends == "uint8" else ""
    if outcome.reused:
        console.show(f"{outcome.path}: up to date")
        return
    if outcome.why_not_refitted:
        console.show(f"not refitted: {outcome.why_not_refitted}")
    for line in outcome.differences:
        console.show(f"{'refitted' if outcome.refitted else 'built anew'}: {line}")
    if not outcome.cache_fitted:
        typer.echo("the timing cache was of another TensorRT or GPU and was begun anew", err=True)
    console.show(
        f"{outcome.path}: {chosen} engine{pixels} for {key.gpu}, TensorRT {key.tensorrt}, in {time.perf_counter() - began:.0f} s"
    )
    console.show(f"  takes   {key.profile}")
    console.show(f"  plan    {outcome.path.parent / record.plan.file}, sha256 {record.plan.sha256}")
    for layer in record.other_precision:
        typer.echo(f"(!) not {chosen}: {layer}", err=True)


def _best_precision(bundle: Bundle, *, io: Io) -> Precision:
    int8 = bundle.manifest.find_variant("int8", target=_BACKEND, io=io)
    return "fp32" if int8 is None else "int8"


def _find_level(name: str) -> HardwareCompatibility:
    for level in _LEVELS:
        if level == name:
            return level
    raise UnknownNameError("level of hardware compatibility", name, valid=_LEVELS)


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m export.engine")
