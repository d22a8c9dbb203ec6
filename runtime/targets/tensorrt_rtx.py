"""NVIDIA RTX GPUs through TensorRT for RTX 1.7: the scheme under which its builder moves the fewest bytes.

As for TensorRT, zero points are 0 and no DequantizeLinear reads int32. What becomes of an int8 convolution is told by the builder's
list of layers (deploy_docs/tensorrt-rtx.md has the figures): with one scale per output channel it writes fp32, with one scale per
weight tensor half; the next kernel adds the bias, computes what follows and quantizes. An addition in int8 reads its skip as one
byte per value.
"""

from .operators import LAYERS, MATMUL_BIAS, MOVES, PRODUCT, TRANSPOSED, computed, fused
from .target import Target

TARGET = Target(
    name="tensorrt-rtx",
    description="NVIDIA RTX GPUs through TensorRT for RTX: int8 with zero point 0, one scale per weight tensor, fp16 outside",
    precisions=("fp32", "fp16", "bf16", "int8"),
    activation_dtype="int8",
    activation_symmetric=True,  # its parser refuses other zero points
    weight_dtype="int8",
    weight_per_channel=False,
    bias_dtype="float",  # its parser takes no DequantizeLinear of int32
    float_dtype="float16",
    operators=(*LAYERS, TRANSPOSED, PRODUCT, MATMUL_BIAS, *computed("Add"), *MOVES, *fused("Relu", "PRelu", "Clip")),
    moves_integers=False,  # a Pad of int8 is refused where it names what it pads with
    writes_floats=True,
    opset_range=(19, 26),  # 19 brought float16 scales
    backends=(
        "tensorrt-rtx",
        "onnxruntime-rtx",
        "onnxruntime",
    ),  # openvino rounds what is between integers and float16 ends otherwise
)
