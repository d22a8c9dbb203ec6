"""Write the operators that move values as ncnn's layers: shuffles, joins, cuts, paddings, pooling, enlarging."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from ...bundle.graph_content import Node
from .builder import Array, Blob, Builder, Convert, Value
from .constants import integer, integers, number, text
from .model import Number

_PADDING = {"constant": 0, "edge": 1, "reflect": 2}
_RESIZING = {"nearest": 1, "linear": 2, "cubic": 3}
_SIDES = {2: (0,), 3: (1, 0), 4: (2, 1, 0), 5: (2, 11, 1, 0)}  # Reshape's parameters, by the axes of an ONNX shape


def _blob(build: Builder, node: Node, value: Value | None, *, rank: int | None = None) -> Blob:
    if not isinstance(value, Blob) or rank not in (None, len(value.shape)):
        raise build.refuse(node, "reads something else than pictures that the network computes")
    return value


def _known(build: Builder, node: Node, value: Value | None) -> Array | None:
    if isinstance(value, Blob):
        raise build.refuse(node, "takes a size that the network computes from a picture's values")
    return value


def identity(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Leave out what changes nothing; a Cast between floats is one: ncnn has the types of its options."""
    if node.operator == "Cast" and integer(node, "to", 0) not in (1, 10, 16):
        raise build.refuse(node, "makes integers")
    return [_blob(build, node, inputs[0])]


