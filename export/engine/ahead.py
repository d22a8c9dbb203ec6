"""Compile an engine ahead of time and say what was made: a bundle, a compiler and sizes in, lines of a terminal out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping

import typer

from export.engine.compilers import CompilerEntry
from export.engine.profile import Size, choose_profile
from export.engine.stage import CompileOptions, compile_engine
from runtime.backends.compiled_engines import CompiledRecord
from runtime.backends.engines import ShapeProfile
from runtime.bundle import Bundle, Io
from runtime.errors import UserError
from runtime.targets import Precision
from runtime.terminal import console

_DEFAULT_SIDE = 128  # pixels per side: the size that every figure of this project is of


def compile_ahead(
    bundle: Bundle,
    entry: CompilerEntry,
    precision: Precision,
    *,
    io: Io,
    architectures: tuple[str, ...],
    sizes: Mapping[str, Size | None],
    allow_fallback: bool,
) -> None:
    """Compile the engine, unless the one there is has the same key; print what it is, what its layers run in and what is unproven.

    `sizes` has the (H, W) given with --window, --min, --opt and --max, None where one was not.
    """
    profile = _profile(bundle, entry, sizes)
    options = CompileOptions(io=io, architectures=architectures, profile=profile, allow_fallback=allow_fallback)
    began = time.perf_counter()
    with console.progress() as bar:
        task = bar.add_task(f"compiling for {entry.name}", total=None)

        def on_step(doing: str, done: int, total: int) -> None:
            bar.update(task, description=doing, completed=done, total=total or None)

        outcome = compile_engine(bundle, entry, precision, options, on_step=on_step)
    if outcome.reused:
        console.show(f"{outcome.path}: up to date")
        return
    for line in outcome.differences:
        console.show(f"compiled anew: {line}")
    seconds = time.perf_counter() - began
    key = outcome.record.key
    pixels = " of raw pixels" if key.io == "uint8" else ""
    console.show(f"{outcome.path}: {precision} engine{pixels} by {entry.name} {key.version}, in {seconds:.0f} s")
    for line in _described(outcome.record):
        console.show(f"  {line}")
    console.show(f"  plan    {outcome.path.parent / outcome.record.plan.file}, sha256 {outcome.record.plan.sha256}")
    for layer in outcome.record.other_precision:
        typer.echo(f"(!) not {precision}: {layer}", err=True)


def _described(record: CompiledRecord) -> Iterator[str]:
    key = record.key
    if key.architectures:
        yield f"for     {', '.join(key.architectures)}"
    yield f"takes   {key.profile if key.profile is not None else 'pictures of every size that the graph takes'}"
    yield f"size    {record.size_bytes / 1e6:.2f} MB"
    units = Counter((layer.precision, layer.unit) for layer in record.layers)
    yield "layers  " + ", ".join(f"{count} {ran_in} on {unit}" for (ran_in, unit), count in units.most_common())
    for estimate in record.estimates:
        yield f"        {estimate.architecture}: {estimate.what} {estimate.value:g} {estimate.unit}, estimated by {estimate.by}"
    for sentence in record.unproven:
        yield f"unproven: {sentence}"


def _profile(bundle: Bundle, entry: CompilerEntry, sizes: Mapping[str, Size | None]) -> ShapeProfile | None:
    """Return the sizes that the engine is to take; None where it takes all, as a compiler does that needs none."""
    contract = bundle.manifest.contract
    one, ranged = sizes["--window"], {option: size for option, size in sizes.items() if option != "--window" and size is not None}
    if one is not None and ranged:
        raise UserError(f"--window is one size, {', '.join(ranged)} a range", hint="leave --window out, or the others")
    if entry.fixed_size and ranged:
        raise UserError(f"an engine of {entry.name} takes pictures of one size, not {', '.join(ranged)}", hint="--window 128x128")
    if entry.fixed_size and contract.static_shape is None:
        one = one or contract.filled_size((_DEFAULT_SIDE, _DEFAULT_SIDE))
    if one is not None:
        return choose_profile(bundle.manifest, least=one, best=one, most=one, batch=1)
    if contract.static_shape is None and not ranged and not entry.ranged:
        return None
    return choose_profile(bundle.manifest, least=sizes["--min"], best=sizes["--opt"], most=sizes["--max"], batch=1)
