"""Say in which order a file stores a tensor's axes: a layout names, for each stored axis, the axis that it is in the ONNX graph.

LiteRT has a picture as (N, H, W, C) and ONNX as (N, C, H, W): layout (0, 2, 3, 1). Operators that treat every axis alike keep the
layout that they find; a Transpose in ONNX only names the axes anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Layout = tuple[int, ...]
CHANNELS_LAST: Layout = (0, 2, 3, 1)

Item = TypeVar("Item")


def as_in_onnx(rank: int) -> Layout:
    """Return the layout of ONNX's own order."""
    return tuple(range(rank))


def with_last(rank: int, axis: int) -> Layout:
    """Return the layout that has `axis` last and the others in order."""
    return (*(other for other in range(rank) if other != axis % rank), axis % rank)


def arranged(items: Sequence[Item], layout: Layout) -> tuple[Item, ...]:
    """Return what there is for each of ONNX's axes, in the stored order."""
    return tuple(items[axis] for axis in layout)


def moves(before: Layout, after: Layout) -> tuple[int, ...]:
    """Return the permutation that a TRANSPOSE from one layout to the other has."""
    return tuple(before.index(axis) for axis in after)


def renamed(layout: Layout, permutation: Sequence[int]) -> Layout:
    """Return the layout, in the axes behind an ONNX Transpose, of a tensor stored so before it."""
    return tuple(list(permutation).index(axis) for axis in layout)
