"""TIFF (revision 6.0) where Pillow and OpenCV fall short: writing row by row, and reading 16-bit grey with alpha.

What is written is one uncompressed strip, big-endian, which every reader takes.

Of two samples a pixel OpenCV reads one, in 8 bits, and Pillow none in 16. But rows of n pixels of two samples are rows of 2n
pixels of one, whatever compresses the bytes: with its directory saying so, OpenCV reads the file.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError

Rows = NDArray[np.uint8 | np.uint16]
_LARGEST = (1 << 32) - (1 << 20)  # offsets have 32 bits
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_ORIENTATION, _SAMPLES, _PLANES, _PREDICTOR, _TILE_WIDTH, _EXTRA_SAMPLES = 274, 277, 284, 317, 322, 338
_SHORT, _LONG = 3, 4


class TiffWriter:
    """Takes a picture's rows from top to bottom."""

    def __init__(
        self, file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[np.generic], icc_profile: bytes, *, name: str
    ) -> None:
        self._channels = shape[2] if len(shape) == 3 else 1
        size_bytes = shape[0] * shape[1] * self._channels * dtype.itemsize
        if size_bytes > _LARGEST:
            raise ImageError(f"cannot write {name}: a TIFF holds 4 GiB, this has {size_bytes >> 20} MiB", hint="write a .png")
        self._file, self._icc_profile = file, icc_profile
        header = b"MM\0*" + struct.pack(">I", 8 + size_bytes)  # big-endian; the directory comes after the rows
        self._directory = self._directory_of(shape, dtype, offset=8 + size_bytes, size_bytes=size_bytes)
        file.write(header)

    def write(self, rows: Rows) -> None:
        self._file.write(big_endian(rows).data)

    def finish(self) -> None:
        self._file.write(self._directory)

    def _directory_of(self, shape: tuple[int, ...], dtype: np.dtype[np.generic], *, offset: int, size_bytes: int) -> bytes:
        """The tags, in the order of their numbers, and behind them what does not fit into a tag's four bytes."""
        short, long, undefined = (_SHORT, ">H", 2), (_LONG, ">I", 4), (7, ">B", 1)
        colour = self._channels > 2
        tags = [
            (_WIDTH, long, [shape[1]]),
            (_HEIGHT, long, [shape[0]]),
            (_BITS, short, [8 * dtype.itemsize] * self._channels),
            (_COMPRESSION, short, [1]),  # not compressed
            (_PHOTOMETRIC, short, [2 if colour else 1]),  # RGB, or grey of which 0 is black
            (273, long, [8]),  # one strip: where it begins,
            (_SAMPLES, short, [self._channels]),
            (278, long, [shape[0]]),  # its rows,
            (279, long, [size_bytes]),  # and its size
            (_PLANES, short, [1]),  # the samples of a pixel beside each other
        ]
        if self._channels in (2, 4):
            tags.append((_EXTRA_SAMPLES, short, [2]))  # the last sample is alpha, not premultiplied
        if self._icc_profile:
            tags.append((34675, undefined, list(self._icc_profile)))
        entries, behind = b"", b""
        behind_at = offset + 2 + 12 * len(tags) + 4
        for number, (kind, code, width), values in tags:
            packed = b"".join(struct.pack(code, value) for value in values)
            if len(packed) > 4:
                place = struct.pack(">I", behind_at + len(behind))
                behind += packed + b"\0" * (len(packed) % 2)
            else:
                place = packed.ljust(4, b"\0")
            entries += struct.pack(">HHI", number, kind, len(packed) // width) + place
        return struct.pack(">H", len(tags)) + entries + bytes(4) + behind


def with_one_sample(data: bytes) -> tuple[bytes, int] | None:
    """The file `data`, turned into one of 16-bit grey that is twice as wide and not to be turned, and the EXIF orientation it had.

    None where it is no TIFF whose pixels are 16-bit grey and alpha beside each other, kept as they are and not as differences.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return None
    try:
        entries = _read_directory(data, order)
    except struct.error:
        return None
    values = {tag: _first_value(entry, order) for tag, entry in entries.items()}
    plain = all(values.get(tag, 1) == 1 for tag in (_PHOTOMETRIC, _PLANES, _PREDICTOR))
    if not plain or values.get(_SAMPLES) != 2 or entries.get(_BITS, b"")[8:] != struct.pack(order + "HH", 16, 16):
        return None
    doubled = {tag: 2 * values[tag] for tag in (_WIDTH, _TILE_WIDTH) if tag in values}
    for tag, value in {**doubled, _BITS: 16, _SAMPLES: 1, _ORIENTATION: 1}.items():
        kind, place = (_LONG, "I") if tag in doubled else (_SHORT, "H2x")
        entries[tag] = struct.pack(f"{order}HHI{place}", tag, kind, 1, value)
    entries.pop(_EXTRA_SAMPLES, None)
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    padded = data + b"\0" * (len(data) % 2)  # directories begin at even places
    return data[:4] + struct.pack(order + "I", len(padded)) + padded[8:] + directory, values.get(_ORIENTATION, 1)


def _read_directory(data: bytes, order: str) -> dict[int, bytes]:
    """The twelve bytes of each entry of the first directory, by its tag."""
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    struct.unpack_from(f"{12 * count}x", data, at + 2)  # they are all there
    entries = [data[start : start + 12] for start in range(at + 2, at + 2 + 12 * count, 12)]
    return {struct.unpack_from(order + "H", entry)[0]: entry for entry in entries}


def _first_value(entry: bytes, order: str) -> int:
    """The number in an entry that holds one; whatever is in its place where it does not."""
    (kind,) = struct.unpack_from(order + "H", entry, 2)
    value: int = struct.unpack_from(order + ("H" if kind == _SHORT else "I"), entry, 8)[0]
    return value


def big_endian(rows: Rows) -> NDArray[np.uint8]:
    """The samples' bytes, the high one first."""
    return np.ascontiguousarray(rows, rows.dtype.newbyteorder(">")).view(np.uint8)
