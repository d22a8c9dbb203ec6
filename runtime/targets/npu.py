"""NPUs that compute on nothing but int8: those of phones and cameras, and the fixed-point ones whose scales are powers of two."""

from dataclasses import replace

from .operators import LAYERS, MATMUL_BIAS, MOVES, PRODUCT, TRANSPOSED, Part, Row, computed, fused
from .target import Target

# What LiteRT's 8-bit scheme has (https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec).
OPERATORS = (
    *LAYERS,
    TRANSPOSED,
    PRODUCT,
    *fused("Relu", "Clip"),
    MATMUL_BIAS,
    *computed("Add", "Sub", "Mul", "PRelu", constants=True),
    *computed("Sigmoid", "Tanh", "LeakyRelu", "HardSwish", "Softmax"),
    *computed("ReduceMean", "ReduceMax", "AveragePool", "GlobalAveragePool"),
    *MOVES,
    Row(operator="Resize", part=Part.COMPUTE, attributes=(("mode", ("linear",)),), constants=True),
)
TARGET = Target(
    name="npu",
    description="NPUs: everything in int8 with zero point 0",
    precisions=("int8",),
    activation_dtype="int8",
    activation_symmetric=True,
    weight_dtype="int8",
    bias_dtype="int32",
    operators=OPERATORS,
    everything_int8=True,
    opset_range=(13, 26),
    backends=("onnxruntime", "openvino"),
)

POWER_OF_TWO = replace(
    TARGET,
    name="npu-pow2",
    description="fixed-point NPUs: everything in int8, scales that are powers of two",
    power_of_two_scales=True,
)
