"""Decode TIFF: strips and tiles inflated one by one, then differences, photometric kind, palette and alpha undone with numpy.

Libraries only inflate: zlib, and for LZW and PackBits libtiff through Pillow, which is shown 8-bit grey. So every depth, byte
order and layout takes one path. Pictures of JPEG and CCITT blocks are libtiff's whole.

Associated alpha: a stored colour c is the colour × alpha a; the colour is round(c × most / a), 0 where a is 0.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from .banded import bands, look_up, to_array
from .tiff import tiff_of_blocks
from .tiff_layout import ASSOCIATED, DEFLATES, LZW, PACKBITS, UNCOMPRESSED, WHITE_IS_ZERO, TiffLayout

_GROUP_BYTES = 1 << 20  # small blocks are given to libtiff so many at a time
_PIECE = 1 << 16  # bytes of a deflated block, which become at most 1,032 times as many at once
_LONGEST = 2  # times what it holds is more than LZW or PackBits make of a block


def read_tiff(data: bytes, layout: TiffLayout) -> NDArray[np.uint8 | np.uint16]:
    """(H, W) or (H, W, C) as stored: CMYK left as it is, and not turned, but where libtiff decodes it.

    Raises:
        ValueError, OSError, zlib.error: a damaged block.
    """
    if layout.by_libtiff:
        return to_array(TiffImagePlugin.TiffImageFile(BytesIO(data)), "RGB" if layout.samples == 3 else "L")
    dtype = np.dtype(np.uint16 if layout.bits == 16 else np.uint8)
    pixels = np.empty((layout.height, layout.width, layout.samples), dtype)
    rows, columns = layout.block
    blocks = _blocks(data, layout)
    for plane in range(layout.samples) if layout.separate else (slice(None),):
        for top in range(0, layout.height, rows):
            for left in range(0, layout.width, columns):
                place = pixels[top : top + rows, left : left + columns, plane]
                block = _samples(next(blocks), layout)
                place[:] = (block[..., 0] if layout.separate else block)[: place.shape[0], : place.shape[1]]
    return _meant(pixels, layout)


def _shape(layout: TiffLayout, index: int) -> tuple[int, int]:
    """(rows, bytes of a row) of a block."""
    rows, columns = layout.block
    samples = 1 if layout.separate else layout.samples
    across, down = -(-layout.width // columns), -(-layout.height // rows)
    last = index // across % down == down - 1
    return (layout.height - (down - 1) * rows if last and not layout.tiled else rows), -(-columns * samples * layout.bits // 8)


def _blocks(data: bytes, layout: TiffLayout) -> Iterator[NDArray[np.uint8]]:
    """(rows, bytes of a row) of each block, in their order."""
    view = memoryview(data)
    group: list[memoryview] = []
    for index in range(len(layout.offsets)):
        start, (rows, row_bytes) = int(layout.offsets[index]), _shape(layout, index)
        packed = view[start : start + int(layout.sizes[index])]
        if layout.compression == UNCOMPRESSED:
            yield np.frombuffer(packed, np.uint8, rows * row_bytes).reshape(rows, row_bytes)
        elif layout.compression in DEFLATES:
            yield _inflated(packed, rows * row_bytes).reshape(rows, row_bytes)
        else:
            assert layout.compression in (LZW, PACKBITS)
            group.append(packed[: _LONGEST * rows * row_bytes + 64])
            last = index + 1 == len(layout.offsets) or _shape(layout, index + 1)[0] != rows
            if last or len(group) * rows * row_bytes >= _GROUP_BYTES:
                file = tiff_of_blocks(group, rows=rows, row_bytes=row_bytes, compression=layout.compression)
                yield from to_array(TiffImagePlugin.TiffImageFile(BytesIO(file)), "L").reshape(len(group), rows, row_bytes)
                group = []


def _inflated(packed: memoryview, size: int) -> NDArray[np.uint8]:
    """Return the first `size` bytes of what a zlib stream holds."""
    inflater, filled = zlib.decompressobj(), 0
    block = np.empty(size, np.uint8)
    for start in range(0, len(packed), _PIECE):
        piece = inflater.decompress(packed[start : start + _PIECE], size - filled)
        block[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
        filled += len(piece)
        if filled == size:
            return block
    raise ValueError(f"a strip or tile holds {filled} bytes instead of {size}")


def _samples(block: NDArray[np.uint8], layout: TiffLayout) -> NDArray[np.uint8 | np.uint16]:
    """(rows, columns, samples) of a block, in this machine's byte order."""
    rows, columns = len(block), layout.block[1]
    if layout.bits < 8:
        shifts = np.arange(8 - layout.bits, -1, -layout.bits, dtype=np.uint8)
        samples = (block[..., np.newaxis] >> shifts) & np.uint8((1 << layout.bits) - 1)
        return samples.reshape(rows, -1)[:, :columns, np.newaxis]
    stored = block.view(f"{layout.order}u{layout.bits // 8}").reshape(rows, columns, -1)
    if layout.differences:
        return np.add.accumulate(stored, axis=1, dtype=stored.dtype.newbyteorder("="))
    return stored


def _meant(pixels: NDArray[np.uint8 | np.uint16], layout: TiffLayout) -> NDArray[np.uint8 | np.uint16]:
    """Return what samples stand for: all of their range, 0 for black, palettes looked up, colours not multiplied by alpha."""
    most = (1 << layout.bits) - 1
    colours = pixels[..., : layout.samples - 1] if layout.alpha else pixels
    if layout.palette is not None:
        return look_up(layout.palette, pixels[..., 0])
    if layout.photometric == WHITE_IS_ZERO:
        np.subtract(most, colours, out=colours)
    if layout.bits < 8:
        pixels *= 255 // most
    if layout.alpha == ASSOCIATED:
        flat = pixels.reshape(-1, layout.samples)
        for band in bands(len(flat)):
            _divide(flat[band])
    return pixels[..., 0] if layout.samples == 1 else pixels


def _divide(pixels: NDArray[np.uint8 | np.uint16]) -> None:
    """Divide the colours of (N, C) pixels by their alpha, in place."""
    most = np.iinfo(pixels.dtype).max
    alpha = pixels[..., -1:].astype(np.uint32)
    colours = (pixels[..., :-1].astype(np.uint32) * np.uint32(most) + alpha // 2) // np.maximum(alpha, 1)
    pixels[..., :-1] = np.where(alpha > 0, np.minimum(colours, most), 0)
