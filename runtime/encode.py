"""Pictures to files, by the suffix: PNG and TIFF row by row, JPEG, WebP and BMP from the whole picture.

Rows are written beside the file's place and renamed into it when the last one is there. PNG: W3C Portable Network Graphics, third
edition; its compression is zlib's. TIFF: revision 6.0, one uncompressed strip a call, which every reader takes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.errors import ImageError

Rows = NDArray[np.uint8 | np.uint16]
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
_PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_PNG_SUB = 1  # the filter that keeps each sample's difference from its left neighbour
_PNG_LEVEL = 3  # of zlib: 4× the speed of its default here, for a few per cent of size
_TIFF_LARGEST = (1 << 32) - (1 << 20)  # offsets have 32 bits
_JPEG_QUALITY = 95
_PILLOW_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".webp": "WEBP"}


class RowWriter(Protocol):
    """Takes a picture's rows from top to bottom."""

    def write(self, rows: Rows) -> None: ...

    def finish(self) -> None:
        """After the last row."""
        ...


def can_stream(suffix: str) -> bool:
    """Whether a picture of that format is written row by row; the others are held in memory first."""
    return suffix.lower() not in _PILLOW_FORMATS


def check_format(suffix: str, shape: tuple[int, ...], dtype: np.dtype[np.generic], *, name: str) -> None:
    """ImageError where `suffix` names no format, or one that cannot hold pictures of that shape and type."""
    suffix = suffix.lower()
    if suffix not in SUFFIXES:
        raise ImageError(f"cannot write {name}: its suffix names no picture format", hint=f"one of {', '.join(SUFFIXES)}")
    channels = shape[2] if len(shape) == 3 else 1
    if suffix in _PILLOW_FORMATS and dtype != np.uint8:
        raise ImageError(f"cannot write {name}: {_PILLOW_FORMATS[suffix]} has no 16-bit samples", hint="write a .png or .tiff")
    if _PILLOW_FORMATS.get(suffix) in ("JPEG", "BMP") and channels in (2, 4):
        raise ImageError(f"cannot write {name}: {_PILLOW_FORMATS[suffix]} has no transparency", hint="write a .png, .tiff or .webp")
    largest = {".jpg": 65_535, ".jpeg": 65_535, ".webp": 16_383}.get(suffix, (1 << 31) - 1)
    if max(shape[:2]) > largest:
        raise ImageError(
            f"cannot write {name}: {shape[1]}×{shape[0]} is larger than its format holds, {largest} a side", hint="write a .png"
        )


@contextmanager
def open_writer(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic], *, icc_profile: bytes = b""
) -> Iterator[RowWriter]:
    """Writes a picture of that shape and type to `path` as its rows come; the file appears whole or not at all.

    Raises:
        ImageError: the suffix names no format or one that cannot hold the picture, or the file cannot be written.
    """
    check_format(path.suffix, shape, dtype, name=str(path))
    staged = path.with_name(f".{path.name}.part")
    try:
        try:
            with staged.open("wb") as file:
                writer = make_writer(file, path.suffix, shape, dtype, icc_profile=icc_profile, name=str(path))
                yield writer
                writer.finish()
            staged.replace(path)
        except BaseException:  # Ctrl-C too
            with suppress(OSError):
                staged.unlink()
            raise
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error.strerror or error}") from error


def make_writer(
    file: BinaryIO, suffix: str, shape: tuple[int, ...], dtype: np.dtype[np.generic], *, icc_profile: bytes, name: str
) -> RowWriter:
    """A writer of the format `suffix` to an open file."""
    suffix = suffix.lower()
    if suffix == ".png":
        return _PngWriter(file, shape, dtype, icc_profile)
    if suffix in (".tif", ".tiff"):
        return _TiffWriter(file, shape, dtype, icc_profile, name=name)
    return _WholeWriter(file, _PILLOW_FORMATS[suffix], icc_profile)


def encode(pixels: Rows, suffix: str, *, icc_profile: bytes = b"", name: str) -> bytes:
    """The bytes of a file of the format `suffix`."""
    check_format(suffix, pixels.shape, pixels.dtype, name=name)
    file = BytesIO()
    writer = make_writer(file, suffix, pixels.shape, pixels.dtype, icc_profile=icc_profile, name=name)
    writer.write(pixels)
    writer.finish()
    return file.getvalue()


