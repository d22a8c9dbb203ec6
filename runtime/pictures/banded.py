"""Apply a function to a whole picture piece by piece, so that it does not take the memory of a second picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_BAND_PIXELS = 1 << 18
_CHANNELS: dict[str, tuple[int, ...]] = {"L": (), "P": (), "LA": (2,), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}


def bands(count: int) -> Iterator[slice]:
    """So many pixels, in pieces of a quarter of a million."""
    return (slice(start, min(start + _BAND_PIXELS, count)) for start in range(0, count, _BAND_PIXELS))


def to_array(image: Image.Image, mode: str, *, convert: Callable[[Image.Image], Image.Image] | None = None) -> NDArray[np.uint8]:
    """(H, W) or (H, W, C) samples of an open image in `mode`; `convert` makes that mode of a piece, else Pillow does."""
    width, height = image.size
    pixels = np.empty((height, width, *_CHANNELS[mode]), np.uint8)
    image.load()
    rows = max(_BAND_PIXELS // width, 1)
    for top in range(0, height, rows):
        for columns in bands(width):
            piece = image.crop((columns.start, top, columns.stop, min(top + rows, height)))
            if convert is not None:
                piece = convert(piece)
            elif piece.mode != mode:
                piece = piece.convert(mode)
            pixels[top : top + rows, columns] = np.asarray(piece)
    return pixels


def look_up(table: NDArray[np.uint8], indices: NDArray[np.integer]) -> NDArray[np.uint8]:
    """(N, C) colours and (H, W) numbers of them -> (H, W, C)."""
    pixels = np.empty((indices.size, table.shape[1]), np.uint8)
    flat = indices.reshape(-1)
    for band in bands(indices.size):
        pixels[band] = table[flat[band]]
    return pixels.reshape(*indices.shape, -1)
