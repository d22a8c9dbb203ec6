"""Write what changes a picture's size: DepthToSpace, SpaceToDepth and Resize.

DEPTH_TO_SPACE of (N, H, W, C) takes channel (i·r + j)·C + c to pixel (i, j): ONNX's order DCR. Where the graph has CRD order,
channel_blocks.py has changed the convolution before it; where there is none to change, a GATHER puts the channels in order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from export.engine.litert.layout import CHANNELS_LAST, arranged
from export.engine.litert.operators.moves import sliced
from export.engine.litert.reading import shape_of, unsupported
from export.engine.litert.tflite import Tensor
from export.engine.litert.writer import Writer
from export.graph.attributes import attribute
from export.graph.constants import constant

_INT32 = 2  # the schema's TensorType
_TRIED = 8  # pixels of a side whose places are compared where it is free: those of a whole factor repeat
_ROUNDING: dict[str, Callable[[np.typing.NDArray[np.float64]], np.typing.NDArray[np.float64]]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda places: np.ceil(places - 0.5),
    "round_prefer_ceil": lambda places: np.floor(places + 0.5),
}


def write_depth_to_space(writer: Writer, node: ir.Node) -> None:
    factor = attribute(node, "blocksize", 1)
    source = writer.read(node.inputs[0], layout=CHANNELS_LAST)
    channels = source.shape[3]
    assert channels is not None
    if attribute(node, "mode", "DCR") == "CRD":
        order = np.arange(channels, dtype=np.int32).reshape(-1, factor**2).T.reshape(-1)
        table = writer.constant(f"{node.name}.order", order)
        source = writer.emit(
            f"{node.name}.ordered", "GATHER", [source, table], source.shape, codes=source.codes, options={"axis": 3}
        )
    shape = arranged(shape_of(node.outputs[0], node), CHANNELS_LAST)
    made = writer.emit(str(node.name), "DEPTH_TO_SPACE", [source], shape, codes=source.codes, options={"blockSize": factor})
    writer.move(node, made, CHANNELS_LAST)


def write_space_to_depth(writer: Writer, node: ir.Node) -> None:
    source = writer.read(node.inputs[0], layout=CHANNELS_LAST)
    shape = arranged(shape_of(node.outputs[0], node), CHANNELS_LAST)
    factor = attribute(node, "blocksize", 1)
    made = writer.emit(str(node.name), "SPACE_TO_DEPTH", [source], shape, codes=source.codes, options={"blockSize": factor})
    writer.move(node, made, CHANNELS_LAST)


def write_resize(writer: Writer, node: ir.Node) -> None:
    source = writer.read(node.inputs[0], layout=CHANNELS_LAST)
    shape = arranged(shape_of(node.outputs[0], node), CHANNELS_LAST)
    mode, coordinates = attribute(node, "mode", "nearest"), attribute(node, "coordinate_transformation_mode", "half_pixel")
    factors = _factors(node, source, shape)
    if mode == "linear":
        code, options = "RESIZE_BILINEAR", _linear(node, coordinates)
    elif mode != "nearest":
        raise unsupported(node, f"its mode is {mode}, expected nearest or linear")
    else:
        code, found = "RESIZE_NEAREST_NEIGHBOR", _nearest(node, coordinates, source, factors)
        if found is None:
            writer.move(node, _gathered(writer, node, coordinates, source, factors), CHANNELS_LAST)
            return
        options = found
    size = _size(writer, node, source, shape, factors)
    writer.move(node, writer.emit(str(node.name), code, [source, size], shape, codes=source.codes, options=options), CHANNELS_LAST)


def _factors(node: ir.Node, source: Tensor, shape: tuple[int | None, ...]) -> tuple[float, float]:
    """Return by how much the picture grows in (H, W)."""
    scales = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if scales is not None and scales.size:
        axes = attribute(node, "axes", None) or range(4)
        by_axis = dict(zip((axis % 4 for axis in axes), (float(scale) for scale in scales), strict=True))
        if any(by_axis.get(axis, 1.0) != 1.0 for axis in (0, 1)):
            raise unsupported(node, "it changes the number of channels or pictures")
        return by_axis.get(2, 1.0), by_axis.get(3, 1.0)
    found = [None if old is None or new is None else new / old for old, new in zip(source.shape[1:3], shape[1:3], strict=True)]
    if found[0] is None or found[1] is None:
        raise unsupported(node, "its size is computed", hint="--window HxW")
    return found[0], found[1]


def _linear(node: ir.Node, coordinates: str) -> dict[str, bool]:
    if attribute(node, "antialias", 0):
        raise unsupported(node, "it antialiases")
    options = {
        "half_pixel": {"halfPixelCenters": True},
        "pytorch_half_pixel": {"halfPixelCenters": True},
        "asymmetric": {},
        "align_corners": {"alignCorners": True},
    }
    if coordinates not in options:
        raise unsupported(node, f"its coordinates are {coordinates}, expected one of {', '.join(options)}")
    return options[coordinates]


def _nearest(node: ir.Node, coordinates: str, source: Tensor, factors: tuple[float, float]) -> dict[str, bool] | None:
    """Return the options under which LiteRT picks the pixels that ONNX does; None where there are none."""
    choices: tuple[tuple[dict[str, bool], float], ...] = (({}, 0.0), ({"halfPixelCenters": True}, 0.5))
    for options, shift in choices:
        if all(
            np.array_equal(_picked(node, coordinates, side or _TRIED, factor), _picked_there(side or _TRIED, factor, shift))
            for side, factor in zip(source.shape[1:3], factors, strict=True)
        ):
            return options
    return None


def _gathered(writer: Writer, node: ir.Node, coordinates: str, source: Tensor, factors: tuple[float, float]) -> Tensor:
    """Return the pixels that ONNX picks, rows first and then columns, by their places."""
    for axis, factor in zip((1, 2), factors, strict=True):
        side = source.shape[axis]
        if side is None:
            rounding = attribute(node, "nearest_mode", "round_prefer_floor")
            raise unsupported(node, f"LiteRT picks other pixels than {coordinates}, {rounding}", hint="--window HxW")
        places = _picked(node, coordinates, side, factor).astype(np.int32)
        table = writer.constant(f"{node.name}.places", places)
        shape = [len(places) if at == axis else size for at, size in enumerate(source.shape)]
        source = writer.emit(str(node.name), "GATHER", [source, table], shape, codes=source.codes, options={"axis": axis})
    return source


def _picked(node: ir.Node, coordinates: str, side: int, factor: float) -> np.typing.NDArray[np.float64]:
    """Return the pixel that each one is a copy of, as ONNX says."""
    size = int(side * factor)
    at = np.arange(size, dtype=np.float64)
    places = {
        "half_pixel": (at + 0.5) / factor - 0.5,
        "pytorch_half_pixel": (at + 0.5) / factor - 0.5 if size > 1 else at * 0,
        "asymmetric": at / factor,
        "align_corners": at * (side - 1) / max(size - 1, 1),
    }.get(coordinates)
    if places is None:
        raise unsupported(node, f"its coordinates are {coordinates}")
    rounded = _ROUNDING[attribute(node, "nearest_mode", "round_prefer_floor")](places)
    return np.asarray(rounded.clip(0, side - 1))


def _picked_there(side: int, factor: float, shift: float) -> np.typing.NDArray[np.float64]:
    size = int(side * factor)
    return np.asarray(np.floor((np.arange(size) + shift) * (side / size)).clip(0, side - 1))


def _size(writer: Writer, node: ir.Node, source: Tensor, shape: tuple[int | None, ...], factors: tuple[float, float]) -> Tensor:
    """Return the (H, W) that comes out: a constant, or computed in the file from the picture's."""
    if None not in shape[1:3]:
        return writer.constant(f"{node.name}.size", np.array(shape[1:3], np.int32))
    if not all(factor.is_integer() for factor in factors):
        raise unsupported(node, f"it enlarges a free size by {factors}, expected whole numbers", hint="--window HxW")
    name = f"{node.name}.sides"
    whole = writer.emit(f"{name}.all", "SHAPE", [source], (4,), dtype="int32", options={"outType": _INT32})
    sides = sliced(writer, name, whole, [1], [3], [1])
    table = writer.constant(f"{name}.factors", np.array(factors, np.int32))
    return writer.emit(f"{name}.larger", "MUL", [sides, table], (2,), dtype="int32")
