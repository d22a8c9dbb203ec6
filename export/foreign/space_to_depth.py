"""Rewrite pixels gathered into channels with six axes as SpaceToDepth, which fixes no size.

(N, C, H, W) -> (N, C, H/r, r, W/r, r) -> (N, C, r, r, H/r, W/r) -> (N, C·r², H/r, W/r) is PyTorch's pixel_unshuffle: channel
c·r² + i·r + j of the result is channel c at row i and column j of the block. SpaceToDepth puts that at (i·r + j)·C + c
(https://onnx.ai/onnx/operators/onnx__SpaceToDepth.html), so the convolution's weights are put into that order.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from export.graph.constants import constant, new_constant
from export.graph.editing import insert_node

_VIEWS = ("Reshape", "Squeeze", "Unsqueeze")
# By the permutation of the six axes: whether the channels come before the places in the block.
_CHANNELS_FIRST: dict[tuple[int, ...], bool] = {(0, 1, 3, 5, 2, 4): True, (0, 3, 5, 1, 2, 4): False}


def restore_space_to_depth(model: ir.Model) -> ir.Model:
    """Return `model`, in place: convolutions that read such a view of a picture, or of features, read a SpaceToDepth of it."""
    for transpose in [node for node in model.graph if node.op_type == "Transpose" and "perm" in node.attributes]:
        channels_first = _CHANNELS_FIRST.get(tuple(transpose.attributes["perm"].as_ints()))
        wide = transpose.inputs[0]
        if channels_first is None or wide is None:
            continue
        dims = _dims(wide)
        channels, factor = dims.get(1), dims.get(3)
        source = None if channels is None else _source(wide, channels)
        if source is None or channels is None or factor is None or factor != dims.get(5):
            continue
        for convolution in list(_convolutions(transpose.outputs[0])):
            _read(convolution, source, channels, factor, channels_first=channels_first)
    common.RemoveUnusedNodesPass()(model)
    return model


def _dims(wide: ir.Value) -> dict[int, int]:
    """Return the extents of the six axes that are known, by axis: inferred, or said by the Reshape that makes them."""
    known = {} if wide.shape is None else {axis: side for axis, side in enumerate(wide.shape) if isinstance(side, int)}
    maker = wide.producer()
    shape = None if maker is None or maker.op_type != "Reshape" or maker.inputs[1] is None else maker.inputs[1].producer()
    if shape is not None and shape.op_type == "Concat":
        parts = [constant(part) for part in shape.inputs]
        known.update({axis: int(part.item()) for axis, part in enumerate(parts) if part is not None and part.size == 1})
    return known


def _source(value: ir.Value, channels: int) -> ir.Value | None:
    """Return the first (N, C, H, W) that `value` is another view of."""
    found, maker = None, value.producer()
    while maker is not None and maker.op_type in _VIEWS and maker.inputs[0] is not None:
        value = maker.inputs[0]
        if value.shape is not None and len(value.shape) == 4 and value.shape[1] == channels:
            found = value
        maker = value.producer()
    return found


def _convolutions(value: ir.Value) -> Iterator[ir.Node]:
    """Yield those that read `value` or another view of it."""
    for use in list(value.uses()):
        if use.node.op_type in _VIEWS and use.idx == 0:
            yield from _convolutions(use.node.outputs[0])
        elif use.node.op_type == "Conv" and use.idx == 0:
            yield use.node


def _read(convolution: ir.Node, source: ir.Value, channels: int, factor: int, *, channels_first: bool) -> None:
    weight = constant(convolution.inputs[1])
    if weight is None or weight.ndim != 4 or weight.shape[1] != channels * factor**2:  # of one group, and of pictures
        return
    blocks = ir.AttrInt64("blocksize", factor)
    gathered = insert_node(convolution, "SpaceToDepth", [source], (blocks,), like=source)
    gathered.shape = None
    convolution.replace_input_with(0, gathered)
    if channels_first:
        outputs, _, *kernel = weight.shape
        ordered = weight.reshape(outputs, channels, factor**2, *kernel).swapaxes(1, 2).reshape(weight.shape)
        assert convolution.inputs[1] is not None
        assert isinstance(convolution.graph, ir.Graph)
        name = str(convolution.inputs[1].name)
        convolution.replace_input_with(1, new_constant(convolution.graph, np.ascontiguousarray(ordered), name=name))
