"""Fill up a picture that is smaller than the graph takes, at the bottom and on the right.

Row n + i of n rows is row n - 2 - i, the picture mirrored in its last row; where there are not so many rows, it is the last row.
What the filling adds to the output is left out of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..bundle import Contract
from ..pictures.bicubic import Samples
from ..pictures.pixels import to_planes
from ..sizes import Span


def filled_planes(
    picture: NDArray[Samples], contract: Contract, *, scale: float, grid: tuple[int, int], rows: Span, columns: Span
) -> NDArray[Samples]:
    """Return a window of what a network takes of a picture, (H, W, C), in the picture's own type.

    Args:
        picture: (h, w), or (h, w, 1 to 4), uint8 or uint16.
        grid: (H, W) of the network's input, filled up.
        rows, columns: the window, in pixels of `grid`.
    """
    size = contract.input_size((picture.shape[0], picture.shape[1]), scale=scale)
    down, across = (_sources(length, filled, span) for length, filled, span in zip(size, grid, (rows, columns), strict=True))
    top, left = int(down.min()), int(across.min())
    window = Span(top, int(down.max()) + 1), Span(left, int(across.max()) + 1)
    planes = to_planes(picture, contract, scale=scale, rows=window[0], columns=window[1])
    if rows.stop <= size[0] and columns.stop <= size[1]:
        return planes
    return np.ascontiguousarray(planes[down - top][:, across - left])


def fill_up(array: NDArray[np.float32], contract: Contract, *, multiple: int = 1) -> NDArray[np.float32]:
    """(N, C, H, W) with H and W filled up to what the graph takes, and to multiples of `multiple`, where that is more."""
    size = array.shape[2], array.shape[3]
    grid = contract.filled_size(size, multiple=multiple)
    if grid == size:
        return array
    down, across = (_sources(length, filled, Span(0, filled)) for length, filled in zip(size, grid, strict=True))
    return np.ascontiguousarray(array[:, :, down][:, :, :, across])


def _sources(length: int, filled: int, span: Span) -> NDArray[np.intp]:
    """Return which of `length` pixels each of those in `span` is, of an axis that is filled up to `filled`."""
    places = np.arange(span.start, span.stop)
    last = length - 1
    return np.where(places <= last, places, 2 * last - places) if filled - length <= last else np.minimum(places, last)