def depth_to_space(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    blob, factor = _blob(build, node, inputs[0], rank=4), integer(node, "blocksize", 1)
    shape = (1, blob.shape[1] // factor**2, blob.shape[2] * factor, blob.shape[3] * factor)
    parameters = {0: factor, 1: int(text(node, "mode", "DCR") == "DCR")}
    return build.add(node, "PixelShuffle", (blob,), shape, parameters=parameters)


def space_to_depth(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    blob, factor = _blob(build, node, inputs[0], rank=4), integer(node, "blocksize", 1)
    if any(side % factor for side in blob.shape[2:]):
        raise build.refuse(node, f"takes blocks of {factor}×{factor} from {blob.shape[2]}×{blob.shape[3]}")
    shape = (1, blob.shape[1] * factor**2, blob.shape[2] // factor, blob.shape[3] // factor)
    return build.add(node, "Reorg", (blob,), shape, parameters={0: factor, 1: 1})


def concat(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    blobs = [_blob(build, node, value) for value in inputs]
    axis = integer(node, "axis", 1) % len(blobs[0].shape)
    if axis == 0:
        raise build.refuse(node, "joins batches")
    shape = list(blobs[0].shape)
    if any((*blob.shape[:axis], *blob.shape[axis + 1 :]) != (*shape[:axis], *shape[axis + 1 :]) for blob in blobs):
        raise build.refuse(node, f"joins shapes {', '.join(str(blob.shape) for blob in blobs)}")
    shape[axis] = sum(blob.shape[axis] for blob in blobs)
    return build.add(node, "Concat", blobs, tuple(shape), parameters={0: axis - 1})


def split(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    blob = _blob(build, node, inputs[0])
    axis = integer(node, "axis", 0) % len(blob.shape)
    given = _known(build, node, inputs[1]) if len(inputs) > 1 else None
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
    blob = _blob(build, node, inputs[0])
    starts, ends, axes, steps = (_known(build, node, inputs[at]) if len(inputs) > at else None for at in range(1, 5))
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


def pad(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write Pad of rows and columns as Padding."""
    blob = _blob(build, node, inputs[0], rank=4)
    given, filling, axes = (_known(build, node, inputs[at]) if len(inputs) > at else None for at in range(1, 4))
    mode = text(node, "mode", "constant")
    if mode not in _PADDING or axes is not None:
        raise build.refuse(node, f"pads in mode {mode}, axes named: {axes is not None}")
    pads = [int(side) for side in (integers(node, "pads") if given is None else given.tolist())]
    before, after = pads[:4], pads[4:]
    if any(before[:2]) or any(after[:2]) or min(pads) < 0:
        raise build.refuse(node, f"pads by {pads}, expected rows and columns alone")
    value = number(node, "value", 0.0) if filling is None else float(filling.ravel()[0])
    shape = tuple(side + one + other for side, one, other in zip(blob.shape, before, after, strict=True))
    build.one_size |= given is not None
    parameters: dict[int, Number] = {0: before[2], 1: after[2], 2: before[3], 3: after[3], 4: _PADDING[mode], 5: value}
    return build.add(node, "Padding", (blob,), shape, parameters=parameters) if any(pads) else [blob]


def pooling(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write MaxPool and AveragePool."""
    blob = _blob(build, node, inputs[0], rank=4)
    kernel, strides = integers(node, "kernel_shape"), integers(node, "strides", (1, 1))
    top, left, bottom, right = integers(node, "pads", (0, 0, 0, 0))
    plain = text(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID") and not integer(node, "ceil_mode", 0)
    if len(kernel) != 2 or not plain or any(one != 1 for one in integers(node, "dilations")) or len(node.outputs) > 1:
        raise build.refuse(node, "rounds sizes up, has dilations, auto_pad or indices")
    height = (blob.shape[2] + top + bottom - kernel[0]) // strides[0] + 1
    width = (blob.shape[3] + left + right - kernel[1]) // strides[1] + 1
    average = node.operator == "AveragePool"
    parameters = {0: int(average), 1: kernel[1], 11: kernel[0], 2: strides[1], 12: strides[0], 5: 1}
    parameters |= {3: left, 14: right, 13: top, 15: bottom, 6: integer(node, "count_include_pad", 0)}
    return build.add(node, "Pooling", (blob,), (1, blob.shape[1], height, width), parameters=parameters)


def resize(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write Resize as Interp, where ncnn's coordinates are those that the node asks for."""
    blob = _blob(build, node, inputs[0], rank=4)
    scales, sizes = (_known(build, node, inputs[at]) if len(inputs) > at else None for at in (2, 3))
    mode, coordinates = text(node, "mode", "nearest"), text(node, "coordinate_transformation_mode", "half_pixel")
    if sizes is not None and sizes.size:
        shape = tuple(int(side) for side in sizes.tolist())
        build.one_size = True
    elif scales is not None and scales.size:
        shape = tuple(math.floor(side * factor) for side, factor in zip(blob.shape, scales.tolist(), strict=True))
        build.one_size |= any(not float(factor).is_integer() for factor in scales.tolist())
    else:
        raise build.refuse(node, "says no size")
    whole = all(side % before == 0 for side, before in zip(shape, blob.shape, strict=True))
    down = all(before % side == 0 for side, before in zip(shape, blob.shape, strict=True))
    floor = coordinates == "asymmetric" and text(node, "nearest_mode", "round_prefer_floor") == "floor"
    half = coordinates in ("half_pixel", "pytorch_half_pixel") and 1 not in shape[2:]
    fits = {
        "nearest": (floor and (whole or down)) or (half and whole) or (floor and sizes is not None),
        "linear": half or coordinates == "align_corners",
        "cubic": half and abs(number(node, "cubic_coeff_a", -0.75) + 0.75) < 1e-6,
    }
    plain = not integer(node, "antialias", 0) and not integer(node, "exclude_outside", 0) and "axes" not in node.attributes
    if shape[:2] != blob.shape[:2] or not fits.get(mode, False) or not plain:
        raise build.refuse(node, f"resizes {blob.shape} to {shape}, mode {mode}, {coordinates}, which ncnn computes otherwise")
    parameters: dict[int, Number] = {0: _RESIZING[mode], 6: int(coordinates == "align_corners" and mode != "nearest")}
    if build.one_size:
        parameters |= {3: shape[2], 4: shape[3]}
    else:
        parameters |= {1: float(shape[2] // blob.shape[2]), 2: float(shape[3] // blob.shape[3])}
    return build.add(node, "Interp", (blob,), shape, parameters=parameters)


def reshape(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write Reshape, Flatten, Squeeze and Unsqueeze; the numbers written are those of one size of picture."""
    blob = _blob(build, node, inputs[0])
    given = _known(build, node, inputs[1]) if len(inputs) > 1 else None
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
        empty = np.empty(before, np.bool_) if math.prod(before) < 1 << 28 else None
        if empty is None:
            raise build.refuse(node, f"reads {before}")
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
    blob = _blob(build, node, inputs[0])
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
    blob, repeats = _blob(build, node, inputs[0]), _known(build, node, inputs[1])
    if repeats is None or int(repeats[0]) != 1:
        raise build.refuse(node, "repeats a batch")
    shape = tuple(side * int(count) for side, count in zip(blob.shape, repeats.tolist(), strict=True))
    return build.add(node, "Tile", (blob,), shape, parameters={2: [int(count) for count in repeats[1:]]})


def expand(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write Expand of sides of 1 as Tile."""
    blob, given = _blob(build, node, inputs[0]), _known(build, node, inputs[1])
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
    **dict.fromkeys(("MaxPool", "AveragePool"), pooling),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), reshape),
    "Concat": concat,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "Pad": pad,
    "Resize": resize,
    "Slice": cut,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Tile": repeat,
    "Transpose": transpose,
}
