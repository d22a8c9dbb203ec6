"""What an accelerator does with each operator in int8, as data: one row per operator, with the accelerator's constraints.

A target's table is a tuple of rows; the first row that fits an operator of a graph is that operator's. What no row fits runs in
float, or makes a target that runs everything in int8 refuse the graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum


class Part(Enum):
    """What an operator does in an int8 graph."""

    LAYER = "layer"
    """Multiplies what it reads by a constant weight, stored as int8."""
    COMPUTE = "compute"
    """Reads int8 and writes int8, each tensor at its own scale."""
    MOVE = "move"
    """Only moves data: what it writes has the scale of what it reads. Several tensors moved into one are at that one's scale."""
    FUSED = "fused"
    """Is computed inside the operator before it: no quantizer stands between."""
    BIAS = "bias"
    """Adds a constant to what a MatMul makes, inside it: MatMul has no bias of its own."""
    INSIDE = "inside"
    """Adds two tensors inside the layer that makes one of them: that one has no quantizer, the other has."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """An operator's row.

    Attributes:
        operator: ONNX's name for it.
        attributes: the values an attribute may have, by its name; one that a node leaves out has ONNX's default.
        weight_dimensions: how many a layer's weight may have.
        constants: operands other than the first may be constants.
        joins: a move may be of several tensors into one, each brought to that one's scale.
        zero_points: False where what it reads must have zero point 0, which then is int8.
        integers: a move may be of the integers themselves; else it has a DequantizeLinear before and a QuantizeLinear behind it.
        int8_only: the accelerator runs it on int8 alone, in a graph of whatever precision.
        writes: the range of the codes that the accelerator's kernel writes, whatever was measured; None where it takes any.
    """

    operator: str
    part: Part
    attributes: tuple[tuple[str, tuple[str | int | float, ...]], ...] = ()
    weight_dimensions: tuple[int, ...] = ()
    constants: bool = False
    zero_points: bool = True
    joins: bool = False
    integers: bool = True
    int8_only: bool = False
    writes: tuple[float, float] | None = None


def fused(*operators: str) -> tuple[Row, ...]:
    """Rows of activations that the operator before them takes in."""
    return tuple(Row(operator=operator, part=Part.FUSED) for operator in operators)


def computed(*operators: str, constants: bool = False) -> tuple[Row, ...]:
    """Rows of operators from int8 to int8."""
    return tuple(Row(operator=operator, part=Part.COMPUTE, constants=constants) for operator in operators)


def on_int8_only(rows: Iterable[Row], *operators: str) -> tuple[Row, ...]:
    """Return `rows`, where `operators` run on int8 alone."""
    return tuple(replace(row, int8_only=row.operator in operators) for row in rows)


CONVOLUTION = Row(
    operator="Conv",
    part=Part.LAYER,
    weight_dimensions=(4,),  # pictures: kernels of 1-D and 3-D convolutions are nowhere measured
)
TRANSPOSED = Row(operator="ConvTranspose", part=Part.LAYER, weight_dimensions=(4,))
LAYERS = (
    CONVOLUTION,
    Row(
        operator="Gemm",
        part=Part.LAYER,
        # A bias is stored in steps of input scale times weight scale, which alpha and beta would change.
        attributes=(("alpha", (1.0,)), ("beta", (1.0,)), ("transA", (0,))),
        weight_dimensions=(2,),
    ),
    Row(operator="MatMul", part=Part.LAYER, weight_dimensions=(2,)),  # a stack of weights has no one axis of output channels
)
MOVES = (
    *(
        Row(operator=operator, part=Part.MOVE)
        for operator in (
            "DepthToSpace",
            "SpaceToDepth",
            "Pad",
            "Split",
            "Slice",
            "Gather",
            "Reshape",
            "Flatten",
            "Squeeze",
            "Unsqueeze",
            "Expand",
            "Tile",
            "Identity",
        )
    ),
    Row(operator="Transpose", part=Part.MOVE, integers=False),  # openvino 2026.4 runs a convolution behind one in float (SwinIR)
    Row(operator="Concat", part=Part.MOVE, joins=True, integers=False),  # of tensors at other scales, which it brings to one
    Row(operator="MaxPool", part=Part.MOVE),  # the largest code is that of the largest value
    Row(operator="GlobalMaxPool", part=Part.MOVE, integers=False),  # ONNX has it of floats alone
    Row(
        operator="Resize",
        part=Part.MOVE,
        attributes=(
            ("mode", ("nearest",)),  # the other modes compute
            ("coordinate_transformation_mode", ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")),  # no fill
        ),
    ),
)
PRODUCT = Row(operator="MatMul", part=Part.COMPUTE)  # of two activations
# openvino 2026.4 multiplies two activations in float unless both have zero point 0 and the second is signed.
SIGNED_PRODUCT = Row(operator="MatMul", part=Part.COMPUTE, zero_points=False)
MATMUL_BIAS = Row(operator="Add", part=Part.BIAS)
ADDITION_INSIDE = Row(operator="Add", part=Part.INSIDE)
