"""How each ONNX operator is followed, in one table; an operator that is not in it may look anywhere."""

from __future__ import annotations

from collections.abc import Callable

from export.reach.call import Call
from export.reach.dependence import Dependence, combine, known, numbered
from export.reach.moves import (
    follow_concat,
    follow_depth_to_space,
    follow_expand,
    follow_flatten,
    follow_gather,
    follow_pad,
    follow_reshape,
    follow_slice,
    follow_space_to_depth,
    follow_split,
    follow_squeeze,
    follow_tile,
    follow_transpose,
    follow_unsqueeze,
)
from export.reach.products import (
    follow_arg_reduction,
    follow_channel_norm,
    follow_cumulation,
    follow_einsum,
    follow_gemm,
    follow_global_pool,
    follow_group_norm,
    follow_matmul,
    follow_mean_variance,
    follow_reduction,
    follow_spatial_norm,
    follow_trailing_norm,
    over_own_axis,
)
from export.reach.resize import follow_resize, follow_upsample
from export.reach.windows import follow_conv, follow_conv_transpose, follow_pool

Follow = Callable[[Call], Dependence | list[Dependence]]


def follow_elementwise(call: Call) -> Dependence:
    """Return one place of each input, broadcast."""
    parts = [part if isinstance(part, Dependence) else known(part) for part in call.inputs if part is not None]
    return combine(call.name, parts)


def follow_unary(call: Call) -> Dependence:
    """Return one place of the first input; the others are settings."""
    return combine(call.name, [call.source])


def follow_per_channel(call: Call) -> Dependence:
    """Return one place of the first input, each channel in a way of its own."""
    return numbered(call.source, call.axis(1), call.name)


def follow_copy(call: Call) -> Dependence:
    return call.source


_UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh"),
    *("Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg"),
    *("Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt"),
    *("Swish", "Tan", "Tanh", "ThresholdedRelu"),
)
_ELEMENTWISE = (
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "CastLike", "Div", "Equal", "Greater", "GreaterOrEqual"),
    *("Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
)
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
OPERATORS: dict[str, Follow] = {
    **dict.fromkeys(_UNARY, follow_unary),
    **dict.fromkeys(_ELEMENTWISE, follow_elementwise),
    **dict.fromkeys(("Identity", "Dropout"), follow_copy),
    **dict.fromkeys(("BatchNormalization", "QuantizeLinear", "DequantizeLinear"), follow_per_channel),
    **dict.fromkeys((f"Reduce{kind}" for kind in _REDUCTIONS), follow_reduction),
    **dict.fromkeys(("ArgMax", "ArgMin"), follow_arg_reduction),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), follow_global_pool),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"), over_own_axis(-1)),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), follow_trailing_norm),
    "InstanceNormalization": follow_spatial_norm,
    "GroupNormalization": follow_group_norm,
    "MeanVarianceNormalization": follow_mean_variance,
    "LRN": follow_channel_norm,
    "CumSum": follow_cumulation,
    "MatMul": follow_matmul,
    "Gemm": follow_gemm,
    "Einsum": follow_einsum,
    "Conv": follow_conv,
    "ConvTranspose": follow_conv_transpose,
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), follow_pool),
    "Resize": follow_resize,
    "Upsample": follow_upsample,
    "Pad": follow_pad,
    "Slice": follow_slice,
    "Gather": follow_gather,
    "Concat": follow_concat,
    "Split": follow_split,
    "Transpose": follow_transpose,
    "Reshape": follow_reshape,
    "Flatten": follow_flatten,
    "Squeeze": follow_squeeze,
    "Unsqueeze": follow_unsqueeze,
    "Expand": follow_expand,
    "Tile": follow_tile,
    "DepthToSpace": follow_depth_to_space,
    "SpaceToDepth": follow_space_to_depth,
}
