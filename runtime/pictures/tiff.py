"""Write TIFF (revision 6.0) row by row, as one uncompressed big-endian strip, which every reader takes.

Also puts compressed blocks of another file into one of 8-bit grey, from which libtiff inflates them whatever their pixels are.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError

Rows = NDArray[np.uint8 | np.uint16]
_LARGEST = (1 << 32) - (1 << 20)  # offsets have 32 bits
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _SAMPLES = 256, 257, 258, 259, 262, 273, 277
_ROWS_PER_STRIP, _SIZES, _PLANES, _EXTRA_SAMPLES, _ICC_PROFILE = 278, 279, 284, 338, 34675
_SHORT, _LONG, _UNDEFINED = 3, 4, 7
_CODES = {_SHORT: "H", _LONG: "I"}
_Tag = tuple[int, int, list[int] | bytes]
"""Its number, its type and its values."""


class TiffWriter:
    """Takes a picture's rows from top to bottom."""

    def __init__(
        self, file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[np.generic], icc_profile: bytes, *, name: str
    ) -> None:
        self._channels = shape[2] if len(shape) == 3 else 1
        size_bytes = shape[0] * shape[1] * self._channels * dtype.itemsize
        if size_bytes > _LARGEST:
            raise ImageError(f"cannot write {name}: a TIFF holds 4 GiB, this has {size_bytes >> 20} MiB", hint="write a .png")
        end = 8 + size_bytes
        directory_at = end + end % 2  # directories begin at even places
        colour = self._channels > 2
        tags: list[_Tag] = [
            (_WIDTH, _LONG, [shape[1]]),
            (_HEIGHT, _LONG, [shape[0]]),
            (_BITS, _SHORT, [8 * dtype.itemsize] * self._channels),
            (_COMPRESSION, _SHORT, [1]),  # not compressed
            (_PHOTOMETRIC, _SHORT, [2 if colour else 1]),  # RGB, or grey of which 0 is black
            (_OFFSETS, _LONG, [8]),  # one strip: where it begins,
            (_SAMPLES, _SHORT, [self._channels]),
            (_ROWS_PER_STRIP, _LONG, [shape[0]]),  # its rows,
            (_SIZES, _LONG, [size_bytes]),  # and its size
            (_PLANES, _SHORT, [1]),  # the samples of a pixel beside each other
        ]
        if self._channels in (2, 4):
            tags.append((_EXTRA_SAMPLES, _SHORT, [2]))  # the last sample is alpha, not premultiplied
        if icc_profile:
            tags.append((_ICC_PROFILE, _UNDEFINED, icc_profile))
        self._file = file
        self._directory = b"\0" * (directory_at - end) + _directory(tags, at=directory_at)
        file.write(_header(directory_at))

    def write(self, rows: Rows) -> None:
        self._file.write(big_endian(rows).data)

    def finish(self) -> None:
        self._file.write(self._directory)


def tiff_of_blocks(blocks: Sequence[memoryview], *, rows: int, row_bytes: int, compression: int) -> bytes:
    """Return a TIFF of 8-bit grey whose strips are these compressed blocks, each of `rows` rows."""
    offsets = np.cumsum([8, *map(len, blocks)]).tolist()
    end = offsets.pop()
    end += end % 2
    tags: list[_Tag] = [
        (_WIDTH, _LONG, [row_bytes]),
        (_HEIGHT, _LONG, [rows * len(blocks)]),
        (_BITS, _SHORT, [8]),
        (_COMPRESSION, _SHORT, [compression]),
        (_PHOTOMETRIC, _SHORT, [1]),
        (_OFFSETS, _LONG, offsets),
        (_SAMPLES, _SHORT, [1]),
        (_ROWS_PER_STRIP, _LONG, [rows]),
        (_SIZES, _LONG, [len(block) for block in blocks]),
    ]
    return b"".join([_header(end), *blocks]).ljust(end, b"\0") + _directory(tags, at=end)


def _header(directory_at: int) -> bytes:
    return b"MM\0*" + struct.pack(">I", directory_at)


def _directory(tags: Sequence[_Tag], *, at: int) -> bytes:
    """Return the tags, in the order of their numbers, and behind them what does not fit into a tag's four bytes."""
    entries, behind = b"", b""
    behind_at = at + 2 + 12 * len(tags) + 4
    for number, kind, values in tags:
        packed = values if isinstance(values, bytes) else struct.pack(f">{len(values)}{_CODES[kind]}", *values)
        if len(packed) > 4:
            place = struct.pack(">I", behind_at + len(behind))
            behind += packed + b"\0" * (len(packed) % 2)
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(">HHI", number, kind, len(values)) + place
    return struct.pack(">H", len(tags)) + entries + bytes(4) + behind


def big_endian(rows: Rows) -> NDArray[np.uint8]:
    """Return the samples' bytes, the high one first."""
    return np.ascontiguousarray(rows, rows.dtype.newbyteorder(">")).view(np.uint8)
