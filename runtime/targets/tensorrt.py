"""NVIDIA GPUs through TensorRT 10.3 or newer: explicit quantization, its rules for Q/DQ.

https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-with-quantized-types.html
"""

from .operators import ADDITION_INSIDE, LAYERS, MATMUL_BIAS, MOVES, PRODUCT, TRANSPOSED, fused
from .target import Target

TARGET = Target(
    name="tensorrt",
    description="NVIDIA GPUs through TensorRT: int8 with zero point 0, fp16 outside",
    precisions=("fp32", "fp16", "int8"),
    activation_dtype="int8",
    activation_symmetric=True,  # TensorRT requires zero_point == 0
    weight_dtype="int8",
    bias_dtype="float",  # its parser takes no DequantizeLinear of int32
    float_dtype="float16",
    operators=(*LAYERS, TRANSPOSED, PRODUCT, ADDITION_INSIDE, MATMUL_BIAS, *MOVES, *fused("Relu", "PRelu", "Clip")),
    moves_integers=False,  # the builder moves quantizers past them itself; its parser shuffles floats only
    writes_floats=True,
    opset_range=(19, 26),  # 19 brought float16 scales
    backends=("tensorrt", "onnxruntime"),  # openvino rounds what is between integers and float16 ends otherwise: 7 to 22 dB
)
