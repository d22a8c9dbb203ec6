"""Find constants that count the picture's pixels, such as the divisor of a mean written out, and make them follow the size.

torch.var's n / (n - 1), and means scaled back to sums, keep the number of pixels n as a constant in a file of one size. They are
looked for before anything folds them into weights. What a global pool or a reduction gathers is followed as long as it stays
without places: until it meets the picture again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from export.foreign.shapes import describe
from export.graph.constants import constant

_POOLS = ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
_SCALES = ("Mul", "Div", "Add", "Sub")


def find_count(model: ir.Model) -> str:
    """Return the first constant made of a count of pixels that meets what was gathered over the picture; "" where there is none.

    Args:
        model: a graph of one size, as its file has it.
    """
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True)).graph
    extents = _extents(graph)
    gathered = set[str]()
    for node in graph:
        mixes = node.op_type in _POOLS or (node.op_type.startswith("Reduce") and _loses_places(node, extents))
        sources = [value for value in node.inputs if value is not None and value.name in gathered]
        if mixes or any(_elements(node.outputs[0]) < min(extents) * _elements(source) for source in sources):
            gathered.update(str(output.name) for output in node.outputs)
        for value in node.inputs if sources and node.op_type in _SCALES else ():
            array = constant(value)
            number = 0.0 if array is None or array.size != 1 else float(array.reshape(-1)[0])
            if any(math.isclose(abs(number), count, rel_tol=1e-6) for extent in extents for count in _counts(extent)):
                return f"{describe(node)} has {number:g}, which may be made of the number of pixels"
    return ""


def _extents(graph: ir.Graph) -> set[int]:
    """Return the heights, widths and numbers of pixels that the picture and the features have."""
    found = set[int]()
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        dims = () if value.shape is None else tuple(value.shape)
        if len(dims) == 4 and isinstance(dims[2], int) and isinstance(dims[3], int):
            found |= {dims[2], dims[3], dims[2] * dims[3]}
    return {extent for extent in found if extent > 1}


def _loses_places(node: ir.Node, extents: set[int]) -> bool:
    return node.inputs[0] is not None and round(_elements(node.inputs[0]) / _elements(node.outputs[0])) in extents


def _elements(value: ir.Value) -> int:
    return 1 if value.shape is None else math.prod(side for side in value.shape if isinstance(side, int)) or 1


def _counts(pixels: int) -> Iterator[float]:
    """Yield what is made of a number of pixels.

    Itself, one less (an unbiased variance), their quotient, and of each the double, the half, the inverse and the root.
    """
    for number in (pixels, pixels - 1, pixels / max(pixels - 1, 1)):
        if number > 0:
            for part in (number, 2 * number, number / 2):
                yield from (part, 1 / part, math.sqrt(part), 1 / math.sqrt(part))
