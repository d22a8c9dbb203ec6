"""python -m export.engine [BUNDLE] --for COMPILER: a bundle in, the bundle with an engine of one of its graphs out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.table import Table

from export.engine.ahead import compile_ahead
from export.engine.compilers import COMPILERS, CompilerEntry, find_compiler
from export.engine.profile import choose_profile
from export.engine.stage import best_precision
from runtime.backends import choose_backend, load_backend
from runtime.backends.engines import HardwareCompatibility
from runtime.bundle import Bundle, find_io, resolve_bundle
from runtime.errors import BackendError, UnknownNameError, UserError
from runtime.targets import find_precision
from runtime.terminal import console

_LEVELS: tuple[HardwareCompatibility, ...] = get_args(HardwareCompatibility)
_NAMES = ", ".join(entry.name for entry in COMPILERS)

app = console.application("Compile a bundle's graph to an engine: for the GPU of this machine, or ahead of time for other devices.")


@app.command()
def engine(
    bundle: Annotated[Path | None, typer.Argument(help="the bundle [default: the only one under build/]")] = None,
    compiler: Annotated[str, typer.Option("--for", help=f"whose compiler: {_NAMES}; --list says which are installed")] = "tensorrt",
    list_compilers: Annotated[
        bool, typer.Option("--list", help="list the compilers, what is installed, how to get the rest")
    ] = False,
    architecture: Annotated[
        str | None,
        typer.Option("--architecture", "--compute-capability", metavar="A,B", help="devices to compile for; --list names them"),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="the graph: fp32, fp16, int8 [default: int8 where the bundle has it for the compiler, else fp32]"),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="the accelerator: whose int8 graph [default: the best of those that the compiler takes]")
    ] = None,
    io: Annotated[str, typer.Option(help="what graphs take and give: float32, uint8 for raw pixels")] = "float32",
    window: Annotated[
        str | None, typer.Option("--window", metavar="HxW", help="the one size to take; larger pictures run in tiles of it")
    ] = None,
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
    if list_compilers:
        console.out.print(_table())
        return
    entry = find_compiler(compiler).for_target(target)
    asked = None if precision is None else find_precision(precision)
    if asked is not None and asked not in entry.precisions:
        raise UnknownNameError("precision of engines", asked, valid=entry.precisions)
    entry.check_installed()
    ends, level = find_io(io), _find_level(hardware_compatible)
    architectures = entry.choose_architectures(architecture)
    opened = Bundle.open(resolve_bundle(bundle))
    chosen = asked or best_precision(opened, entry, io=ends)
    sizes = {
        option: None if text is None else console.parse_size(text, option=option)
        for option, text in (("--window", window), ("--min", least), ("--opt", best), ("--max", most))
    }
    if not entry.on_this_machine:
        _refuse_options_of_tensorrt(
            entry,
            {
                "--batch": batch != 1,
                "--workspace": workspace is not None,
                "--timing-cache": timing_cache is not None,
                "--tf32": tf32,
                "--version-compatible": version_compatible,
                "--hardware-compatible": level != "none",
                "--refit": refit,
                "--device": device is not None,
            },
        )
        compile_ahead(opened, entry, chosen, io=ends, architectures=architectures, sizes=sizes, allow_fallback=allow_fallback)
        return
    fixed = sizes["--window"]
    if fixed is not None and any((least, best, most)):
        raise UserError("--window is one size, --min, --opt and --max are a range", hint="leave --window out, or the others")
    profile = choose_profile(
        opened.manifest, least=fixed or sizes["--min"], best=fixed or sizes["--opt"], most=fixed or sizes["--max"], batch=batch
    )
    load_backend(choose_backend(entry.name))
    try:
        from export.engine.tensorrt.command import build_here  # imports tensorrt, whose absence was to be told first
        from export.engine.tensorrt.stage import EngineOptions
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
    build_here(opened, chosen, options)


def _table() -> Table:
    """Return a row per compiler: whether it is installed, what it can compile for, and how to get it."""
    table = Table("--for", "for", "here", "--architecture", box=None, pad_edge=False)
    for entry in COMPILERS:
        here = "installed" if not entry.missing else f"not installed: {entry.install}"
        table.add_row(entry.name, entry.description, here, ", ".join(entry.architectures) or "–")
    return table


def _refuse_options_of_tensorrt(entry: CompilerEntry, given: dict[str, bool]) -> None:
    for option, is_given in given.items():
        if is_given:
            raise UserError(f"{option} is an option of --for tensorrt; {entry.name} has no such", hint=f"leave {option} out")


def _find_level(name: str) -> HardwareCompatibility:
    for level in _LEVELS:
        if level == name:
            return level
    raise UnknownNameError("level of hardware compatibility", name, valid=_LEVELS)


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m export.engine")
