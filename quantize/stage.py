"""The quantize stage: a bundle and a calibration table in, the bundle with its int8, fp16 and bf16 graphs out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.steps import OnStep, ignore_step
from calibration.table import CalibrationTable, write_table
from export.graph.opset import opset_of
from export.graph.serialized import serialize
from quantize.exact.backend_forms import in_forms
from quantize.graph.input_correction import added_macs
from quantize.graph.int8_only import check_int8_only
from quantize.graph.placement import check_operators
from quantize.graph.qdq import RoundedWeight
from quantize.half.cast import HALF_PRECISIONS, Half, HalfGraph
from quantize.half.pixel_shuffle import PixelShuffle, check_pixel_shuffle, convert_to_own_half
from quantize.half.stage import HalfGraphs, half_precisions_of, make_half_graphs, seen_ranges
from quantize.int8 import quantize_int8, some_of, windows_of
from quantize.options import Int8Options
from quantize.records import current_tools, made_of, recorded_options
from quantize.weights.shipped_rounding import SHIPPED_TARGET, find_shipped_rounding
from runtime.backends import open_backend
from runtime.bundle import (
    Bundle,
    Manifest,
    Option,
    Part,
    Variant,
    check_writable,
    extend_bundle,
    sha256_bytes,
)
from runtime.errors import PipelineError, UserError
from runtime.quality import psnr_of
from runtime.targets import Target
from runtime.verify.faithful import BackendCheck, check_backends

_log = logging.getLogger(__name__)


def ignore_checks(checks: Sequence[BackendCheck]) -> None:
    """Where nobody is told."""
    del checks


def int8_file(target: Target) -> str:
    return f"model.int8-{target.name}.onnx"


def half_file(precision: Half, target: Target) -> str:
    """Return a target that runs some operators on int8 alone has a graph of its own; all others share one."""
    return f"model.{precision}-{target.name}.onnx" if target.int8_only_ops else f"model.{precision}.onnx"


def load_fp32(bundle: Bundle) -> onnx.ModelProto:
    return onnx.load_model_from_string(bundle.read(bundle.variant("fp32")))


def quantize_bundle(
    bundle: Bundle,
    table: CalibrationTable,
    options: Int8Options,
    *,
    crops: Sequence[NDArray[np.float32]] = (),
    pixel_shuffle: PixelShuffle = PixelShuffle.ISLAND,
    on_step: OnStep = ignore_step,
    rounded: Mapping[str, RoundedWeight] | None = None,
    on_checked: Callable[[Sequence[BackendCheck]], None] = ignore_checks,
    half_graphs: HalfGraphs | None = None,
    model: onnx.ModelProto | None = None,
) -> Bundle:
    """Add the int8 graph for the target, the fp16 and bf16 graphs that it has and the calibration table to `bundle`.

    `crops`, (1, C, H, W) float32 in [0, 1], are what layers are rounded on, and int8 is compared with fp32 on; without any, that
    figure is left out, and weights are those that ship for this table, or rounded without pictures. `rounded` weights were rounded
    on these crops already. `on_checked` is told what the target's backends made of the int8 graph. `half_graphs` were made
    already, as `try_half_graphs` does; where one is missing, the bundle goes without. `model` is the fp32 graph where the caller
    has parsed it.

    Raises:
        UserError: the table is not this graph's, or `check_target` refuses.
        PipelineError: an invalid graph, one that the target does not run, or one that no backend here computes right.
    """
    check_writable(bundle.directory)
    model = load_fp32(bundle) if model is None else model
    check_target(bundle, model, options.target, pixel_shuffle=pixel_shuffle)
    fp32 = bundle.variant("fp32")
    fp32_graph = ir.from_proto(model).graph
    target = options.target
    recorded = recorded_options(options)
    written = write_table(table)
    digest = sha256_bytes(written)
    if rounded is None and not crops and target.name == SHIPPED_TARGET:
        rounded = find_shipped_rounding(made_of(recorded_options(replace(options, lifted=frozenset())), calibration_sha256=digest))
    graph = quantize_int8(
        model,
        table,
        options,
        crops=crops,
        on_step=on_step,
        rounded=rounded,
        progress=_progress_file(bundle, target, made_of(recorded, calibration_sha256=digest)),
    )
    int8 = graph.model
    check_int8_only(int8, target, precision="int8")
    on_step("checking", 0, 1)
    data = serialize(int8)
    on_checked(check_backends(data, bundle.read(fp32), target, bundle.manifest.contract))
    tried = half_graphs or try_half_graphs(bundle, model, target)
    finished = _finish_half_graphs(bundle, model, table, options, pixel_shuffle, tried)
    calibration_part = Part(file=f"calibration-{digest[:12]}.json", sha256=digest)
    files = {
        int8_file(target): data,
        **{half_file(half, target): serialize(graph.model) for half, graph in finished.items()},
        calibration_part.file: written,
    }
    half_options = _half_options(recorded, target, pixel_shuffle)
    variants = [
        _half_variant(half, made, files[half_file(half, target)], target, fp32, options=half_options, calibration=calibration_part)
        for half, made in finished.items()
    ]
    windows = windows_of(some_of(crops), fp32_graph)
    int8_variant = Variant(
        file=int8_file(target),
        sha256=sha256_bytes(data),
        precision="int8",
        target=target.name,
        parent_sha256=fp32.sha256,
        opset=opset_of(int8),
        options=recorded,
        calibration=calibration_part,
        tools=current_tools(),
        psnr_vs_fp32_db=_psnr_on(windows, fp32=bundle.read(fp32), int8=data),
        int8_layers=graph.int8_layers,
        merged_layers=graph.merged_layers,
        added_macs=added_macs(fp32_graph, graph.corrected_layers, bundle.manifest, target),
    )

    def add(manifest: Manifest) -> Manifest:
        for variant in (*variants, int8_variant):
            manifest = manifest.with_variant(variant)
        gone = {half_file(half, target) for half in half_precisions_of(target) if half not in finished}
        return manifest.without_files(gone)

    done = extend_bundle(bundle, add, files=files)
    for left in bundle.directory.glob(f".distilled-{target.name}-{'?' * 16}"):  # by a run with other options that was cut off
        left.unlink(missing_ok=True)
    return done


def _half_variant(
    precision: Half,
    graph: HalfGraph,
    data: bytes,
    target: Target,
    fp32: Variant,
    *,
    options: Mapping[str, Option],
    calibration: Part,
) -> Variant:
    """Describe a half-precision graph for the manifest; a graph that all targets share names neither target nor calibration."""
    own = bool(target.int8_only_ops)
    return Variant(
        file=half_file(precision, target),
        sha256=sha256_bytes(data),
        precision=precision,
        target=target.name if own else None,
        parent_sha256=fp32.sha256,
        opset=opset_of(graph.model),
        options=dict(options),
        calibration=calibration if own else None,
        tools=current_tools(),
        kept_in_fp32=graph.kept,
    )


def _progress_file(bundle: Bundle, target: Target, made: str) -> Path:
    """Return where a distillation that was cut off is gone on from, `made` of the same and with the same tools."""
    key = sha256_bytes(json.dumps([made, current_tools()], sort_keys=True).encode())
    return bundle.directory / f".distilled-{target.name}-{key[:16]}"


def check_target(bundle: Bundle, model: onnx.ModelProto, target: Target, *, pixel_shuffle: PixelShuffle) -> None:
    """Raise UserError where `target` takes not this bundle's shape of input, or an operator, or its fp16 graph is to be refused."""
    if target.static_shapes and bundle.manifest.contract.static_shape is None:
        raise UserError(
            f"target {target.name} runs one shape of input, and {bundle.directory} has a free height and width",
            hint="export it with one: python -m export … --static HxW",
        )
    check_operators(in_forms(ir.from_proto(model).graph, target), target)
    check_pixel_shuffle(model, target, pixel_shuffle)


