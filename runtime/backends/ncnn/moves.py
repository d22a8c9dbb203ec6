"""Write the operators that move values as ncnn's layers: shuffles, joins, cuts, other shapes and orders of axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from ...bundle.graph_content import Node
from .builder import Array, Blob, Builder, Convert, Value
from .constants import integer, integers, text

_SIDES = {2: (0,), 3: (1, 0), 4: (2, 1, 0), 5: (2, 11, 1, 0)}  # Reshape's parameters, by the axes of an ONNX shape


def identity(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Leave out what changes nothing; a Cast between floats is one: ncnn has the types of its options."""
    if node.operator == "Cast" and integer(node, "to", 0) not in (1, 10, 16):
        raise build.refuse(node, "makes integers")
    return [build.computed(node, inputs[0])]


def depth_to_space(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    blob, factor = build.computed(node, inputs[0], rank=4), integer(node, "blocksize", 1)
    shape = (1, blob.shape[1] // factor**2, blob.shape[2] * factor, blob.shape[3] * factor)
    parameters = {0: factor, 1: int(text(node, "mode", "DCR") == "DCR")}
    return build.add(node, "PixelShuffle", (blob,), shape, parameters=parameters)


def space_to_depth(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    blob, factor = build.computed(node, inputs[0], rank=4), integer(node, "blocksize", 1)
    if any(side % factor for side in blob.shape[2:]):
        raise build.refuse(node, f"takes blocks of {factor}×{factor} from {blob.shape[2]}×{blob.shape[3]}")
    shape = (1, blob.shape[1] * factor**2, blob.shape[2] // factor, blob.shape[3] // factor)
    return build.add(node, "Reorg", (blob,), shape, parameters={0: factor, 1: 1})


def concat(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    blobs = [build.computed(node, value) for value in inputs]
    axis = integer(node, "axis", 1) % len(blobs[0].shape)
    if axis == 0:
        raise build.refuse(node, "joins batches")
    shape = list(blobs[0].shape)
    if any((*blob.shape[:axis], *blob.shape[axis + 1 :]) != (*shape[:axis], *shape[axis + 1 :]) for blob in blobs):
        raise build.refuse(node, f"joins shapes {', '.join(str(blob.shape) for blob in blobs)}")
    shape[axis] = sum(blob.shape[axis] for blob in blobs)
    return build.add(node, "Concat", blobs, tuple(shape), parameters={0: axis - 1})


def split(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    blob = build.computed(node, inputs[0])
    axis = integer(node, "axis", 0) % len(blob.shape)
    given = build.known(node, inputs[1]) if len(inputs) > 1 else None
    count = len(node.outputs)
    parts = integers(node, "split") if given is None else tuple(given.tolist())
    if not parts:
        even = -(-blob.shape[axis] // count)
        parts = (*[even] * (count - 1), blob.shape[axis] - even * (count - 1))
    if axis == 0:
        raise build.refuse(node, "cuts a batch")
    build.one_size |= axis > 1
    shapes = [(*blob.shape[:axis], int(part), *blob.shape[axis + 1 :]) for part in parts]
    return build.add(node, "Slice", (blob,), *shapes, parameters={0: tuple(int(part) for part in parts), 1: axis - 1})


def cut(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write Slice in steps of 1 as Crop."""
    blob = build.computed(node, inputs[0])
    starts, ends, axes, steps = (build.known(node, inputs[at]) if len(inputs) > at else None for at in range(1, 5))
    if starts is None or ends is None or (steps is not None and (steps != 1).any()):
        raise build.refuse(node, "takes values in other steps than 1" if steps is not None else "says no ends")
    chosen = [int(axis) % len(blob.shape) for axis in (range(len(starts)) if axes is None else axes.tolist())]
    shape, cuts = list(blob.shape), []
    for axis, start, end in zip(chosen, starts.tolist(), ends.tolist(), strict=True):
        first, last, _ = slice(start, end).indices(blob.shape[axis])
        shape[axis] = max(last - first, 0)
        if (first, last) != (0, blob.shape[axis]):
            cuts.append((axis, first, last))
        build.one_size |= axis > 1
    if 0 in shape or any(axis == 0 for axis, *_ in cuts):
        raise build.refuse(node, f"cuts {blob.shape} to {tuple(shape)}")
    if not cuts:
        return [blob]
    parameters = {9: [first for _, first, _ in cuts], 10: [last for *_, last in cuts], 11: [axis - 1 for axis, *_ in cuts]}
    return build.add(node, "Crop", (blob,), tuple(shape), parameters=parameters)


def reshape(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write Reshape, Flatten, Squeeze and Unsqueeze; the numbers written are those of one size of picture."""
    blob = build.computed(node, inputs[0])
    given = build.known(node, inputs[1]) if len(inputs) > 1 else None
    shape = _reshaped(build, node, blob.shape, given)
    if shape == blob.shape:
        return [blob]
    if len(shape) not in _SIDES or shape[0] != 1:
        raise build.refuse(node, f"makes a tensor of shape {shape}, where ncnn has (1, …) of 2 to 5 axes")
    build.one_size = True
    return build.add(node, "Reshape", (blob,), shape, parameters=dict(zip(_SIDES[len(shape)], shape[1:], strict=True)))


def _reshaped(build: Builder, node: Node, before: tuple[int, ...], given: Array | None) -> tuple[int, ...]:
    if node.operator == "Flatten":
        axis = integer(node, "axis", 1)
        return (math.prod(before[:axis]), math.prod(before[axis:]))
    if node.operator in ("Squeeze", "Unsqueeze"):
        axes = tuple(integers(node, "axes") if given is None else given.tolist())
        empty = np.broadcast_to(np.False_, before)  # takes no memory
        return np.expand_dims(empty, axes).shape if node.operator == "Unsqueeze" else np.squeeze(empty, axes or None).shape
    if given is None or integer(node, "allowzero", 0):
        raise build.refuse(node, "says no shape")
    sides = [before[at] if side == 0 else int(side) for at, side in enumerate(given.tolist())]
    known = math.prod(side for side in sides if side != -1)
    shape = tuple(math.prod(before) // max(known, 1) if side == -1 else side for side in sides)
    if math.prod(shape) != math.prod(before):
        raise build.refuse(node, f"makes {shape} of {before}")
    return shape


def transpose(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write Transpose as Permute, which numbers the orders of axes one after the other."""
    blob = build.computed(node, inputs[0])
    rank = len(blob.shape)
    order = integers(node, "perm") or tuple(reversed(range(rank)))
    if order[0] != 0:
        raise build.refuse(node, f"moves the axis of the batch: {order}")
    if order == tuple(range(rank)):
        return [blob]
    index = list(itertools.permutations(range(1, rank))).index(order[1:])
    return build.add(node, "Permute", (blob,), tuple(blob.shape[axis] for axis in order), parameters={0: index})


def repeat(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write Tile of what the network computes."""
    blob, repeats = build.computed(node, inputs[0]), build.known(node, inputs[1])
    if repeats is None or int(repeats[0]) != 1:
        raise build.refuse(node, "repeats a batch")
    shape = tuple(side * int(count) for side, count in zip(blob.shape, repeats.tolist(), strict=True))
    return build.add(node, "Tile", (blob,), shape, parameters={2: [int(count) for count in repeats[1:]]})


def expand(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write Expand of sides of 1 as Tile."""
    blob, given = build.computed(node, inputs[0]), build.known(node, inputs[1])
    shape = np.broadcast_shapes(blob.shape, () if given is None else tuple(given.tolist()))
    if len(shape) != len(blob.shape):
        raise build.refuse(node, f"spreads {blob.shape} over {shape}")
    if shape == blob.shape:
        return [blob]
    build.one_size = True
    repeats = [after // before for after, before in zip(shape[1:], blob.shape[1:], strict=True)]
    return build.add(node, "Tile", (blob,), shape, parameters={2: repeats})


OPERATORS: dict[str, Convert] = {
    **dict.fromkeys(("Cast", "Identity", "Dropout"), identity),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), reshape),
    "Concat": concat,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "Slice": cut,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Tile": repeat,
    "Transpose": transpose,
}
