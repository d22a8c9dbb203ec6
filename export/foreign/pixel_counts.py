"""Constants that are counts of pixels, where they meet what was gathered over the picture.

torch.var's n / (n - 1), and means written as sums, keep the number of pixels as a constant in a file of one size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_ir as ir

from export.foreign.shapes import Dims, Shapes, describe
from export.passes.editing import constant

_MIXES_ALL = ("GlobalAveragePool", "GlobalMaxPool")


def find_count(graph: ir.Graph, shapes: Shapes) -> str:
    """The first constant made of a count of pixels that meets what was gathered over the picture; "" where there is none."""
    gathered = set[str]()
    for node in graph:
        mixes = node.op_type in _MIXES_ALL or (node.op_type.startswith("Reduce") and shapes.varying(node.inputs[0]))
        if not mixes and not any(value is not None and value.name in gathered for value in node.inputs):
            continue
        if any(shapes.varying(output) for output in node.outputs):
            continue
        gathered.update(str(output.name) for output in node.outputs)
        for value in () if mixes else node.inputs:
            array = constant(value) if node.op_type in ("Mul", "Div", "Add", "Sub") else None
            if array is not None and array.size == 1 and _is_count(float(array.reshape(-1)[0]), shapes):
                return f"{describe(node)} has {float(array.reshape(-1)[0]):g}, which may be made of the number of pixels"
    return ""


def _is_count(number: float, shapes: Shapes) -> bool:
    extents = {side for dims in shapes.by_name[0].values() if len(dims) == 4 for side in _spatial(dims)}
    return any(math.isclose(abs(number), count, rel_tol=1e-6) for extent in extents for count in _counts(extent))


def _spatial(dims: Dims) -> tuple[int, ...]:
    height, width = dims[2] or 1, dims[3] or 1
    return tuple(size for size in (height, width, height * width) if size > 1)


def _counts(pixels: int) -> Iterator[float]:
    """What is made of a number of pixels: itself, one less (an unbiased variance), their quotient, and of each the double, the
    half, the inverse and the root."""
    for number in (pixels, pixels - 1, pixels / max(pixels - 1, 1)):
        if number > 0:
            for part in (number, 2 * number, number / 2):
                yield from (part, 1 / part, math.sqrt(part), 1 / math.sqrt(part))
