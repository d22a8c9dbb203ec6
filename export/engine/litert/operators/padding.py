"""Say what a convolution or pool pads with: ONNX's amounts in, SAME, VALID or a PAD operator before it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.engine.litert.reading import unsupported
from export.engine.litert.tflite import Side, Tensor
from export.engine.litert.writer import Writer
from export.graph.attributes import attribute

SAME, VALID = 0, 1
Amounts = tuple[tuple[int, int], tuple[int, int]]
"""(before, after) of rows, and of columns."""


@dataclass(frozen=True)
class Window:
    """How a kernel goes over a picture: each by (rows, columns)."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]

    @property
    def reach(self) -> tuple[int, int]:
        """Pixels from the first tap to the last, both counted."""
        rows, columns = (step * (size - 1) + 1 for size, step in zip(self.kernel, self.dilations, strict=True))
        return rows, columns


def window_of(node: ir.Node, kernel: Sequence[int]) -> Window:
    """Return the window of a node whose kernel has these (rows, columns)."""
    if len(kernel) != 2:
        raise unsupported(node, f"its kernel has {len(kernel)} axes, expected 2")
    strides, dilations = (tuple(attribute(node, name, (1, 1))) for name in ("strides", "dilations"))
    return Window((kernel[0], kernel[1]), (strides[0], strides[1]), (dilations[0], dilations[1]))


def amounts_of(node: ir.Node, window: Window, sides: Sequence[Side]) -> Amounts:
    """Return what the node pads with, in pixels; `sides` are its input's (H, W)."""
    mode = attribute(node, "auto_pad", "NOTSET")
    if mode == "NOTSET":
        top, left, bottom, right = attribute(node, "pads", (0, 0, 0, 0))
        return (top, bottom), (left, right)
    if mode == "VALID":
        return (0, 0), (0, 0)
    found = []
    for side, reach, stride in zip(sides, window.reach, window.strides, strict=True):
        if side is None and stride != 1:
            raise unsupported(node, f"auto_pad {mode} and a stride of {stride} at a free size", hint="--window HxW")
        size = side if side is not None else stride
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        small = total // 2
        found.append((small, total - small) if mode == "SAME_UPPER" else (total - small, small))
    return found[0], found[1]


def is_same(amounts: Amounts, window: Window, sides: Sequence[Side]) -> bool:
    """Return whether LiteRT's SAME pads with these amounts: ceil(size / stride) outputs, the smaller half in front."""
    for (before, after), side, reach, stride in zip(amounts, sides, window.reach, window.strides, strict=True):
        if stride == 1:
            total = reach - 1
        elif side is None:
            return False
        else:
            total = max((-(-side // stride) - 1) * stride + reach - side, 0)
        if (before, after) != (total // 2, total - total // 2):
            return False
    return True


def padded(
    writer: Writer,
    source: Tensor,
    amounts: Amounts,
    window: Window,
    *,
    fill: float | None = None,
) -> tuple[Tensor, int]:
    """Return what the operator then reads, (N, H, W, C), and SAME or VALID; `fill` is another number than 0 to pad with.

    The second padding of a MaxPool is by less than all numbers; SAME leaves what is outside out, which is the same.
    """
    sides = source.shape[1:3]
    if not any(amounts[0] + amounts[1]):
        return source, VALID
    if is_same(amounts, window, sides):
        return source, SAME
    return pad(writer, source, ((0, 0), *amounts, (0, 0)), fill=fill), VALID


def pad(writer: Writer, source: Tensor, amounts: Sequence[tuple[int, int]], *, fill: float | None = None) -> Tensor:
    """Add a PAD of 0, or a PADV2 of `fill`, in the codes of `source`; amounts for each stored axis."""
    shape = [None if side is None else side + sum(amount) for side, amount in zip(source.shape, amounts, strict=True)]
    table = writer.constant(f"{source.name}.pads", np.array(amounts, np.int32))
    codes, name = source.codes, f"{source.name}.padded"
    number = 0.0 if fill is None else fill
    if (codes is None and number == 0) or (codes is not None and codes.code_of(number) == codes.zero_point):
        return writer.emit(name, "PAD", [source, table], shape, codes=codes)
    filling = np.array(number, np.float32) if codes is None else np.array(codes.code_of(number), np.int8)
    constant = writer.constant(f"{source.name}.fill", filling, codes=codes)
    return writer.emit(name, "PADV2", [source, table, constant], shape, codes=codes)
