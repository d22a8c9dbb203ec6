"""python -m quantize [BUNDLE] --calib NAME|DIR: options in; a bundle quantized, or a sentence that it is up to date, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import onnx
import onnx_ir as ir
import typer

from calibration.crops import CROP_SIZE, CROPS
from calibration.datasets import CALIB_HELP, DATA_HELP, MissingDatasetError, choose_pictures, download, find_images
from calibration.ranges import DEFAULT_PERCENTILE, Method, check_percentile
from export.graph.pixel_io import add_pixel_io
from quantize.choose_rewrites import measure_rewritten
from quantize.graph.qdq import RoundedWeight
from quantize.half.pixel_shuffle import PixelShuffle
from quantize.half.stage import HalfGraphs, half_precisions_of
from quantize.int8 import check_steps
from quantize.options import FAST_CROP_SIZE, STEPS, Effort, Int8Options, find_steps
from quantize.search.cli import make_budget, search
from quantize.stage import check_target, load_fp32, quantize_bundle, quantized_already, try_half_graphs
from quantize.summary import show_checks, show_missing, show_result
from quantize.tables import FoundTable, TableRequest, look_for_table
from runtime.backends import BACKENDS
from runtime.bundle import Bundle, Io, check_writable, find_io, resolve_bundle
from runtime.errors import UserError
from runtime.targets import TARGETS, Precision, Target, find_target
from runtime.terminal import console
from runtime.terminal.commands import Command, beside
from runtime.verify.faithful import BackendCheck

_EXPLAIN = Command("explain", "quantize.explain.cli", "say where int8 loses what it loses: layers, pictures, colours")

_CROP_SIZE_HELP = "size of a crop [default: {}x{}, with --effort fast {}x{}]".format(*CROP_SIZE, *FAST_CROP_SIZE)

app = console.application("Quantize a bundle's network to INT8.")


@app.command(cls=beside(_EXPLAIN))
def quantize(
    bundle: Annotated[Path | None, typer.Argument(help="the bundle [default: the only one under build/]")] = None,
    calib: Annotated[str | None, typer.Option(help=f"{CALIB_HELP}, or a calibration table (.json)")] = None,
    data: Annotated[str | None, typer.Option(help=DATA_HELP)] = None,
    target: Annotated[str, typer.Option(help=f"the accelerator: {', '.join(known.name for known in TARGETS)}")] = "cpu",
    method: Annotated[Method, typer.Option(help="how ranges inside the network follow from statistics")] = Method.PERCENTILE,
    percentile: Annotated[
        float | None, typer.Option(help=f"of values that a range holds, for that method [default: {DEFAULT_PERCENTILE}]")
    ] = None,
    fetch: Annotated[bool, typer.Option("--download", help="download the data set first, if it is not here")] = False,
    crops: Annotated[int | None, typer.Option(min=1, help=f"how many crops of the pictures [default: {CROPS}]")] = None,
    crop_size: Annotated[str | None, typer.Option(metavar="HxW", help=_CROP_SIZE_HELP)] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="seed of what is random: the choice of pictures and crops [default: 0]")
    ] = None,
    effort: Annotated[
        Effort, typer.Option(help="effort against what int8 loses: seconds, layer by layer, or minutes of distillation after that")
    ] = Effort.BALANCED,
    without: Annotated[
        list[str] | None, typer.Option(metavar="STEP", help=f"what to leave out, again for more: {', '.join(STEPS)}")
    ] = None,
    equalize: Annotated[
        bool | None,
        typer.Option(
            "--equalize/--no-equalize",
            help="scale channels to ranges that are more alike, exactly [default: as a given table was measured; else no, "
            "with --effort best if held-back pictures lose less]",
        ),
    ] = None,
    io: Annotated[
        str,
        typer.Option(help="what graphs take and give: uint8 also writes each of them for raw pixels, NHWC, clipped and rounded"),
    ] = "float32",
    pixel_shuffle: Annotated[
        PixelShuffle | None,
        typer.Option(
            help="where the target runs it on int8 alone, in fp16: an int8 island, written out, refused [default: island]"
        ),
    ] = None,
    keep_in_float: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-in-float",
            "--lift",
            metavar="LAYER",
            help="keep in float: a layer, an addition, LAYER.input; repeat for several",
        ),
    ] = None,
    max_drop_db: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="D", help="keep in float what PSNR needs to drop by no more than D dB, at the least measured latency"
        ),
    ] = None,
    min_int8_macs: Annotated[
        float | None, typer.Option(min=0, max=1, help="share of multiply-accumulates that then stays in int8 [default: 0]")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help=f"what runs the graph, and is timed: auto, {', '.join(entry.name for entry in BACKENDS)} [default: auto]"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="again even if nothing changed")] = False,
) -> None:
    """Quantize a bundle's network: calibrate, write its int8, fp16 and bf16 graphs."""
    chosen_target, ends = find_target(target), find_io(io)
    _check_method(chosen_target, method, percentile)
    percentile = DEFAULT_PERCENTILE if percentile is None else percentile
    check_percentile(percentile)
    pictures, root = choose_pictures(calib=calib, data=data)
    options = Int8Options(
        target=chosen_target,
        method=method,
        percentile=percentile,
        effort=effort,
        without=find_steps(without or ()),
        lifted=frozenset(keep_in_float or ()),
    )
    budget = make_budget(max_drop_db, min_int8_macs=min_int8_macs, backend=backend, lifted=options.lifted)
    opened = Bundle.open(resolve_bundle(bundle))
    check_writable(opened.directory)
    if pixel_shuffle is not None and not chosen_target.int8_only_ops:
        raise UserError(f"--pixel-shuffle has no effect with --target {target}", hint="drop one of the two")
    request = TableRequest(
        calib=pictures,
        root=root,
        percentile=percentile,
        measure_again=force,
        crops=crops,
        crop_size=None if crop_size is None else console.parse_size(crop_size, option="--crop-size"),
        usual_crop_size=options.usual_crop_size,
        seed=seed,
        equalize=equalize,
        mix=None if "mix-channels" in options.steps else False,
        choose_rewrites=options.chooses_rewrites,
    )
    shuffle = pixel_shuffle or PixelShuffle.ISLAND
    subject = _Subject(opened, load_fp32(opened), shuffle, force=force)
    check_target(opened, subject.model, chosen_target, pixel_shuffle=shuffle)
    if not pictures.endswith(".json"):  # a table comes without pictures to learn from
        check_steps(subject.model, options)
    if fetch and not _is_here(request, scale=opened.manifest.scale):
        _download(pictures, scale=opened.manifest.scale)
    found, half_graphs = _calibrate(subject, request, options, searching=budget is not None)
    if half_graphs is None:
        ended = _with_ends(opened, chosen_target, ends)
        console.show(f"{opened.directory}: up to date" if ended == opened else f"{opened.directory}: a graph of raw pixels added")
        return
    rounded = None
    if budget is not None:
        searched = search(opened, subject.model, request, found, options, budget=budget, backend=backend or "auto")
        options, rounded = replace(options, lifted=frozenset(searched.chosen.lifted)), searched.rounded
        if subject.is_done(found, options, half_graphs):
            console.show(f"{opened.directory}: up to date")
            _with_ends(opened, chosen_target, ends)
            return
    done, checks = _quantize(subject, found, options, rounded, half_graphs)
    show_result(_with_ends(done, chosen_target, ends), chosen_target, fp32_opset=opened.variant("fp32").opset)
    show_checks(checks)


