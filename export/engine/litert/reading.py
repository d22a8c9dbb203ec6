"""Read what a quantized ONNX graph says of one value or node: codes, layers' integers, clips, sizes; nothing is written here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.engine.compiled import OTHER_WAY
from export.engine.litert.tflite import Codes, Side
from export.graph.attributes import attribute
from export.graph.constants import constant
from export.graph.editing import only_reader
from runtime.errors import UserError

Clip = tuple[float, float]
_FREE = ("Relu", "Clip")


@dataclass(frozen=True)
class End:
    """What a node's result is when something else first reads it: behind a Relu or Clip, and with the codes it is stored in."""

    value: ir.Value
    clip: Clip | None
    codes: Codes | None


@dataclass(frozen=True)
class Parameter:
    """A layer's weight or bias: integers with `scales`, one for all or one for each channel, or floats with none."""

    array: NDArray[Any]
    scales: NDArray[np.float32] | None = None

    @property
    def floats(self) -> NDArray[Any]:
        """Only of what has no scales."""
        assert self.scales is None
        return self.array


def unsupported(node: ir.Node, why: str, *, hint: str = "") -> UserError:
    """Return the error for an operator that LiteRT has not, or not so."""
    return UserError(
        f"a .tflite file cannot hold {node.op_type} ({node.name}): {why}",
        hint=hint or OTHER_WAY,
    )


def codes_of(node: ir.Node) -> Codes:
    """Return the codes that a QuantizeLinear or DequantizeLinear of an activation names."""
    scale, zero_point = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if scale is None or scale.size != 1:
        raise unsupported(node, "expected one constant scale")
    if zero_point is None or zero_point.dtype != np.int8:
        kind = "uint8, ONNX's default" if zero_point is None else str(zero_point.dtype)
        raise unsupported(node, f"activations are {kind}, LiteRT's are int8", hint="python -m quantize BUNDLE --target litert")
    return Codes((float(scale.item()),), (int(zero_point.item()),))


def end_of(value: ir.Value) -> End:
    """Follow what a node writes through the one Relu or Clip behind it, to its quantizer where all that reads it is one."""
    clip = None
    reader = only_reader(value)
    if reader is not None and reader.op_type in _FREE:
        clip, value = clip_of(reader), reader.outputs[0]
    uses = [use.node for use in value.uses()]
    if value.is_graph_output() or not uses or any(node.op_type != "QuantizeLinear" for node in uses):
        return End(value, clip, None)
    (first, *others) = {codes_of(node) for node in uses}
    return End(value, clip, None if others else first)


def clip_of(node: ir.Node) -> Clip:
    """Return the bounds of a Relu or Clip."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    bounds = []
    for index, default in ((1, -np.inf), (2, np.inf)):
        given = node.inputs[index] if len(node.inputs) > index else None
        array = None if given is None else constant(given)
        if given is not None and array is None:
            raise unsupported(node, "its bounds are computed")
        bounds.append(default if array is None else float(array.item()))
    return bounds[0], bounds[1]


def parameter(node: ir.Node, index: int) -> Parameter | None:
    """Return the constant a layer reads there, as the graph stores it; None where it is no constant or is left out."""
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None:
        return None
    restore = value.producer()
    if restore is None or restore.op_type != "DequantizeLinear":
        array = constant(value)
        return None if array is None else Parameter(array)
    integers, scales = constant(restore.inputs[0]), constant(restore.inputs[1])
    if integers is None or scales is None:
        return None
    if len(restore.inputs) > 2 and np.any(constant(restore.inputs[2])):
        raise unsupported(node, "its weights have zero points", hint="python -m quantize BUNDLE --target litert")
    axis = attribute(restore, "axis", 1)
    along = [-1 if at == axis % integers.ndim else 1 for at in range(integers.ndim)]
    return Parameter(integers, np.asarray(scales, np.float32).reshape(along if scales.size > 1 else [1] * integers.ndim))


def shape_of(value: ir.Value, node: ir.Node) -> tuple[Side, ...]:
    """Return a value's shape, None for a side that is free."""
    if value.shape is None:
        raise unsupported(node, f"the shape of {value.name} is not known", hint="--window HxW")
    return tuple(side if isinstance(side, int) else None for side in value.shape)


def integers(node: ir.Node, index: int) -> list[int] | None:
    """Return constant indices, sizes or axes; None where the node leaves them out."""
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None:
        return None
    array = constant(value)
    if array is None:
        raise unsupported(node, f"{value.name} is computed from the picture's size", hint="--window HxW")
    return [int(number) for number in array.reshape(-1)]
