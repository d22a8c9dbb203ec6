"""Explain a bundle's int8 graph: each layer on crops, whole pictures, and what the backend ran."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.crops import CROP_SIZE, read_crops
from calibration.pairs import ImageSet
from calibration.table import CalibrationSource, CalibrationTable, read_table, used_hashes
from quantize.explain.pictures import compare_pictures
from quantize.explain.result import ExplainedLayer, Explanation, mean_shift
from quantize.explain.sensitivity import PICTURE, layer_sensitivity, measure_layers
from quantize.graph.input_correction import corrected_layers
from quantize.graph.switches import SwitchedGraph
from quantize.prepare import prepare
from quantize.records import options_of
from quantize.stage import load_fp32
from runtime.bundle import Bundle, Variant
from runtime.errors import BundleError
from runtime.targets import find_target
from runtime.upscaler import Upscaler
from runtime.verify.pairs import find_pairs
from runtime.verify.precision import PrecisionReport

OnStep = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are done, and of how many."""


@dataclass(frozen=True, kw_only=True)
class ExplainRequest:
    """What to look at, and how.

    Attributes:
        images: pictures; as many as `crops` of them are used, a seeded choice where there are more.
        crops: of them in all, for the figures of layers.
        backend: as `Upscaler.open` takes it.
        sensitivity: measure what each layer alone does to the output, too.
    """

    images: ImageSet
    target: str | None
    backend: str
    crops: int
    sensitivity: bool


def explain(bundle: Bundle, request: ExplainRequest, *, on_step: OnStep) -> Explanation:
    """Measure the int8 graph of `bundle` for a target against fp32.

    Raises:
        BundleError: there is no such graph, or the bundle's calibration table is not the one it was made with.
        SredgeError: pictures that cannot be read, a backend that cannot run.
    """
    manifest = bundle.manifest
    contract, scale = manifest.contract, manifest.scale
    variant = find_pairs(bundle, precision="int8", target=request.target, backend=request.backend)[0].variant
    table = _table_of(bundle, variant)
    source, crops = read_crops(
        request.images,
        scale=scale,
        contract=contract,
        crops=request.crops,
        crop_size=contract.static_picture_size(scale=scale) or CROP_SIZE,
        on_step=on_step,
    )
    chosen = {image.name for image in source.images}
    only = replace(bundle, manifest=manifest.model_copy(update={"variants": (bundle.variant("fp32"), variant)}))
    with (
        Upscaler.open(only, precision="fp32", backend=request.backend) as in_fp32,
        Upscaler.open(only, precision="int8", backend=request.backend) as in_int8,
    ):
        pictures = compare_pictures(
            in_fp32,
            in_int8,
            [pair for pair in request.images.pairs if pair.name in chosen],
            on_step=lambda done, total: on_step("pictures", done, total),
        )
        report, backend = in_int8.precision_report, in_int8.backend_name
    return Explanation(
        model=manifest.model,
        scale=scale,
        target=variant.target or "",
        backend=backend,
        dataset=request.images.name,
        crops=len(crops),
        calibrated_on=_calibrated_on(source, table),
        merged_layers=variant.merged_layers,
        layers=_explain_layers(bundle, variant, table, crops, report, sensitivity=request.sensitivity, on_step=on_step),
        pictures=tuple(pictures),
        colour_shift=mean_shift([picture.colour_shift for picture in pictures]),
    )


def _table_of(bundle: Bundle, variant: Variant) -> CalibrationTable:
    if variant.calibration is None:
        raise BundleError(
            f"{bundle.directory} lacks the calibration table that {variant.file} was made of",
            hint="quantize it again: "
            f"python -m quantize {shlex.quote(str(bundle.directory))} --target {variant.target} --calib div2k",
        )
    return read_table(bundle.path(variant.calibration))


def _calibrated_on(source: CalibrationSource, table: CalibrationTable) -> int:
    used = used_hashes(table.source.images)
    return sum(bool(image.hashes & used) for image in source.images)


def _explain_layers(
    bundle: Bundle,
    variant: Variant,
    table: CalibrationTable,
    crops: Sequence[NDArray[np.float32]],
    report: PrecisionReport,
    *,
    sensitivity: bool,
    on_step: OnStep,
) -> tuple[ExplainedLayer, ...]:
    target = find_target(variant.target or "")
    options = options_of(variant, target)
    prepared = prepare(load_fp32(bundle), table, options)
    reference, target = ir.to_proto(prepared.model), prepared.target
    int8 = onnx.load_model_from_string(bundle.read(variant))
    macs = {layer.name: layer.macs for layer in bundle.manifest.layers if layer.name not in variant.merged_layers}
    found = measure_layers(
        reference, int8, crops, layers=macs.keys(), target=target, on_step=lambda done, total: on_step("layers", done, total)
    )
    outputs: dict[str, float | None] = {}
    if sensitivity:
        switched = SwitchedGraph(reference, int8, crops, target=target)
        outputs = layer_sensitivity(
            switched,
            corrected=corrected_layers(ir.from_proto(int8).graph),
            on_step=lambda done, total: on_step("each layer alone", done, total),
        )
    explained = []
    for layer in found:
        is_int8 = layer.name in variant.int8_layers if layer.name in macs else layer.op in target.int8_ops
        explained.append(
            ExplainedLayer(
                **layer.model_dump(),
                macs=macs.get(layer.name, 0),
                asked="" if layer.op == PICTURE else "int8" if is_int8 else "fp32",
                ran=report.ran.get(layer.name, ""),
                output_psnr_db=outputs.get(layer.name),
            )
        )
    return tuple(explained)
