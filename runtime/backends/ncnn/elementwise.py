"""Write the operators that compute value by value as ncnn's layers: sums, products, activations, and means over axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...bundle.graph_content import Node
from .builder import Blob, Builder, Convert, Value
from .constants import integer, integers, number, text
from .model import Number, Weights

# BinaryOp's number for each operator, and for the same with its inputs swapped.
_BINARY = {"Add": (0, 0), "Sub": (1, 7), "Mul": (2, 2), "Div": (3, 8), "Max": (4, 4), "Min": (5, 5), "Pow": (6, 9)}
_UNARY = {"Abs": 0, "Neg": 1, "Floor": 2, "Ceil": 3, "Sqrt": 5, "Exp": 7, "Log": 8, "Sin": 9, "Cos": 10, "Reciprocal": 15}
_PLAIN = {"Sigmoid": "Sigmoid", "Tanh": "TanH", "Erf": "Erf", "Softplus": "Softplus", "Mish": "Mish"}
_REDUCTIONS = {"ReduceSum": 0, "ReduceMean": 3, "ReduceMax": 4, "ReduceMin": 5, "ReduceL1": 7, "ReduceL2": 8}
_CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise", "InnerProduct")
_TYPE, _NUMBERS = 9, 10  # of the activation inside a layer of those
_RELU, _LEAKY_RELU, _CLIP, _SIGMOID = 1, 2, 3, 4
_FLOAT_MAX = float(np.finfo(np.float32).max)


def _blob(build: Builder, node: Node, value: Value | None) -> Blob:
    if not isinstance(value, Blob):
        raise build.refuse(node, "reads a constant where ncnn reads what the network computes")
    return value


def binary(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write an operator of two values, a constant one among them, or a shape that is spread over the other."""
    values = [value for value in inputs if value is not None]
    if len(values) != 2:
        raise build.refuse(node, f"has {len(values)} inputs, expected 2")
    straight, swapped = _BINARY[node.operator]
    one, other = values
    if isinstance(one, Blob) and not isinstance(other, Blob) and other.size == 1 and other.ndim <= len(one.shape):
        parameters: dict[int, Number] = {0: straight, 1: 1, 2: float(other.ravel()[0])}
        return build.add(node, "BinaryOp", (one,), one.shape, parameters=parameters)
    if isinstance(other, Blob) and not isinstance(one, Blob) and one.size == 1 and one.ndim <= len(other.shape):
        parameters = {0: swapped, 1: 1, 2: float(one.ravel()[0])}
        return build.add(node, "BinaryOp", (other,), other.shape, parameters=parameters)
    rank = max(len(value.shape) for value in values)
    if any(isinstance(value, Blob) and len(value.shape) != rank for value in values):
        raise build.refuse(node, f"combines {one.shape} and {other.shape}, of other numbers of axes")
    shape = np.broadcast_shapes(one.shape, other.shape)
    blobs = [build.blob(node, value, rank=rank) for value in values]
    return build.add(node, "BinaryOp", blobs, shape, parameters={0: straight})


