"""Write a DepthToSpace as Reshape, Transpose, Reshape: the same values, for a runtime that has no DepthToSpace.

    (N, C·r², H, W) -> (N, C, r, r, H, W) -> (N, C, H, r, W, r) -> (N, C, H·r, W·r)

in mode CRD, PixelShuffle's order; in mode DCR the first step gives (N, r, r, C, H, W)
(https://onnx.ai/onnx/operators/onnx__DepthToSpace.html). A free height and width are read from the tensor by Shape; where both are
fixed, every shape is a constant.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.graph.constants import new_constant
from export.graph.editing import discard, hand_over, insert_node

# By the permutation of the six axes: the mode, and where the axes of the channels and of the two factors stand before it.
LAYOUTS: dict[tuple[int, ...], tuple[str, int, int, int]] = {
    (0, 1, 4, 2, 5, 3): ("CRD", 1, 2, 3),
    (0, 3, 4, 1, 5, 2): ("DCR", 3, 1, 2),
}
_PERMUTATIONS = {layout[0]: permutation for permutation, layout in LAYOUTS.items()}
_SIDES = ir.Value(shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.INT64))


def write_out_shuffle(shuffle: ir.Node) -> None:
    """Replace `shuffle` in its graph."""
    source, result = shuffle.inputs[0], shuffle.outputs[0]
    assert source is not None
    factor = shuffle.attributes["blocksize"].as_int()
    mode = shuffle.attributes["mode"].as_string() if "mode" in shuffle.attributes else "DCR"
    shape = ir.Shape([None] * 4) if source.shape is None else source.shape
    # In Reshape 0 keeps the batch and -1 is whatever remains.
    channels = shape[1] // factor**2 if isinstance(shape[1], int) else -1
    split = [channels, factor, factor] if mode == "CRD" else [factor, factor, channels]
    permutation = _PERMUTATIONS[mode]
    wide_shape, final_shape = _shapes(shuffle, source, shape, split, factor)
    wide = [shape[0], *(size if size != -1 else None for size in split), *shape[2:]]
    like_wide = ir.Value(shape=ir.Shape(wide), type=source.type)
    like_turned = ir.Value(shape=ir.Shape([wide[axis] for axis in permutation]), type=source.type)
    made = insert_node(shuffle, "Reshape", [source, wide_shape], like=like_wide)
    made = insert_node(shuffle, "Transpose", [made], [ir.AttrInt64s("perm", permutation)], like=like_turned)
    hand_over(result, insert_node(shuffle, "Reshape", [made, final_shape], like=result))
    discard(shuffle)


def _shapes(shuffle: ir.Node, source: ir.Value, shape: ir.Shape, split: list[int], factor: int) -> tuple[ir.Value, ir.Value]:
    """Return what the two Reshapes are told: constants, or computed from the source's height and width where those are free."""
    graph = shuffle.graph
    assert graph is not None
    heads = ("split_channels", [0, *split]), ("merged_factors", [0, 0])
    height, width = shape[2:]
    if isinstance(height, int) and isinstance(width, int):
        tails = [height, width], [height * factor, width * factor]
        wide, final = (
            new_constant(graph, np.array([*head, *tail]), name=name) for (name, head), tail in zip(heads, tails, strict=True)
        )
        return wide, final
    whole = insert_node(shuffle, "Shape", [source], like=ir.Value(shape=ir.Shape([4]), type=_SIDES.type))
    sides = insert_node(shuffle, "Gather", [whole, new_constant(graph, np.array([2, 3]), name="height_and_width")], like=_SIDES)
    larger = insert_node(shuffle, "Mul", [sides, new_constant(graph, np.array([factor, factor]), name="factors")], like=_SIDES)
    wide, final = (
        insert_node(
            shuffle,
            "Concat",
            [new_constant(graph, np.array(head), name=name), tail],
            [ir.AttrInt64("axis", 0)],
            like=ir.Value(shape=ir.Shape([len(head) + 2]), type=_SIDES.type),
        )
        for (name, head), tail in zip(heads, (sides, larger), strict=True)
    )
    return wide, final
