"""Enlarge 8-bit and 16-bit pictures bicubically, with Pillow's results.

Along one axis, output pixel i has its centre at c = (i + 0.5) · n / m - 0.5 of n input pixels (m output pixels), and is the sum of
the four nearest ones at distances d, each by its weight of Keys' kernel (1981, doi 10.1109/TASSP.1981.1163711) with a = -0.5:

    k(d) = (a + 2) |d|³ - (a + 3) |d|² + 1            for |d| ≤ 1
    k(d) = a |d|³ - 5a |d|² + 8a |d| - 4a             for 1 < |d| < 2

Pixels beyond the border have no weight, and the others' are divided by their sum. Rows are enlarged first, then columns; each
result is rounded to the picture's own type. A window of the result is computed from the pixels it needs, to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..sizes import Span

Samples = TypeVar("Samples", bound=np.uint8 | np.uint16)

_A = -0.5
_TAPS = 4


def upscale_bicubic(
    picture: NDArray[Samples],
    size: tuple[int, int],
    *,
    rows: Span | None = None,
    columns: Span | None = None,
    planes: Callable[[NDArray[Samples]], NDArray[Samples]] | None = None,
) -> NDArray[Samples]:
    """(h, w, C) uint8 or uint16 -> the same of (H, W, C), where `size` is (H, W), neither smaller than the picture's.

    Args:
        rows, columns: the window of it that is wanted; None for all.
        planes: makes what is enlarged of the pixels that are needed, (n, m, C) to (n, m, D); None enlarges them themselves.
    """
    assert size[0] >= picture.shape[0]
    assert size[1] >= picture.shape[1]
    down, down_weights = _taps(picture.shape[0], size[0], rows or Span(0, size[0]))
    across, across_weights = _taps(picture.shape[1], size[1], columns or Span(0, size[1]))
    top, left = down.min(), across.min()
    needed = picture[top : down.max() + 1, left : across.max() + 1]
    needed = needed if planes is None else planes(needed)
    wide = _enlarge(needed.transpose(1, 0, 2), across - left, across_weights).transpose(1, 0, 2)
    return _enlarge(wide, down - top, down_weights)


def _enlarge(picture: NDArray[Samples], sources: NDArray[np.intp], weights: NDArray[np.float32]) -> NDArray[Samples]:
    """(n, w, C) -> (count, w, C): each output row from four input rows."""
    lines = np.ascontiguousarray(picture, np.float32).reshape(len(picture), -1)
    total = np.zeros((len(sources), lines.shape[1]), np.float32)
    for tap in range(_TAPS):
        line = lines[sources[:, tap]]
        line *= weights[:, tap, np.newaxis]
        total += line
    total += np.float32(0.5)
    np.clip(np.floor(total, out=total), 0, np.iinfo(picture.dtype).max, out=total)
    return total.astype(picture.dtype).reshape(len(sources), *picture.shape[1:])


def _taps(length: int, count: int, wanted: Span) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For each `wanted` one of `count` output pixels its four input pixels and their weights, both (n, 4)."""
    centres = (np.arange(wanted.start, wanted.stop) + 0.5) * length / count - 0.5
    taps = np.floor(centres).astype(np.intp)[:, np.newaxis] + np.arange(-1, _TAPS - 1)
    inside = (taps >= 0) & (taps < length)
    weights = np.where(inside, _kernel(np.abs(taps - centres[:, np.newaxis])), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    return taps.clip(0, length - 1), weights.astype(np.float32)


def _kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))
