"""The table of ONNX operators that a .tflite file can hold: a name, and the function that writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from export.engine.litert.operators import activations, elementwise, enlarging, layers, moves, pools
from export.engine.litert.writer import Writer

Write = Callable[[Writer, ir.Node], None]

OPERATORS: Mapping[str, Write] = {
    "Conv": layers.write_convolution,
    "ConvTranspose": layers.write_transposed,
    "Gemm": layers.write_gemm,
    "MatMul": layers.write_matmul,
    **dict.fromkeys(("Relu", "Clip"), activations.write_clip),
    "LeakyRelu": activations.write_leaky_relu,
    "PRelu": activations.write_prelu,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"), elementwise.write_arithmetic),
    **dict.fromkeys(elementwise.FUNCTIONS, elementwise.write_function),
    "Softmax": elementwise.write_softmax,
    **dict.fromkeys(("MaxPool", "AveragePool"), pools.write_pool),
    **dict.fromkeys(pools.REDUCTIONS, pools.write_reduction),
    "DepthToSpace": enlarging.write_depth_to_space,
    "SpaceToDepth": enlarging.write_space_to_depth,
    "Resize": enlarging.write_resize,
    **dict.fromkeys(("Identity", "Cast", "Dropout"), moves.write_identity),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), moves.write_reshape),
    **dict.fromkeys(("Tile", "Expand"), moves.write_tile),
    "Transpose": moves.write_transpose,
    "Concat": moves.write_concat,
    "Pad": moves.write_pad,
    "Slice": moves.write_slice,
    "Split": moves.write_split,
    "Gather": moves.write_gather,
}