class _PngWriter:
    def __init__(self, file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[np.generic], icc_profile: bytes) -> None:
        channels = shape[2] if len(shape) == 3 else 1
        self._file = file
        self._pixel_bytes = channels * dtype.itemsize
        self._compressor = zlib.compressobj(_PNG_LEVEL)
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", shape[1], shape[0], 8 * dtype.itemsize, _PNG_COLOUR_TYPES[channels], 0, 0, 0))
        if icc_profile:
            self._chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile))

    def write(self, rows: Rows) -> None:
        samples = _big_endian(rows).reshape(len(rows), -1)
        filtered = np.empty((len(rows), 1 + samples.shape[1]), np.uint8)
        filtered[:, 0] = _PNG_SUB
        filtered[:, 1:] = samples
        filtered[:, 1 + self._pixel_bytes :] -= samples[:, : -self._pixel_bytes]
        self._chunk(b"IDAT", self._compressor.compress(filtered.data))

    def finish(self) -> None:
        self._chunk(b"IDAT", self._compressor.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, kind: bytes, data: bytes) -> None:
        if data or kind == b"IEND":
            self._file.write(struct.pack(">I", len(data)) + kind)
            self._file.write(data)
            self._file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))


class _TiffWriter:
    def __init__(
        self, file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[np.generic], icc_profile: bytes, *, name: str
    ) -> None:
        self._channels = shape[2] if len(shape) == 3 else 1
        size_bytes = shape[0] * shape[1] * self._channels * dtype.itemsize
        if size_bytes > _TIFF_LARGEST:
            raise ImageError(f"cannot write {name}: a TIFF holds 4 GiB, this has {size_bytes >> 20} MiB", hint="write a .png")
        self._file, self._icc_profile = file, icc_profile
        header = b"MM\0*" + struct.pack(">I", 8 + size_bytes)  # big-endian; the directory comes after the rows
        self._directory = self._directory_of(shape, dtype, offset=8 + size_bytes, size_bytes=size_bytes)
        file.write(header)

    def write(self, rows: Rows) -> None:
        self._file.write(_big_endian(rows).data)

    def finish(self) -> None:
        self._file.write(self._directory)

    def _directory_of(self, shape: tuple[int, ...], dtype: np.dtype[np.generic], *, offset: int, size_bytes: int) -> bytes:
        """The tags, in the order of their numbers, and behind them what does not fit into a tag's four bytes."""
        short, long, undefined = (3, ">H", 2), (4, ">I", 4), (7, ">B", 1)
        colour = self._channels > 2
        tags = [
            (256, long, [shape[1]]),
            (257, long, [shape[0]]),
            (258, short, [8 * dtype.itemsize] * self._channels),
            (259, short, [1]),  # not compressed
            (262, short, [2 if colour else 1]),  # RGB, or grey of which 0 is black
            (273, long, [8]),  # one strip: where it begins,
            (277, short, [self._channels]),
            (278, long, [shape[0]]),  # its rows,
            (279, long, [size_bytes]),  # and its size
            (284, short, [1]),  # the samples of a pixel beside each other
        ]
        if self._channels in (2, 4):
            tags.append((338, short, [2]))  # the last sample is alpha, not premultiplied
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


class _WholeWriter:
    def __init__(self, file: BinaryIO, kind: str, icc_profile: bytes) -> None:
        self._file, self._kind, self._icc_profile = file, kind, icc_profile
        self._rows: list[Rows] = []

    def write(self, rows: Rows) -> None:
        self._rows.append(rows)

    def finish(self) -> None:
        pixels = self._rows[0] if len(self._rows) == 1 else np.concatenate(self._rows)
        image = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
        profile = self._icc_profile or None
        try:
            if self._kind == "JPEG":
                image.save(self._file, "JPEG", quality=_JPEG_QUALITY, icc_profile=profile)
            elif self._kind == "WEBP":
                image.save(self._file, "WEBP", lossless=True, icc_profile=profile)
            else:
                image.save(self._file, self._kind)
        except ValueError as error:
            raise ImageError(f"cannot encode a {self._kind}: {error}") from error


def _big_endian(rows: Rows) -> NDArray[np.uint8]:
    """The samples' bytes, the high one first."""
    return np.ascontiguousarray(rows, rows.dtype.newbyteorder(">")).view(np.uint8)
