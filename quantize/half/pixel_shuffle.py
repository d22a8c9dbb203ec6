"""Make an fp16 graph for a target that runs PixelShuffle on int8 alone: an int8 island in it, or PixelShuffle written out.

An island is QuantizeLinear, DepthToSpace on int8, DequantizeLinear, with the range that was calibrated. Written out, DepthToSpace
is Reshape, Transpose, Reshape (`export/graph/depth_to_space.py`).
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

import onnx
import onnx_ir as ir

from calibration.table import CalibrationTable
from export.graph.depth_to_space import write_out_shuffle
from export.graph.opset import raise_opset
from quantize.exact.pixel_grid import align_ends
from quantize.graph.int8_only import check_int8_only, int8_only_nodes
from quantize.graph.placement import moved_chain, place_quantizers
from quantize.graph.qdq import activation_parameters, write_qdq
from quantize.half.cast import Half, HalfGraph, make_half
from quantize.options import Int8Options
from quantize.prepare import rewrite_as_measured
from quantize.tensor_ranges import choose_ranges, known_ranges
from runtime.errors import UserError
from runtime.targets import Target

_FLOAT16_SCALES_OPSET = 19  # the first at which QuantizeLinear takes them


class PixelShuffle(Enum):
    """What becomes of DepthToSpace in a half-precision graph, where the target runs it on int8 alone."""

    ISLAND = "island"
    LOWER = "lower"
    REFUSE = "refuse"


def check_pixel_shuffle(model: onnx.ModelProto, target: Target, chosen: PixelShuffle) -> None:
    """Raise UserError where half-precision graphs of `model` are to be refused, or cannot be made as `chosen`."""
    shuffles = int8_only_nodes(ir.from_proto(model).graph, target)
    halves = [precision for precision in target.precisions if precision in ("fp16", "bf16")]
    if not shuffles or not halves or chosen is PixelShuffle.ISLAND:
        return
    named = f"{shuffles[0].op_type} {shuffles[0].name}"
    if chosen is PixelShuffle.REFUSE:
        raise UserError(
            f"{halves[0]} refused: target {target.name} runs {shuffles[0].op_type} on int8 alone, and an {halves[0]} graph of this "
            f"network has {named}",
            hint="--pixel-shuffle island or lower",
        )
    if shuffles[0].op_type != "DepthToSpace":
        raise UserError(f"{named} cannot be written out: only DepthToSpace can", hint="--pixel-shuffle island")


def convert_to_own_half(
    model: onnx.ModelProto,
    precision: Half,
    table: CalibrationTable,
    options: Int8Options,
    *,
    chosen: PixelShuffle,
) -> HalfGraph:
    """Return `model` in half precision for a target that has it, and runs some operators on int8 alone.

    `chosen` is one that `check_pixel_shuffle` lets pass.

    Raises:
        PipelineError: an operator for int8 alone is not; the result is not a valid graph.
    """
    lowered = chosen is PixelShuffle.LOWER
    prepared = write_out(model, options.target) if lowered else _write_islands(model, table, options)
    half = make_half(prepared, precision, tolerance_db=None)
    check_int8_only(half.model, options.target, precision=precision)
    return half


def _write_islands(model: onnx.ModelProto, table: CalibrationTable, options: Int8Options) -> onnx.ModelProto:
    """Return `model` with quantizers around the operators for int8 alone and nowhere else, with scales that float16 can hold."""
    islands_alone = tuple(row for row in options.target.operators if row.int8_only)
    target = replace(options.target, operators=islands_alone, float_dtype="float16")
    islands = ir.from_proto(raise_opset(model, _FLOAT16_SCALES_OPSET))
    graph = islands.graph
    rewrite_as_measured(graph, table)
    known = known_ranges(graph, target)
    if len(moved_chain(graph.outputs[0], target)) > 1:
        known |= align_ends(islands, target).ranges  # an island at the end takes all 256 codes for the picture, not half
    placement = place_quantizers(graph, target)
    ranges = choose_ranges(placement, table, replace(options, target=target), known=known)
    parameters = {name: activation_parameters(ranges[found.range_of], target) for name, found in placement.quantizers.items()}
    write_qdq(islands, parameters=parameters, rounded={}, target=target)
    return ir.to_proto(islands)


def write_out(model: onnx.ModelProto, target: Target) -> onnx.ModelProto:
    """Return `model` with each DepthToSpace that `target` runs on int8 alone as Reshape, Transpose, Reshape."""
    written = ir.from_proto(model)
    for node in int8_only_nodes(written.graph, target):
        write_out_shuffle(node)
    return ir.to_proto(written)
