"""Bicubic enlargement of 8-bit pictures, as Pillow's.

Along one axis, output pixel i has its centre at c = (i + 0.5) · n / m - 0.5 of n input pixels (m output pixels), and is the sum of
the four nearest ones at distances d, each by its weight of Keys' kernel (1981, doi 10.1109/TASSP.1981.1163711) with a = -0.5:

    k(d) = (a + 2) |d|³ - (a + 3) |d|² + 1            for |d| ≤ 1
    k(d) = a |d|³ - 5a |d|² + 8a |d| - 4a             for 1 < |d| < 2

Pixels beyond the border have no weight, and the others' are divided by their sum. Rows are enlarged first, then columns; each
result is rounded to 8 bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_A = -0.5
_TAPS = 4


def upscaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(H, W) of a picture of that size enlarged `scale` times, to the nearest pixel."""
    return round(size[0] * scale), round(size[1] * scale)


def upscale_bicubic(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(h, w, C) uint8 -> (H, W, C) uint8, where `size` is (H, W), neither smaller than the picture's."""
    assert size[0] >= picture.shape[0]
    assert size[1] >= picture.shape[1]
    wide = _enlarge_rows(picture.transpose(1, 0, 2), size[1]).transpose(1, 0, 2)
    return _enlarge_rows(wide, size[0])


def _enlarge_rows(picture: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """(n, w, C) uint8 -> (count, w, C) uint8."""
    sources, weights = _taps(picture.shape[0], count)
    total = np.zeros((count, *picture.shape[1:]), np.float32)
    for tap in range(_TAPS):
        total += weights[:, tap, np.newaxis, np.newaxis] * picture[sources[:, tap]]
    return np.clip(np.floor(total + np.float32(0.5)), 0, 255).astype(np.uint8)


def _taps(length: int, count: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For each of `count` output pixels its four input pixels and their weights, both (count, 4)."""
    centres = (np.arange(count) + 0.5) * length / count - 0.5
    taps = np.floor(centres).astype(np.intp)[:, np.newaxis] + np.arange(-1, _TAPS - 1)
    inside = (taps >= 0) & (taps < length)
    weights = np.where(inside, _kernel(np.abs(taps - centres[:, np.newaxis])), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    return taps.clip(0, length - 1), weights.astype(np.float32)


def _kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))
