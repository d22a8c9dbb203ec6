"""NPUs that compute on nothing but int8: those of phones and cameras, and the fixed-point ones whose scales are powers of two."""

from dataclasses import replace

from runtime.targets.target import Target

TARGET = Target(
    name="npu",
    description="NPUs: everything in int8 with zero point 0",
    precisions=("int8",),
    activation_dtype="int8",
    activation_symmetric=True,
    weight_dtype="int8",
    bias_dtype="int32",
    int8_ops=("Conv", "Add", "Mul", "PRelu", "Sigmoid", "Tanh", "ReduceMean", "ReduceMax"),
    everything_int8=True,
    moving_ops=("DepthToSpace", "Pad"),
    fused_activations=("Relu",),
    opset_range=(13, 26),
    backends=("onnxruntime", "openvino"),
)

POWER_OF_TWO = replace(
    TARGET,
    name="npu-pow2",
    description="fixed-point NPUs: everything in int8, scales that are powers of two",
    power_of_two_scales=True,
)
