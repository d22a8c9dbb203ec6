"""CPUs with 8-bit dot products (x86 VNNI, Arm dotprod), through openvino or onnxruntime."""

from .operators import LAYERS, MATMUL_BIAS, MOVES, SIGNED_PRODUCT, computed, fused
from .target import Target

TARGET = Target(
    name="cpu",
    description="CPU through openvino or onnxruntime: uint8 activations, int8 weights per output channel",
    precisions=("fp32", "fp16", "bf16", "int8"),
    # vpdpbusd multiplies unsigned by signed bytes, so activations are uint8; a free zero point wastes no code on signs.
    activation_dtype="uint8",
    activation_symmetric=False,
    weight_dtype="int8",
    bias_dtype="int32",  # onnxruntime fuses a convolution into QLinearConv only with an int32 bias
    operators=(*LAYERS, SIGNED_PRODUCT, *computed("Add"), MATMUL_BIAS, *MOVES, *fused("Relu", "Clip")),
    opset_range=(13, 26),  # 13 brought per-channel DequantizeLinear
    backends=("openvino", "onnxruntime"),
)
