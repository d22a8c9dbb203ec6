"""Read what a picture file says about itself, before a pixel is decoded, and bound the memory that decoding takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ImageError

LARGEST_PIXELS = 178_956_970  # where Pillow takes a file for a decompression bomb: half a gigabyte of 24-bit pixels
PEAK_REST = 32 << 20
"""Bytes that decoding takes beside what `peak_bytes` counts."""
SIDEWAYS = (5, 6, 7, 8)
"""The EXIF orientations that swap height and width."""
# Measured, rounded up: so many times the picture's pixels, and so many times the file. TIFF's blocks come beside.
_PEAKS = {"PNG": (3, 2), "JPEG": (5, 2), "WEBP": (6, 3), "GIF": (5, 2), "BMP": (5, 2), "TIFF": (2, 2)}


@dataclass(frozen=True, kw_only=True)
class Header:
    """A file's header.

    Attributes:
        name: what errors call the file.
        size: (H, W), upright.
        channels: of the decoded picture.
        sample_bytes: 1 or 2.
        peak_bytes: memory that reading and decoding the file takes at most, by estimate.
    """

    name: str
    size: tuple[int, int]
    channels: int
    sample_bytes: int
    peak_bytes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The decoded picture's shape: grey has no third axis."""
        return self.size if self.channels == 1 else (*self.size, self.channels)

    @property
    def pixel_bytes(self) -> int:
        """The decoded picture's size."""
        return math.prod(self.shape) * self.sample_bytes


Admit = Callable[[Header], None]
"""Is shown a file's header before a pixel is decoded; raises ImageError to refuse the file, or waits until there is room."""


def make_header(
    kind: str,
    size: tuple[int, int],
    channels: int,
    *,
    sample_bytes: int = 1,
    orientation: int,
    file_bytes: int,
    working_bytes: int = 0,
    name: str,
) -> Header:
    """Return the header of a file of the format `kind` that stores (H, W) pixels, to be turned by its EXIF orientation.

    Raises:
        ImageError: more pixels than are read.
    """
    check_size(size, name=name)
    pictures, files = _PEAKS[kind]
    return Header(
        name=name,
        size=size[::-1] if orientation in SIDEWAYS else size,
        channels=channels,
        sample_bytes=sample_bytes,
        peak_bytes=pictures * size[0] * size[1] * channels * sample_bytes + files * file_bytes + working_bytes,
    )


def check_size(size: tuple[int, int], *, name: str) -> None:
    """Raise ImageError where (H, W) is more than is read."""
    if size[0] * size[1] > LARGEST_PIXELS:
        raise too_large(f"{size[1]}×{size[0]} pixels", name=name)


def too_large(what: str, *, name: str) -> ImageError:
    """Return the error of a file that holds more than is read."""
    return ImageError(f"{name} is too large: {what}; up to {LARGEST_PIXELS} pixels are read", hint="cut it into pieces")