def try_half_graphs(bundle: Bundle, model: onnx.ModelProto, target: Target) -> HalfGraphs:
    """Return the half-precision graphs of `target`, tried before anything is calibrated: what cannot be made is known at the start.

    For a target that runs some operators on int8 alone the graphs are a trial: islands are added when ranges are known.
    """
    return make_half_graphs(model, target, bundle.manifest.contract)


def _finish_half_graphs(
    bundle: Bundle, model: onnx.ModelProto, table: CalibrationTable, options: Int8Options, shuffle: PixelShuffle, tried: HalfGraphs
) -> dict[Half, HalfGraph]:
    """Return those that can be made, with what calibration saw, and with islands where the target wants those."""
    target = options.target
    beyond = seen_ranges(table)
    if beyond:
        tried = make_half_graphs(model, target, bundle.manifest.contract, ranges=beyond)
    if not target.int8_only_ops:
        return dict(tried.made)
    finished = {}
    for half in tried.made:
        try:
            finished[half] = convert_to_own_half(model, half, table, options, chosen=shuffle)
        except PipelineError as error:
            _log.warning("no %s graph for %s: %s", half, target.name, error)
    return finished


def _half_options(recorded: Mapping[str, Option], target: Target, pixel_shuffle: PixelShuffle) -> dict[str, Option]:
    """Return what the manifest says of how a half-precision graph was made: nothing but that of a target's own."""
    return {**recorded, "pixel_shuffle": pixel_shuffle.value} if target.int8_only_ops else {}


