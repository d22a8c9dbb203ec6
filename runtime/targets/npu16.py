"""NPUs that multiply 16-bit activations by 8-bit weights: Qualcomm's HTP (A16W8), Arm's Ethos-U and LiteRT's delegates (16x8).

LiteRT's 16x8 scheme wants zero point 0 (https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec).
HTP's uint16 has a free zero point; codes of int16 with zero point 0 are its codes with 32768 for zero point.
"""

from dataclasses import replace

from . import npu

TARGET = replace(
    npu.TARGET,
    name="npu-a16",
    description="NPUs with 16-bit activations: everything quantized, int16 activations with zero point 0, int8 weights",
    activation_dtype="int16",
    moves_integers=False,  # compilers take operators between quantizers, and ONNX Runtime moves no int16
    opset_range=(21, 26),  # 21 brought 16-bit QuantizeLinear
    backends=("onnxruntime",),  # openvino 2026.4 computes 16-bit codes otherwise: 4 to 31 dB from the graph simulated
)
