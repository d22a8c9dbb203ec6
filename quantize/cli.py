"""python -m quantize [BUNDLE] --calib NAME|DIR, and python -m quantize explain [BUNDLE]"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import onnx
import typer

from calibration.crops import CROP_SIZE, CROPS
from calibration.datasets import CALIB_HELP, DATA_HELP, MissingDatasetError, choose_pictures, download, find_images
from calibration.ranges import DEFAULT_PERCENTILE, Method, check_percentile
from export.graph.pixel_io import add_pixel_io
from quantize.graph.int8_only import ask_backend, check_int8_only
from quantize.half.pixel_shuffle import PixelShuffle
from quantize.half.stage import Halves, halves_of
from quantize.int8 import check_steps
from quantize.options import STEPS, Effort, Int8Options, find_steps
from quantize.search.cli import make_budget, search
from quantize.stage import check_target, load_fp32, quantize_bundle, quantized_already, try_halves
from quantize.tables import EQUALIZED_FROM, TableRequest, find_table
from runtime.backends import BACKENDS
from runtime.bundle import Bundle, Io, Variant, check_writable, find_io, resolve_bundle
from runtime.describe import describe_int8_layers
from runtime.errors import UserError
from runtime.targets import TARGETS, Precision, Target, find_target
from runtime.terminal import console
from runtime.terminal.figures import share_text
from runtime.verify.faithful import BackendCheck

_EXPLAIN = "explain"
_NAMED = 3  # operators in a line

app = console.application(
    f"Quantize a bundle's network to INT8; `python -m quantize {_EXPLAIN} [BUNDLE]` says where that loses what it loses."
)


@app.command()
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
    crop_size: Annotated[str | None, typer.Option(metavar="HxW", help="size of a crop [default: {}x{}]".format(*CROP_SIZE))] = None,
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
            help="scale channels to ranges that are more alike, exactly "
            f"[default: with --effort best, on {EQUALIZED_FROM} pictures or more]",
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
    lift: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER", help="what to leave in float: a layer, an addition, LAYER.input; again for more"),
    ] = None,
    max_drop_db: Annotated[
        float | None,
        typer.Option(min=0, metavar="D", help="lift what PSNR needs to drop by no more, at the least measured latency"),
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
    chosen_target = find_target(target)
    ends = find_io(io)
    if percentile is not None and method is not Method.PERCENTILE:
        raise UserError(f"--percentile has no effect with --method {method.value}", hint="drop one of the two")
    if chosen_target.has_wide_codes and (percentile is not None or method not in (Method.PERCENTILE, Method.MINMAX)):
        given = "--percentile" if percentile is not None else f"--method {method.value}"
        raise UserError(f"{given} has no effect with --target {target}, whose codes leave nothing to clip", hint=f"drop {given}")
    percentile = DEFAULT_PERCENTILE if percentile is None else percentile
    check_percentile(percentile)
    pictures, root = choose_pictures(calib=calib, data=data)
    options = Int8Options(
        target=chosen_target,
        method=method,
        percentile=percentile,
        effort=effort,
        without=find_steps(without or ()),
        lifted=frozenset(lift or ()),
    )
    budget = make_budget(max_drop_db, min_int8_macs=min_int8_macs, backend=backend, lifted=options.lifted)
    opened = Bundle.open(resolve_bundle(bundle))
    check_writable(opened.directory)
    if pixel_shuffle is not None and not chosen_target.int8_only_ops:
        raise UserError(f"--pixel-shuffle has no effect with --target {target}", hint="drop one of the two")
    shuffle = pixel_shuffle or PixelShuffle.ISLAND
    check_target(opened, chosen_target, pixel_shuffle=shuffle)
    if not pictures.endswith(".json"):  # a table comes without pictures to learn from
        check_steps(load_fp32(opened), options)
    halves = try_halves(opened, chosen_target)
    _show_missing(halves)
    request = TableRequest(
        calib=pictures,
        root=root,
        percentile=percentile,
        measure_again=force,
        crops=crops,
        crop_size=None if crop_size is None else console.parse_size(crop_size, option="--crop-size"),
        seed=seed,
        equalize=False if equalize is None and effort is not Effort.BEST else equalize,
        mix=None if "mix-channels" in options.steps else False,
    )
    if fetch and not _is_here(request, scale=opened.manifest.scale):
        with console.progress() as bar:
            task = bar.add_task(f"downloading {pictures}, MB", total=None)
            download(
                pictures,
                scale=opened.manifest.scale,
                on_bytes=lambda done, total: bar.update(task, completed=done // 1_000_000, total=total // 1_000_000),
            )
    with console.progress() as bar:
        task = bar.add_task("calibrating", total=None)

        def on_step(phase: str, done: int, total: int) -> None:
            bar.update(task, description=f"calibrating: {phase}", completed=done, total=total)

        found = find_table(opened, request, on_step=on_step)
    console.show(f"calibration: {found.origin}")
    rounded = None
    if budget is not None:
        searched = search(opened, request, found, options, budget=budget, backend=backend or "auto")
        options, rounded = replace(options, lifted=frozenset(searched.chosen.lifted)), searched.rounded
    if not force and quantized_already(
        opened, found.table, options, compared=bool(found.crops), pixel_shuffle=shuffle, halves=halves
    ):
        ended = _with_ends(opened, chosen_target, ends)
        console.show(f"{opened.directory}: up to date" if ended == opened else f"{opened.directory}: a graph of raw pixels added")
        return
    checks: list[BackendCheck] = []
    with console.progress() as bar:
        task = bar.add_task("quantizing", total=None)
        done = quantize_bundle(
            opened,
            found.table,
            options,
            crops=found.crops,
            pixel_shuffle=shuffle,
            rounded=rounded,
            on_checked=checks.extend,
            halves=halves,
            on_step=lambda phase, step, total: bar.update(task, description=f"quantizing: {phase}", completed=step, total=total),
        )
    _print_result(_with_ends(done, chosen_target, ends), chosen_target, fp32_opset=opened.variant("fp32").opset)
    for check in checks:
        console.show(f"  {'runs on' if check.passed else '(!) refused on'} {check.backend}: {check.found}")


def _with_ends(bundle: Bundle, target: Target, io: Io) -> Bundle:
    """`bundle`, with graphs of raw pixels beside the int8 one and the half-precision ones where those are asked for."""
    precisions: tuple[Precision, ...] = ("int8", *halves_of(target)) if io == "uint8" else ()
    for precision in [one for one in precisions if bundle.manifest.find_variant(one, target=target.name) is not None]:
        bundle = add_pixel_io(bundle, bundle.variant(precision, target=target.name))
    return bundle


def _show_missing(halves: Halves) -> None:
    """Says which half-precision graphs the bundle will lack, and on which backend one is not right."""
    for half, reason in halves.missing.items():
        console.show(f"(!) no {half} graph, int8 alone: {reason}")
    for half in halves.made:
        for check in halves.checks[half]:
            if not check.passed:
                console.show(f"(!) {half} refused on {check.backend}: {check.found}")


def _is_here(request: TableRequest, *, scale: float) -> bool:
    try:
        find_images(request.calib, scale=scale, use="calibration", root=request.root)
    except MissingDatasetError:
        return False
    return True


def _print_result(bundle: Bundle, target: Target, *, fp32_opset: int) -> None:
    int8 = bundle.variant("int8", target=target.name)
    pixels = [variant.file for variant in bundle.manifest.variants if variant.io == "uint8" and variant.precision != "fp32"]
    opset = str(int8.opset)
    if int8.opset != fp32_opset:
        opset += f" (raised from {fp32_opset}: the target takes {target.opset_range[0]} and above)"
    rows: dict[str, str] = {
        "int8": str(bundle.path(int8)),
        "MACs": f"{share_text(bundle.manifest.int8_mac_share(int8))} in int8, {describe_int8_layers(bundle.manifest, int8)}",
        "opset": opset,
        **({"pixels": ", ".join(pixels)} if pixels else {}),
    }
    found = {half: bundle.manifest.find_variant(half, target=target.name) for half in halves_of(target)}
    rows |= {half: f"{bundle.path(variant)}{_kept_text(variant)}" for half, variant in found.items() if variant is not None}
    if int8.psnr_vs_fp32_db is not None:
        rows["output"] = f"{int8.psnr_vs_fp32_db:.1f} dB PSNR against fp32's, on calibration crops"
    console.show(f"{bundle.directory}: quantized for target {target.name}")
    for name, value in rows.items():
        console.show(f"  {name:<6} {value}")
    own = [variant for variant in bundle.manifest.variants if variant.target == target.name and target.int8_only_ops]
    for variant in own:
        console.show(f"  {_kept_in_int8(bundle, variant, target)}")


def _kept_text(variant: Variant) -> str:
    """Which operators of a half-precision graph compute in fp32: the first few; the manifest has them all, with the reasons."""
    kept = variant.kept_in_fp32
    more = f" and {len(kept) - _NAMED} more" if len(kept) > _NAMED else ""
    return f", in fp32: {'; '.join(kept[:_NAMED])}{more}" if kept else ""


def _kept_in_int8(bundle: Bundle, variant: Variant, target: Target) -> str:
    """Of the operators that the target runs on int8 alone: how many the graph has, and of how many a backend here says so too."""
    model = bundle.read(variant)
    count = check_int8_only(onnx.load_model_from_string(model), target, precision=variant.precision)
    backends = [
        entry.name for entry in BACKENDS if entry.installed and entry.opens_graphs and variant.precision in entry.precisions
    ]
    accounts = [str(ask_backend(name, model, target, precision=variant.precision)) for name in backends]
    named = f"{variant.precision} graph: {', '.join(target.int8_only_ops)}"
    if not count:
        return f"{named}: none"
    return f"{named}: from int8 to int8 at one scale {count} of {count} as written; as optimised {', '.join(accounts)}"


def main(arguments: Sequence[str] | None = None) -> None:
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == [_EXPLAIN]:
        from quantize.explain.cli import main as explain  # matplotlib is loaded only for who asks for a plot

        explain(given[1:])
        return
    console.run(app, given, name="python -m quantize")
