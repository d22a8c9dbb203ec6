"""Turn Reshape-Transpose-Reshape back into DepthToSpace, which every accelerator has and which fixes no size.

(N, C·r², H, W) -> (N, C, r, r, H, W) -> (N, C, H, r, W, r) -> (N, C, H·r, W·r) is DepthToSpace of mode CRD, PixelShuffle's order;
with (N, r, r, C, H, W) -> (N, C, H, r, W, r) in the middle it is mode DCR (https://onnx.ai/onnx/operators/onnx__DepthToSpace.html).
"""

from __future__ import annotations

import onnx_ir as ir

from export.graph.depth_to_space import LAYOUTS
from export.graph.editing import discard, hand_over, insert_node, producer


def restore_depth_to_space(model: ir.Model) -> tuple[ir.Model, str]:
    count = 0
    for last in list(model.graph):
        if last.op_type != "Reshape" or (transpose := producer(last.inputs[0], "Transpose")) is None:
            continue
        first = producer(transpose.inputs[0], "Reshape")
        found = None if first is None else _shuffle(first, transpose, last)
        if first is None or found is None:
            continue
        mode, factor = found
        attributes = (ir.AttrInt64("blocksize", factor), ir.AttrString("mode", mode))
        shuffled = insert_node(last, "DepthToSpace", first.inputs[:1], attributes, like=last.outputs[0])
        hand_over(last.outputs[0], shuffled)
        for node in (last, transpose, first):
            discard(node)
        count += 1
    return model, f"{count} found"


def with_shuffles(model: ir.Model) -> ir.Model:
    """Return a copy in which what is written out is DepthToSpace again, of which cost and reach can be told, and for any size."""
    return restore_depth_to_space(ir.from_proto(ir.to_proto(model)))[0]


def _shuffle(first: ir.Node, transpose: ir.Node, last: ir.Node) -> tuple[str, int] | None:
    """Mode and factor, where the three nodes are such a shuffle and nothing else."""
    if "perm" not in transpose.attributes or first.inputs[0] is None:
        return None
    layout = LAYOUTS.get(tuple(transpose.attributes["perm"].as_ints()))
    source, wide, result = first.inputs[0].shape, first.outputs[0].shape, last.outputs[0].shape
    if layout is None or source is None or wide is None or result is None or (len(source), len(wide), len(result)) != (4, 6, 4):
        return None
    mode, channels_axis, *factor_axes = layout
    channels, (factor, other) = wide[channels_axis], (wide[axis] for axis in factor_axes)
    if not isinstance(channels, int) or not isinstance(factor, int) or factor != other:
        return None
    same_places = source[2] == wide[4] and source[3] == wide[5]
    return (mode, factor) if same_places and source[1] == channels * factor**2 and result[1] == channels else None
