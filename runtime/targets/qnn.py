"""Qualcomm's Hexagon Tensor Processor (HTP) through QNN: integers with free zero points, and a pair around every operator.

The rows are what the HTP's emulator computes as ONNX does (QNN 2.51, `onnxruntime-qnn` 2.7). What compiles and comes out wrong
there is in no row: Tile between two convolutions (3 to 12 dB), Resize to the nearest pixel with other roundings than these.
https://docs.qualcomm.com/doc/80-63442-10/topic/HtpOpDefSupplement.html
"""

from dataclasses import replace

from . import npu
from .operators import Part, Row, computed

_NEAREST = (("half_pixel", "round_prefer_ceil"), ("pytorch_half_pixel", "round_prefer_floor"), ("asymmetric", "floor"))
_COMMON = (
    *(row for row in npu.OPERATORS if row.operator not in ("Tile", "Resize")),
    *computed("Elu", "Gelu"),
    *(
        Row(
            operator="Resize",
            part=Part.MOVE,
            attributes=(
                ("mode", ("nearest",)),
                ("coordinate_transformation_mode", (coordinates,)),
                ("nearest_mode", (rounding,)),
            ),
        )
        for coordinates, rounding in _NEAREST
    ),
    Row(operator="Resize", part=Part.MOVE, attributes=(("mode", ("linear",)), ("antialias", (0,)))),
)
# The scales that the HTP's kernels write 16 bits at: with any other, what follows reads other values (11 to 13 dB).
_OWN_CODES = {"Sigmoid": (0.0, 65535 / 65536), "Tanh": (-1.0, 32767 / 32768)}
TARGET = replace(
    npu.TARGET,
    name="qnn",
    description="Qualcomm's Hexagon NPU through QNN: everything in uint8 with free zero points, int8 weights",
    activation_dtype="uint8",
    activation_symmetric=False,
    operators=(*_COMMON, *computed("HardSigmoid")),
    moves_integers=False,  # it takes operators between quantizers alone
    backends=("qnn", "onnxruntime"),
)
WIDE = replace(
    TARGET,
    name="qnn-a16",
    description="Qualcomm's Hexagon NPU through QNN: everything in uint16 with free zero points, int8 weights",
    activation_dtype="uint16",
    operators=tuple(replace(row, writes=_OWN_CODES.get(row.operator)) for row in _COMMON),
    opset_range=(21, 26),  # 21 brought 16-bit QuantizeLinear
)
