"""Vastai's vacc accelerators: their published LESRCNN build runs PixelShuffle in int8 alone; in fp16 it crashes the chip.

https://github.com/Vastai/VastModelZOO; of its int8 scheme nothing more is known here, and symmetric codes suit every scheme.
"""

from . import npu
from .operators import on_int8_only
from .target import Target

TARGET = Target(
    name="vacc",
    description="Vastai accelerators: everything in int8 with zero point 0, one shape of input, PixelShuffle in int8 only",
    precisions=("fp16", "int8"),
    activation_dtype="int8",
    activation_symmetric=True,
    weight_dtype="int8",
    bias_dtype="int32",
    operators=on_int8_only(npu.OPERATORS, "DepthToSpace"),
    everything_int8=True,
    static_shapes=True,
    opset_range=(13, 26),
    backends=("onnxruntime", "openvino"),
)
