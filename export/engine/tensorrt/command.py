"""Build an engine for this machine's GPU and say what was built: a bundle and options in, lines of a terminal out."""

from __future__ import annotations

import time

import typer

from export.engine.tensorrt.stage import EngineOptions, build_engine
from runtime.bundle import Bundle
from runtime.targets import Precision
from runtime.terminal import console


def build_here(bundle: Bundle, precision: Precision, options: EngineOptions) -> None:
    """Build the engine, unless the one there is has the same key; print what it is and what it differs in."""
    began = time.perf_counter()
    with console.progress() as bar:
        task = bar.add_task("building", total=None)

        def on_step(doing: str, done: int, total: int) -> None:
            bar.update(task, description=doing, completed=done, total=total or None)

        outcome = build_engine(bundle, precision, options, on_step=on_step)
    key, record = outcome.record.key, outcome.record
    pixels = " of raw pixels" if options.io == "uint8" else ""
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
        f"{outcome.path}: {precision} engine{pixels} for {key.gpu}, TensorRT {key.tensorrt}, in {time.perf_counter() - began:.0f} s"
    )
    console.show(f"  takes   {key.profile}")
    console.show(f"  plan    {outcome.path.parent / record.plan.file}, sha256 {record.plan.sha256}")
    for layer in record.other_precision:
        typer.echo(f"(!) not {precision}: {layer}", err=True)
