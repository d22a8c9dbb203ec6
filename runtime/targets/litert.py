"""LiteRT's 8-bit scheme: int8 activations with free zero points, through a .tflite file on a phone, a desktop or a microcontroller.

Activations have one scale and any zero point, weights are symmetric in ±127 per output channel, biases are int32 at scale
input·weight; `Sigmoid`, `Softmax` and `Tanh` write at scales that the specification names.
https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec
"""

from dataclasses import replace

from . import npu
from .operators import Part, Row

# The codes that the specification names: scale 1/256 from code -128 on, and scale 1/128 around code 0.
_OWN_CODES = {"Sigmoid": (0.0, 255 / 256), "Softmax": (0.0, 255 / 256), "Tanh": (-1.0, 127 / 128)}
# Computes, and still writes at the scale that it reads: LiteRT's kernels for them have no other.
_AT_ONE_SCALE = ("AveragePool", "ReduceMax", "Resize")
OPERATORS = (
    *(replace(row, writes=_OWN_CODES.get(row.operator)) for row in npu.OPERATORS if row.operator not in _AT_ONE_SCALE),
    Row(operator="AveragePool", part=Part.MOVE),
    Row(operator="ReduceMax", part=Part.MOVE),
    *(row for row in npu.OPERATORS if row.operator == "Resize" and row.part is Part.MOVE),
    Row(operator="Resize", part=Part.MOVE, attributes=(("mode", ("linear",)),)),
)
TARGET = replace(
    npu.TARGET,
    name="litert",
    description="LiteRT on phones, desktops and microcontrollers: everything in int8 with free zero points",
    activation_symmetric=False,
    operators=OPERATORS,
    moves_integers=False,  # a .tflite file names a tensor's scale and zero point on both sides of every operator
    backends=("litert", "onnxruntime"),
)
