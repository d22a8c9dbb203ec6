"""fp32 graph + calibration table -> int8 graph for a target."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
import onnx_ir as ir

from calibration.fingerprint import graph_fingerprint
from calibration.ranges import CalibrationTable, Method, activation_range
from quantize.placement import Placement, Role, moved_chain, place_quantizers
from quantize.qdq import ActivationRange, constant, write_qdq
from runtime.errors import PipelineError, UserError
from runtime.targets import TARGETS, Target


def observed_tensors(graph: ir.Graph) -> Collection[str]:
    """The tensors a calibration table must hold for `graph` to be quantized for any target."""
    placements = (place_quantizers(graph, target) for target in TARGETS)
    return sorted({quantizer.range_of for placement in placements for quantizer in placement.quantizers.values()})


def known_ranges(graph: ir.Graph, value_range: ActivationRange, target: Target) -> dict[str, ActivationRange]:
    """Ranges that need no measuring, because a picture's values lie in `value_range` whatever pictures were calibrated on.

    They are the input's and the output's, and that of a 1×1 convolution from the input's colours to as many (a mean shift):
    interval arithmetic, Σ max(w·low, w·high) + b and Σ min(w·low, w·high) + b, the widest of its channels. Measured ranges
    would clip a white that the calibration pictures did not happen to have.
    """
    ends = [value for end in graph.outputs for value in moved_chain(end, target)]
    known = {str(value.name): value_range for value in (*graph.inputs, *ends)}
    for node in graph:
        source = node.inputs[0] if node.op_type == "Conv" else None
        if source is None or source.name not in known:
            continue
        weight = constant(node, 1)
        if weight.shape[0] == weight.shape[1] and weight.shape[2:] == (1, 1):
            low, high = known[source.name]
            products = np.stack([weight[:, :, 0, 0] * low, weight[:, :, 0, 0] * high])
            bias = constant(node, 2) if len(node.inputs) > 2 else np.zeros(weight.shape[0], np.float32)
            lowest, highest = products.min(axis=0).sum(axis=1) + bias, products.max(axis=0).sum(axis=1) + bias
            known[str(node.outputs[0].name)] = (float(lowest.min()), float(highest.max()))
    return known


def choose_ranges(
    placement: Placement,
    table: CalibrationTable,
    *,
    method: Method,
    percentile: float,
    known: Mapping[str, ActivationRange],
) -> Mapping[str, ActivationRange]:
    """A range for each tensor that a quantizer takes its range from.

    What is `known` is taken; else `method` holds, but for global skips, which take min-max: what is clipped there is missing
    from the picture.
    """
    ranges = {}
    for quantizer in placement.quantizers.values():
        source = quantizer.range_of
        used = Method.MINMAX if quantizer.role is Role.SKIP else method
        ranges[source] = (
            known[source] if source in known else activation_range(table.tensors[source], method=used, percentile=percentile)
        )
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
    known = known_ranges(graph_model.graph, value_range, target)
    ranges = choose_ranges(placement, table, method=method, percentile=percentile, known=known)
    write_qdq(graph_model, placement=placement, ranges=ranges, target=target)
    return check_graph(ir.to_proto(graph_model), what="int8"), placement


def check_graph(model: onnx.ModelProto, *, what: str) -> onnx.ModelProto:
    """`model`, or PipelineError where onnx's checker finds it invalid."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise PipelineError(f"the {what} graph is invalid: {error}") from error
    return model