@dataclass(frozen=True)
class _Subject:
    """The bundle that is quantized, its fp32 graph, parsed once, and how."""

    bundle: Bundle
    model: onnx.ModelProto
    pixel_shuffle: PixelShuffle
    force: bool

    def is_done(self, found: FoundTable, options: Int8Options, half_graphs: HalfGraphs | None = None) -> bool:
        """Return whether the bundle holds what quantizing it so would make."""
        return not self.force and quantized_already(
            self.bundle,
            found.table,
            options,
            compared=bool(found.crops),
            pixel_shuffle=self.pixel_shuffle,
            half_graphs=half_graphs,
            model=self.model,
        )


def _check_method(target: Target, method: Method, percentile: float | None) -> None:
    """Raise UserError where the way to choose ranges that was asked for has no effect."""
    if percentile is not None and method is not Method.PERCENTILE:
        raise UserError(f"--percentile has no effect with --method {method.value}", hint="drop one of the two")
    if target.has_wide_codes and (percentile is not None or method not in (Method.PERCENTILE, Method.MINMAX)):
        given = "--percentile" if percentile is not None else f"--method {method.value}"
        raise UserError(
            f"{given} has no effect with --target {target.name}, whose codes leave nothing to clip", hint=f"drop {given}"
        )


def _download(pictures: str, *, scale: float) -> None:
    with console.progress() as bar:
        task = bar.add_task(f"downloading {pictures}, MB", total=None)
        download(
            pictures,
            scale=scale,
            on_bytes=lambda done, total: bar.update(task, completed=done // 1_000_000, total=total // 1_000_000),
        )


def _calibrate(
    subject: _Subject, request: TableRequest, options: Int8Options, *, searching: bool
) -> tuple[FoundTable, HalfGraphs | None]:
    """Return the table and the half-precision graphs; no graphs where the bundle is up to date.

    What cannot be made in half precision is said before anything is measured.
    """
    graph = ir.from_proto(subject.model)
    with console.progress() as bar:
        task = bar.add_task("calibrating", total=None)

        def on_step(phase: str, done: int, total: int) -> None:
            bar.update(task, description=f"calibrating: {phase}", completed=done, total=total)

        looked = look_for_table(subject.bundle, request, graph.graph, target=options.target, on_step=on_step)
        if isinstance(looked, FoundTable) and not searching and subject.is_done(looked, options):
            console.show(f"calibration: {looked.origin}")
            return looked, None
        half_graphs = try_half_graphs(subject.bundle, subject.model, options.target)
        show_missing(half_graphs)
        manifest = subject.bundle.manifest
        found = (
            looked
            if isinstance(looked, FoundTable)
            else measure_rewritten(subject.model, looked, options, manifest=manifest, on_step=on_step)
        )
    console.show(f"calibration: {found.origin}")
    return found, half_graphs


def _quantize(
    subject: _Subject, found: FoundTable, options: Int8Options, rounded: Mapping[str, RoundedWeight] | None, half_graphs: HalfGraphs
) -> tuple[Bundle, list[BackendCheck]]:
    checks: list[BackendCheck] = []
    with console.progress() as bar:
        task = bar.add_task("quantizing", total=None)
        done = quantize_bundle(
            subject.bundle,
            found.table,
            options,
            crops=found.crops,
            pixel_shuffle=subject.pixel_shuffle,
            rounded=rounded,
            on_checked=checks.extend,
            half_graphs=half_graphs,
            model=subject.model,
            on_step=lambda phase, step, total: bar.update(task, description=f"quantizing: {phase}", completed=step, total=total),
        )
    return done, checks


def _with_ends(bundle: Bundle, target: Target, io: Io) -> Bundle:
    """Return `bundle`, with graphs of raw pixels beside the int8 one and the half-precision ones where those are asked for."""
    precisions: tuple[Precision, ...] = ("int8", *half_precisions_of(target)) if io == "uint8" else ()
    for precision in [one for one in precisions if bundle.manifest.find_variant(one, target=target.name) is not None]:
        bundle = add_pixel_io(bundle, bundle.variant(precision, target=target.name))
    return bundle


def _is_here(request: TableRequest, *, scale: float) -> bool:
    try:
        find_images(request.calib, scale=scale, use="calibration", root=request.root)
    except MissingDatasetError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m quantize")
