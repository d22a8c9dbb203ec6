"""Write the operators that take other pixels' values as ncnn's layers: paddings, pooling, enlarging."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...bundle.graph_content import Node
from .builder import Blob, Builder, Convert, Value
from .constants import integer, integers, number, text
from .model import Number

_PADDING = {"constant": 0, "edge": 1, "reflect": 2}
_RESIZING = {"nearest": 1, "linear": 2, "cubic": 3}


def pad(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write Pad of rows and columns as Padding."""
    blob = build.computed(node, inputs[0], rank=4)
    given, filling, axes = (build.known(node, inputs[at]) if len(inputs) > at else None for at in range(1, 4))
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
    blob = build.computed(node, inputs[0], rank=4)
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
    blob = build.computed(node, inputs[0], rank=4)
    scales, sizes = (build.known(node, inputs[at]) if len(inputs) > at else None for at in (2, 3))
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


OPERATORS: dict[str, Convert] = {
    **dict.fromkeys(("MaxPool", "AveragePool"), pooling),
    "Pad": pad,
    "Resize": resize,
}