def quantized_already(
    bundle: Bundle,
    table: CalibrationTable,
    options: Int8Options,
    *,
    compared: bool,
    pixel_shuffle: PixelShuffle = PixelShuffle.ISLAND,
    half_graphs: HalfGraphs | None = None,
    model: onnx.ModelProto | None = None,
) -> bool:
    """Return whether `bundle` holds what this quantization would make, with the tools at hand; `compared`: with crops to compare
    on.

    A half-precision graph that cannot be made is not missed; `half_graphs` says which, or they are tried where the bundle lacks
    one.
    """
    manifest = bundle.manifest
    target, recorded = options.target, recorded_options(options)
    int8 = manifest.find_variant("int8", target=target.name)
    held = {variant.file: variant.options for variant in manifest.variants if variant.precision in HALF_PRECISIONS}
    wanted = {half: _half_options(recorded, target, pixel_shuffle) for half in half_precisions_of(target)}
    if half_graphs is None and any(half_file(half, target) not in held for half in wanted):
        half_graphs = try_half_graphs(bundle, load_fp32(bundle) if model is None else model, target)
    missing = {} if half_graphs is None else half_graphs.missing
    files = {half_file(half, target): None if half in missing else made for half, made in wanted.items()}
    return (
        int8 is not None
        and int8.calibration is not None
        and int8.calibration.sha256 == sha256_bytes(write_table(table))
        and all(held.get(file) == made for file, made in files.items())
        and int8.parent_sha256 == bundle.variant("fp32").sha256
        and int8.options == recorded
        and int8.tools == current_tools()
        and (int8.psnr_vs_fp32_db is not None) == compared
    )


def _psnr_on(crops: Sequence[NDArray[np.float32]], *, fp32: bytes, int8: bytes) -> float | None:
    """10 log10(1 / MSE) of the two graphs' outputs, clipped to [0, 1], the MSE taken over all crops; two decimals."""
    if not crops:
        return None
    with open_backend("onnxruntime", fp32, precision="fp32", spinning=False) as reference:
        wanted = [reference.run(crop).clip(0, 1) for crop in crops]
    squares, count = 0.0, 0
    with open_backend("onnxruntime", int8, precision="int8", spinning=False) as quantized:
        for crop, exact in zip(crops, wanted, strict=True):
            error = exact - quantized.run(crop).clip(0, 1)
            squares += float(np.square(error, dtype=np.float64).sum())
            count += error.size
    return round(psnr_of(max(squares / count, 1e-12)), 2)
