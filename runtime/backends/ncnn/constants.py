"""Compute what a graph computes of constants and of the input's size: arrays in, an array out, as ONNX defines each operator.

ncnn has no integers and no shapes; its layers are given the numbers. https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.graph_content import Attribute, Node

Array = NDArray[Any]
_DTYPES = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16, 11: np.float64, 16: np.float32}


def _cast(node: Node, array: Array) -> Array:
    kind = node.attributes["to"]
    return array.astype(_DTYPES[kind if isinstance(kind, int) else -1])


def _slice(data: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None) -> Array:
    index = [slice(None)] * data.ndim
    for at, start in enumerate(starts.tolist()):
        axis = at if axes is None else int(axes[at])
        step = 1 if steps is None else int(steps[at])
        end = int(ends[at])
        index[axis] = slice(start, None if step < 0 and end < -data.shape[axis] else end, step)
    return data[tuple(index)]


def _unsqueeze(node: Node, data: Array, axes: Array | None = None) -> Array:
    return np.expand_dims(data, tuple(integers(node, "axes") if axes is None else axes.tolist()))


def _squeeze(node: Node, data: Array, axes: Array | None = None) -> Array:
    chosen = integers(node, "axes") if axes is None else axes.tolist()
    return np.squeeze(data, tuple(chosen) or None)


def _divide(one: Array, other: Array) -> Array:
    quotient = one / other
    return np.trunc(quotient).astype(one.dtype) if one.dtype.kind in "iu" else quotient.astype(one.dtype)


def _constant(node: Node) -> Array:
    (value,) = node.attributes.values()
    return np.asarray(value, np.float32) if isinstance(value, float) else np.asarray(value)


def _filled(node: Node, shape: Array) -> Array:
    value = np.asarray(node.attributes.get("value", np.zeros(1, np.float32))).ravel()
    return np.full(tuple(shape.tolist()), value[0], value.dtype)


def _product(node: Node, data: Array, axes: Array | None = None) -> Array:
    chosen = integers(node, "axes") if axes is None else axes.tolist()
    return np.asarray(np.prod(data, axis=tuple(chosen) or None, keepdims=bool(integer(node, "keepdims", 1))), data.dtype)


def _reshape(data: Array, shape: Array) -> Array:
    return data.reshape([data.shape[at] if side == 0 else side for at, side in enumerate(shape.tolist())])


def integers(node: Node, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
    """Return an attribute that lists integers."""
    value: Attribute = node.attributes.get(name, tuple(default))
    return tuple(int(one) for one in value) if isinstance(value, tuple) else tuple(default)


def integer(node: Node, name: str, default: int) -> int:
    """Return an attribute that is an integer."""
    value = node.attributes.get(name, default)
    return int(value) if isinstance(value, int | float) else default


def number(node: Node, name: str, default: float) -> float:
    """Return an attribute that is a float."""
    value = node.attributes.get(name, default)
    return float(value) if isinstance(value, int | float) else default


def text(node: Node, name: str, default: str) -> str:
    """Return an attribute that is text."""
    value = node.attributes.get(name, default)
    return value if isinstance(value, str) else default


_OF_ARRAYS: Mapping[str, Callable[..., Array]] = {
    "Add": lambda one, other: one + other,
    "Ceil": lambda one: np.ceil(one),
    "Div": _divide,
    "Equal": lambda one, other: np.equal(one, other),
    "Expand": lambda one, shape: np.broadcast_to(one, np.broadcast_shapes(one.shape, tuple(shape.tolist()))),
    "Floor": lambda one: np.floor(one),
    "Identity": lambda one: one,
    "Max": lambda one, *others: np.max(np.broadcast_arrays(one, *others), axis=0),
    "Mod": lambda one, other: np.mod(one, other),
    "Mul": lambda one, other: one * other,
    "Neg": lambda one: -one,
    "Pow": lambda one, other: np.power(one, other).astype(one.dtype),
    "Range": lambda start, limit, step: np.arange(start, limit, step),
    "Reshape": _reshape,
    "Slice": _slice,
    "Sqrt": lambda one: np.sqrt(one),
    "Sub": lambda one, other: one - other,
    "Sum": lambda *parts: sum(parts[1:], parts[0]),
    "Where": lambda which, one, other: np.asarray(np.where(which, one, other)),
}
_OF_ATTRIBUTES: Mapping[str, Callable[..., Array]] = {
    "Cast": _cast,
    "Concat": lambda node, *parts: np.concatenate(parts, integer(node, "axis", 0)),
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Gather": lambda node, one, index: np.take(one, index, integer(node, "axis", 0)),
    "ReduceProd": _product,
    "Squeeze": _squeeze,
    "Transpose": lambda node, one: np.transpose(one, integers(node, "perm") or None),
    "Unsqueeze": _unsqueeze,
}


def compute(node: Node, arrays: Sequence[Array | None]) -> Array | None:
    """Return what `node` makes of `arrays`; None where sredge does not compute such an operator."""
    if node.operator in _OF_ARRAYS:
        return np.asarray(_OF_ARRAYS[node.operator](*arrays))
    if node.operator in _OF_ATTRIBUTES:
        return np.asarray(_OF_ATTRIBUTES[node.operator](node, *arrays))
    return None
