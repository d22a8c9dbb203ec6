"""Read pairs of pictures, low and high resolution of one scene: files in, (h, w, 3) uint8 RGB out, and a hash of the pixels.

A low-resolution picture that is missing is made from the high one. The hash tells one picture in two data sets.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from calibration.known_pictures import known_hashes, note_hashes
from runtime.errors import DatasetError
from runtime.images import Picture, read_picture
from runtime.sizes import upscaled_size


@dataclass(frozen=True)
class Pair:
    """One picture: its high-resolution file, its low-resolution file, or both."""

    name: str
    high: Path | None
    low: Path | None


@dataclass(frozen=True)
class ImageSet:
    """The pictures of one data set or folder, in the order of their names."""

    name: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class PairHashes:
    """sha256 over the pixels of the low and, where there is one, the high picture: tells a picture in another data set."""

    low: str
    high: str | None

    @property
    def known(self) -> frozenset[str]:
        return frozenset(digest for digest in (self.low, self.high) if digest is not None)


@dataclass(frozen=True)
class ReadPair:
    """A pair's pixels, each file decoded once; a low-resolution picture that is missing is made from the high one.

    Attributes:
        low: (h, w, 3) uint8 RGB.
        high: (H, W, 3) uint8 RGB, as it is in its file; None where there is none.
    """

    low: Picture
    high: Picture | None

    def hashes(self) -> PairHashes:
        return PairHashes(picture_sha256(self.low), None if self.high is None else picture_sha256(self.high))


def read_pair(pair: Pair, *, scale: float) -> ReadPair:
    """Decode the pictures of `pair`, each file once."""
    high = None if pair.high is None else read_picture(pair.high)
    if pair.low is not None:
        return ReadPair(read_picture(pair.low), high)
    assert high is not None
    return ReadPair(shrink(high, scale), high)


def load_low(pair: Pair, *, scale: float) -> Picture:
    """Return the low-resolution picture, (h, w, 3) uint8 RGB: read where there is one, else made from the high one."""
    return read_pair(pair if pair.low is None else replace(pair, high=None), scale=scale).low


def load_pair(pair: Pair, *, scale: float) -> tuple[Picture, Picture]:
    """Return (low, high), (h, w, 3) and (h·scale, w·scale, 3) uint8 RGB, to the nearest pixel.

    The high one may have some more rows and columns, fewer than fill a low-resolution pixel; they are cropped.

    Raises:
        DatasetError: there is no high-resolution picture, or it is not `scale` times the low one.
    """
    if pair.high is None:
        raise DatasetError(f"{pair.name} has no high-resolution picture to compare with")
    return match_pair(read_pair(pair, scale=scale), name=pair.name, scale=scale)


def match_pair(read: ReadPair, *, name: str, scale: float) -> tuple[Picture, Picture]:
    """Return (low, high) of a pair that was read, as `load_pair` does."""
    low, high = read.low, read.high
    assert high is not None
    if low.shape[:2] != _shrunk_size(high, scale):
        sizes = f"{high.shape[1]}×{high.shape[0]} is not {scale:g} times {low.shape[1]}×{low.shape[0]}"
        raise DatasetError(f"{name}: {sizes}", hint="are these pairs for another scale?")
    return low, _crop_to_multiple(high, scale)


def shrink(picture: Picture, scale: float) -> Picture:
    """Antialiased bicubic (a = -0.5, the kernel widened by `scale`), after cropping to a multiple of `scale`."""
    height, width = _shrunk_size(picture, scale)
    if height == 0 or width == 0:
        raise DatasetError(f"a picture of {picture.shape[1]}×{picture.shape[0]} is too small to shrink by {scale:g}")
    cropped = Image.fromarray(_crop_to_multiple(picture, scale))
    return np.asarray(cropped.resize((width, height), Image.Resampling.BICUBIC))


def _shrunk_size(high: Picture, scale: float) -> tuple[int, int]:
    return math.floor(high.shape[0] / scale), math.floor(high.shape[1] / scale)


def _crop_to_multiple(high: Picture, scale: float) -> Picture:
    """Return what becomes whole low-resolution pixels."""
    height, width = upscaled_size(_shrunk_size(high, scale), scale)
    return high[:height, :width]


def hash_pair(pair: Pair, *, scale: float) -> PairHashes:
    """Return the hashes of both pictures as they are in their files; of a low one that is missing, as it is made.

    No picture is decoded whose file was hashed before and has not changed since (`known_pictures.py`).
    """
    known = known_hashes(pair, scale=scale)
    if known is not None:
        return PairHashes(*known)
    hashes = read_pair(pair, scale=scale).hashes()
    note_hashes(pair, hashes.low, hashes.high, scale=scale)
    return hashes


def picture_sha256(picture: Picture) -> str:
    """sha256 over shape and pixels: the same picture has it in whatever file format and under whatever name."""
    digest = hashlib.sha256(repr(picture.shape).encode())
    digest.update(np.ascontiguousarray(picture).data)  # no copy of a large picture
    return digest.hexdigest()
