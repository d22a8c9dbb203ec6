"""fp32 graph -> fp16 graph for a target that runs PixelShuffle on int8 alone: an int8 island in it, or written out.

An island is QuantizeLinear, DepthToSpace on int8, DequantizeLinear, with the range that was calibrated. Written out it is Reshape,
Transpose, Reshape: (N, C·r², H, W) -> (N, C, r, r, H, W) -> (N, C, H, r, W, r) -> (N, C, H·r, W·r) in mode CRD, PixelShuffle's
order; in mode DCR the first is (N, r, r, C, H, W) (https://onnx.ai/onnx/operators/onnx__DepthToSpace.html).
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

import numpy as np
import onnx
import onnx_ir as ir

from calibration.ranges import CalibrationTable
from quantize.half import Half, HalfGraph, make_half
from quantize.int8_only import check_int8_only, int8_only_nodes
from quantize.opset import raise_opset
from quantize.options import Int8Options
from quantize.pixel_grid import align_ends
from quantize.placement import moved_chain, place_quantizers
from quantize.prepare import rewrite_as_measured
from quantize.qdq import activation_parameters, new_constant, write_qdq
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
    """UserError where half-precision graphs of `model` are to be refused, or cannot be made as `chosen`."""
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
    if shuffles[0].op_type != "DepthToSpace" or _sizes(shuffles[0]) is None:
        raise UserError(
            f"{named} cannot be written out at a free shape", hint="--pixel-shuffle island, or export with --static HxW"
        )


def convert_to_own_half(
    model: onnx.ModelProto,
    precision: Half,
    table: CalibrationTable,
    options: Int8Options,
    *,
    chosen: PixelShuffle,
) -> HalfGraph:
    """`model` in half precision for a target that has it, and runs some operators on int8 alone.

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
    """`model` with quantizers around the operators for int8 alone and nowhere else, with scales that float16 can hold."""
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
    """`model`, its shapes fixed, with the DepthToSpace that `target` runs on int8 alone as Reshape, Transpose, Reshape."""
    written = ir.from_proto(model)
    for node in int8_only_nodes(written.graph, target):
        _write_out_node(written.graph, node)
    return ir.to_proto(written)


def _write_out_node(graph: ir.Graph, shuffle: ir.Node) -> None:
    """Constant shapes: `check_pixel_shuffle` has seen to it that they are known."""
    source, sizes = shuffle.inputs[0], _sizes(shuffle)
    assert source is not None
    assert sizes is not None
    count, channels, height, width = sizes
    factor = shuffle.attributes["blocksize"].as_int()
    kept = channels // factor**2
    mode = shuffle.attributes["mode"].as_string() if "mode" in shuffle.attributes else "DCR"
    split, turn = ([kept, factor, factor], [0, 1, 4, 2, 5, 3]) if mode == "CRD" else ([factor, factor, kept], [0, 3, 4, 1, 5, 2])
    wide = np.array([count, *split, height, width])
    final = np.array([count, kept, height * factor, width * factor])
    made = [ir.node("Reshape", [source, new_constant(graph, f"{shuffle.name}.split.shape", wide)], name=f"{shuffle.name}.split")]
    made.append(ir.node("Transpose", [made[0].outputs[0]], {"perm": turn}, name=f"{shuffle.name}.turn"))
    merged = new_constant(graph, f"{shuffle.name}.merge.shape", final)
    made.append(ir.node("Reshape", [made[1].outputs[0], merged], name=f"{shuffle.name}.merge"))
    for node, shape in zip(made, (wide, wide[turn], final), strict=True):
        node.outputs[0].name = f"{node.name}.out"
        node.outputs[0].type, node.outputs[0].shape = source.type, ir.Shape(shape.tolist())
    ir.convenience.replace_nodes_and_values(graph, shuffle, [shuffle], made, shuffle.outputs, made[-1].outputs)


def _sizes(shuffle: ir.Node) -> list[int] | None:
    """(N, C, H, W) of what `shuffle` reads, where all are fixed."""
    shape = None if shuffle.inputs[0] is None else shuffle.inputs[0].shape
    sizes = [] if shape is None else [size for size in shape if isinstance(size, int)]
    return sizes if len(sizes) == 4 else None
