"""Encode pictures by a file's suffix: PNG and TIFF row by row, JPEG, WebP and BMP from the whole picture.

Rows are written beside the file's place and renamed into it when the last one is there. PNG: W3C Portable Network Graphics, third
edition; its compression is zlib's. What is encoded from the whole picture takes that much memory, and what Pillow takes beside it.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from PIL import Image

from ..errors import ImageError
from ..files.whole import staged
from .tiff import Rows, TiffWriter, big_endian

_log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
_PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_PNG_SUB = 1  # the filter that keeps each sample's difference from its left neighbour
_PNG_LEVEL = 3  # of zlib: 4× the speed of its default here, for a few per cent of size
_JPEG_QUALITY = 95
_WHOLE_BYTES = {"JPEG": 12, "BMP": 12, "WEBP": 48}  # per pixel, measured: the picture, and what Pillow and its libraries take
_PILLOW_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".webp": "WEBP"}


class RowWriter(Protocol):
    """Takes a picture's rows from top to bottom."""

    def write(self, rows: Rows) -> None: ...

    def finish(self) -> None:
        """After the last row."""
        ...


def can_stream(suffix: str) -> bool:
    """Return whether a picture of that format is written row by row; the others are held in memory first."""
    return suffix.lower() not in _PILLOW_FORMATS


def whole_bytes(suffix: str, shape: tuple[int, ...]) -> int:
    """Memory that encoding a picture of that shape takes at most: 0 of a format that is written row by row."""
    return _WHOLE_BYTES.get(_PILLOW_FORMATS.get(suffix.lower(), ""), 0) * shape[0] * shape[1]


def check_format(suffix: str, shape: tuple[int, ...], dtype: np.dtype[np.generic], *, name: str) -> None:
    """Raise ImageError where `suffix` names no format, or one that cannot hold pictures of that shape and type."""
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
    """Write a picture of that shape and type to `path` as its rows come; the file appears whole or not at all.

    Raises:
        ImageError: the suffix names no format or one that cannot hold the picture, or the file cannot be written.
    """
    check_format(path.suffix, shape, dtype, name=str(path))
    try:
        with staged(path) as file:
            writer = make_writer(file, path.suffix, shape, dtype, icc_profile=icc_profile, name=str(path))
            yield writer
            writer.finish()
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error.strerror or error}") from error


def make_writer(
    file: BinaryIO, suffix: str, shape: tuple[int, ...], dtype: np.dtype[np.generic], *, icc_profile: bytes, name: str
) -> RowWriter:
    """Return a writer of the format `suffix` to an open file."""
    suffix = suffix.lower()
    if suffix == ".png":
        return _PngWriter(file, shape, dtype, icc_profile)
    if suffix in (".tif", ".tiff"):
        return TiffWriter(file, shape, dtype, icc_profile, name=name)
    if suffix == ".bmp" and icc_profile:
        _log.warning("%s: a BMP has no place for a colour profile, which is left out", name)
    return _WholeWriter(file, _PILLOW_FORMATS[suffix], shape, icc_profile)


def encode(pixels: Rows, suffix: str, *, icc_profile: bytes = b"", name: str) -> bytes:
    """Return the bytes of a file of the format `suffix`."""
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
        samples = big_endian(rows).reshape(len(rows), -1)
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


class _WholeWriter:
    def __init__(self, file: BinaryIO, kind: str, shape: tuple[int, ...], icc_profile: bytes) -> None:
        self._file, self._kind, self._icc_profile = file, kind, icc_profile
        self._pixels = np.empty(shape, np.uint8)
        self._written = 0

    def write(self, rows: Rows) -> None:
        self._pixels[self._written : self._written + len(rows)] = rows
        self._written += len(rows)

    def finish(self) -> None:
        pixels = self._pixels
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
