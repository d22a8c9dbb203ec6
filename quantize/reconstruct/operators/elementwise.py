"""ONNX's elementwise operators in torch, with numpy's broadcasting (https://onnx.ai/onnx/operators/)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import onnx
import onnx_ir as ir
import torch
import torch.nn.functional as F  # noqa: N812 # the field's name for it

from export.graph.attributes import attribute
from quantize.reconstruct.operators.operator import Given, Operator, Tensor, needed, present

_SELU = 1.67326319217681884765625, 1.05070102214813232421875


def _unary(compute: Callable[[Tensor], Tensor]) -> Operator:
    return lambda _, given: compute(needed(given))


def _binary(compute: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda _, given: compute(needed(given, 0), needed(given, 1))


def _variadic(compute: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda _, given: functools.reduce(compute, [needed(given, index) for index in range(len(given))])


def _divide(one: Tensor, other: Tensor) -> Tensor:
    return one / other if one.is_floating_point() else torch.div(one, other, rounding_mode="trunc")


def _clip(node: ir.Node, given: Given) -> Tensor:
    """Bounds are inputs since opset 11, attributes before."""
    made, low, high = needed(given), present(given, 1), present(given, 2)
    if low is not None or "min" in node.attributes:
        made = torch.maximum(made, torch.as_tensor(attribute(node, "min", 0.0), dtype=made.dtype) if low is None else low)
    if high is not None or "max" in node.attributes:
        made = torch.minimum(made, torch.as_tensor(attribute(node, "max", 0.0), dtype=made.dtype) if high is None else high)
    return made


def _modulo(node: ir.Node, given: Given) -> Tensor:
    one, other = needed(given, 0), needed(given, 1)
    return torch.fmod(one, other) if attribute(node, "fmod", 0) else torch.remainder(one, other)


def _selu(node: ir.Node, given: Given) -> Tensor:
    alpha, gamma = attribute(node, "alpha", _SELU[0]), attribute(node, "gamma", _SELU[1])
    value = needed(given)
    made: Tensor = gamma * torch.where(value > 0, value, alpha * torch.expm1(value.clamp(max=0)))
    return made


def _hard_sigmoid(value: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * value + beta).clamp(0, 1)


def _thresholded_relu(node: ir.Node, given: Given) -> Tensor:
    return torch.where(needed(given) > attribute(node, "alpha", 1.0), needed(given), 0.0)


def _swish(node: ir.Node, given: Given) -> Tensor:
    return needed(given) * torch.sigmoid(attribute(node, "alpha", 1.0) * needed(given))


def _gelu(node: ir.Node, given: Given) -> Tensor:
    return F.gelu(needed(given), approximate=attribute(node, "approximate", "none"))


def _cast(node: ir.Node, given: Given) -> Tensor:
    """float16 and float64 are float32 here, as the whole simulation is."""
    wanted = onnx.helper.tensor_dtype_to_np_dtype(attribute(node, "to", onnx.TensorProto.FLOAT))
    dtype = torch.float32 if wanted.kind == "f" else getattr(torch, wanted.name)
    return needed(given).to(dtype)


_UNARY: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "Identity": lambda value: value,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": F.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softplus": lambda value: torch.logaddexp(value, torch.zeros_like(value)),
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tanh": torch.tanh,
}
_BINARY: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Div": _divide,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Pow": torch.pow,
    "PRelu": lambda value, slope: torch.where(value < 0, value * slope, value),
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}
OPERATORS: Mapping[str, Operator] = {
    **{name: _unary(compute) for name, compute in _UNARY.items()},
    **{name: _binary(compute) for name, compute in _BINARY.items()},
    "Max": _variadic(torch.maximum),
    "Min": _variadic(torch.minimum),
    "Sum": _variadic(torch.add),
    "Mean": lambda _, given: functools.reduce(torch.add, [needed(given, index) for index in range(len(given))]) / len(given),
    "Cast": _cast,
    "CastLike": lambda _, given: needed(given).to(needed(given, 1).dtype),
    "Celu": lambda node, given: F.celu(needed(given), attribute(node, "alpha", 1.0)),
    "Clip": _clip,
    "Dropout": lambda _, given: needed(given),  # not in training
    "Elu": lambda node, given: F.elu(needed(given), attribute(node, "alpha", 1.0)),
    "Gelu": _gelu,
    "HardSigmoid": lambda node, given: _hard_sigmoid(needed(given), attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)),
    "LeakyRelu": lambda node, given: F.leaky_relu(needed(given), attribute(node, "alpha", 0.01)),
    "Mod": _modulo,
    "Selu": _selu,
    "Swish": _swish,
    "ThresholdedRelu": _thresholded_relu,
    "Where": lambda _, given: torch.where(needed(given, 0), needed(given, 1), needed(given, 2)),
}