def total(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """Write Sum as additions, one after the other."""
    values = [value for value in inputs if value is not None]
    addition = replace(node, operator="Add")
    result = values[0]
    for value in values[1:]:
        if not isinstance(result, Blob) and not isinstance(value, Blob):
            result = result + value
        else:
            (result,) = binary(build, addition, (result, value))
    return [result]


def power(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write Pow; of 2 as a square, which holds for negative values too whatever the machine's own pow does."""
    exponent = inputs[1]
    if not isinstance(exponent, Blob | None) and exponent.size == 1 and float(exponent.ravel()[0]) == 2:
        blob = _blob(build, node, inputs[0])
        return build.add(node, "UnaryOp", (blob,), blob.shape, parameters={0: 4})
    return binary(build, node, inputs)


def unary(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    blob = _blob(build, node, inputs[0])
    return build.add(node, "UnaryOp", (blob,), blob.shape, parameters={0: _UNARY[node.operator]})


def plain(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write an activation without parameters."""
    blob = _blob(build, node, inputs[0])
    if node.operator == "Sigmoid":
        return _activation(build, node, blob, "Sigmoid", {}, {_TYPE: _SIGMOID})
    return build.add(node, _PLAIN[node.operator], (blob,), blob.shape)


def relu(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write Relu and LeakyRelu, inside the convolution before where there is one."""
    slope = number(node, "alpha", 0.01) if node.operator == "LeakyRelu" else 0.0
    inside: dict[int, Number | Sequence[Number]] = {_TYPE: _LEAKY_RELU, _NUMBERS: (slope,)} if slope else {_TYPE: _RELU}
    return _activation(build, node, _blob(build, node, inputs[0]), "ReLU", {0: slope}, inside)


def clip(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    limits = [number(node, "min", -_FLOAT_MAX), number(node, "max", _FLOAT_MAX)]
    for at, limit in enumerate(inputs[1:]):
        if isinstance(limit, Blob):
            raise build.refuse(node, "has a limit that the graph computes")
        if limit is not None:
            limits[at] = float(limit.ravel()[0])
    inside: dict[int, Number | Sequence[Number]] = {_TYPE: _CLIP, _NUMBERS: tuple(limits)}
    return _activation(build, node, _blob(build, node, inputs[0]), "Clip", {0: limits[0], 1: limits[1]}, inside)


def _activation(
    build: Builder,
    node: Node,
    blob: Blob,
    kind: str,
    parameters: Mapping[int, Number],
    inside: Mapping[int, Number | Sequence[Number]],
) -> list[Blob]:
    if build.fuse(node, blob, _CONVOLUTIONS, inside):
        return [blob]
    return build.add(node, kind, (blob,), blob.shape, parameters=parameters)


def parametric_relu(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write PRelu with one slope, or one per channel."""
    blob, slope = _blob(build, node, inputs[0]), inputs[1]
    if slope is None or isinstance(slope, Blob):
        raise build.refuse(node, "has slopes that the graph computes")
    full = (1,) * (len(blob.shape) - slope.ndim) + slope.shape
    if slope.size != 1 and math.prod(full) != full[1]:
        raise build.refuse(node, f"has slopes of shape {slope.shape}, expected one per channel")
    return build.add(node, "PReLU", (blob,), blob.shape, parameters={0: slope.size}, weights=[Weights(slope)])


def hard(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write HardSigmoid and HardSwish, x times HardSigmoid of 1/6 and 1/2."""
    blob = _blob(build, node, inputs[0])
    swish = node.operator == "HardSwish"
    parameters = {0: 1 / 6 if swish else number(node, "alpha", 0.2), 1: number(node, "beta", 0.5)}
    return build.add(node, node.operator, (blob,), blob.shape, parameters=parameters)


def gelu(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    blob = _blob(build, node, inputs[0])
    return build.add(node, "GELU", (blob,), blob.shape, parameters={0: int(text(node, "approximate", "none") == "tanh")})


def softmax(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    blob = _blob(build, node, inputs[0])
    axis = integer(node, "axis", -1) % len(blob.shape)
    if axis == 0:
        raise build.refuse(node, "is over the pictures of a batch")
    return build.add(node, "Softmax", (blob,), blob.shape, parameters={0: axis - 1, 1: 1})


def reduction(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write a sum, mean or maximum over axes that stay as 1."""
    blob, rank = _blob(build, node, inputs[0]), len(_blob(build, node, inputs[0]).shape)
    given = inputs[1] if len(inputs) > 1 else None
    if isinstance(given, Blob):
        raise build.refuse(node, "has axes that the graph computes")
    axes = tuple(int(axis) % rank for axis in (integers(node, "axes") if given is None else given.tolist()))
    if not axes or 0 in axes or not integer(node, "keepdims", 1):
        raise build.refuse(node, f"is over axes {axes}, or does not keep them as 1")
    return _reduced(build, node, blob, axes, _REDUCTIONS[node.operator])


def global_pooling(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write GlobalAveragePool and GlobalMaxPool as a reduction, whose result keeps three axes in ncnn."""
    blob = _blob(build, node, inputs[0])
    return _reduced(build, node, blob, tuple(range(2, len(blob.shape))), 3 if node.operator == "GlobalAveragePool" else 4)


def _reduced(build: Builder, node: Node, blob: Blob, axes: tuple[int, ...], kind: int) -> list[Blob]:
    shape = tuple(1 if axis in axes else side for axis, side in enumerate(blob.shape))
    parameters: dict[int, Number | Sequence[Number]] = {0: kind, 1: 0, 3: tuple(axis - 1 for axis in axes), 4: 1, 5: 1}
    return build.add(node, "Reduction", (blob,), shape, parameters=parameters)


def instance_normalization(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    blob, scale, shift = _blob(build, node, inputs[0]), inputs[1], inputs[2]
    if isinstance(scale, Blob | None) or isinstance(shift, Blob | None):
        raise build.refuse(node, "has weights that the graph computes")
    parameters: dict[int, Number] = {0: scale.size, 1: number(node, "epsilon", 1e-5), 2: 1}
    return build.add(node, "InstanceNorm", (blob,), blob.shape, parameters=parameters, weights=[Weights(scale), Weights(shift)])


OPERATORS: dict[str, Convert] = {
    **dict.fromkeys(_BINARY, binary),
    "Pow": power,
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(_PLAIN, plain),
    **dict.fromkeys(_REDUCTIONS, reduction),
    **dict.fromkeys(("Relu", "LeakyRelu"), relu),
    **dict.fromkeys(("HardSigmoid", "HardSwish"), hard),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), global_pooling),
    "Clip": clip,
    "Gelu": gelu,
    "InstanceNormalization": instance_normalization,
    "PRelu": parametric_relu,
    "Softmax": softmax,
    "Sum": total,
}
