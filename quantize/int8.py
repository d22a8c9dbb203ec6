"""fp32 graph + calibration table -> int8 graph for a target."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx
import onnx_ir as ir

from calibration.fingerprint import graph_fingerprint
from calibration.ranges import CalibrationTable, Method, activation_range
from quantize.placement import Placement, Role, place_quantizers
from quantize.qdq import ActivationRange, write_qdq
from runtime.errors import PipelineError, UserError
from runtime.targets import TARGETS, Target


def observed_tensors(graph: ir.Graph) -> Collection[str]:
    """The tensors a calibration table must hold for `graph` to be quantized for any target."""
    placements = (place_quantizers(graph, target) for target in TARGETS)
    return sorted({quantizer.range_of for placement in placements for quantizer in placement.quantizers.values()})


def choose_ranges(
    placement: Placement,
    table: CalibrationTable,
    *,
    method: Method,
    percentile: float,
    value_range: ActivationRange,
) -> Mapping[str, ActivationRange]:
    """A range for each tensor that a quantizer takes its range from.

    `method` holds inside the network. Global skips take min-max: what is clipped there is missing from the picture. The input's and the
    output's extremes are those of a picture, `value_range`, whatever the calibration pictures happened to reach.
    """
    ranges = {}
    for quantizer in placement.quantizers.values():
        statistics = table.tensors[quantizer.range_of]
        if quantizer.role in (Role.INPUT, Role.OUTPUT):
            chosen = value_range
        else:
            used = Method.MINMAX if quantizer.role is Role.SKIP else method
            chosen = activation_range(statistics, method=used, percentile=percentile)
        ranges[quantizer.range_of] = chosen
    return ranges


def quantize_int8(
    model: onnx.ModelProto,
    table: CalibrationTable,
    *,
    target: Target,
    method: Method,
    percentile: float,
    value_range: ActivationRange,
) -> tuple[onnx.ModelProto, Placement]:
    """`model` with quantizers where `target` wants them, at the opset it had or the lowest that `target` allows.

    Raises:
        UserError: the table belongs to another graph, or lacks a tensor or the percentile asked for.
        PipelineError: the result is not a valid graph.
    """
    low, high = target.opset_range
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    if opset > high:
        raise UserError(f"target {target.name} takes opset {low} to {high}, this graph has {opset}", hint="export again")
    if opset < low:
        model = onnx.version_converter.convert_version(model, low)
    graph_model = ir.from_proto(model)
    if graph_fingerprint(graph_model.graph) != table.graph_fingerprint:
        raise UserError("the calibration table was measured on another graph", hint="calibrate this one: --calib NAME|DIR")
    placement = place_quantizers(graph_model.graph, target)
    missing = [q.range_of for q in placement.quantizers.values() if q.range_of not in table.tensors]
    if missing:
        raise UserError(f"the calibration table lacks {missing[0]} and {len(missing) - 1} more", hint="calibrate again")
    ranges = choose_ranges(placement, table, method=method, percentile=percentile, value_range=value_range)
    write_qdq(graph_model, placement=placement, ranges=ranges, target=target)
    quantized = ir.to_proto(graph_model)
    try:
        onnx.checker.check_model(quantized, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise PipelineError(f"the int8 graph is invalid: {error}") from error
    return quantized, placement
