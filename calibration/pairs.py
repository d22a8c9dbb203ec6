"""Pairs of pictures: low and high resolution of one scene, read, made where one is missing, and told apart by their pixels."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

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


def load_low(pair: Pair, *, scale: float) -> Picture:
    """The low-resolution picture, (h, w, 3) uint8 RGB: read where there is one, else made from the high one."""
    if pair.low is not None:
        return read_picture(pair.low)
    assert pair.high is not None
    return shrink(read_picture(pair.high), scale)


def load_pair(pair: Pair, *, scale: float) -> tuple[Picture, Picture]:
    """(low, high), (h, w, 3) and (h·scale, w·scale, 3) uint8 RGB, to the nearest pixel.

    The high one may have some more rows and columns, fewer than fill a low-resolution pixel; they are cropped.

    Raises:
        DatasetError: there is no high-resolution picture, or it is not `scale` times the low one.
    """
    if pair.high is None:
        raise DatasetError(f"{pair.name} has no high-resolution picture to compare with")
    high = read_picture(pair.high)
    low = read_picture(pair.low) if pair.low is not None else shrink(high, scale)
    if low.shape[:2] != _shrunk_size(high, scale):
        sizes = f"{high.shape[1]}×{high.shape[0]} is not {scale:g} times {low.shape[1]}×{low.shape[0]}"
        raise DatasetError(f"{pair.name}: {sizes}", hint="are these pairs for another scale?")
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
    """What becomes whole low-resolution pixels."""
    height, width = upscaled_size(_shrunk_size(high, scale), scale)
    return high[:height, :width]


@dataclass(frozen=True)
class PairHashes:
    """sha256 over the pixels of the low and, where there is one, the high picture: what tells a picture in another data set."""

    low: str
    high: str | None

    @property
    def known(self) -> frozenset[str]:
        return frozenset(digest for digest in (self.low, self.high) if digest is not None)


def hash_pair(pair: Pair, *, scale: float) -> PairHashes:
    """Hashes of both pictures as they are in their files; of a low one that is missing, as it is made."""
    high = None if pair.high is None else read_picture(pair.high)
    low = shrink(high, scale) if pair.low is None and high is not None else load_low(pair, scale=scale)
    return PairHashes(picture_sha256(low), None if high is None else picture_sha256(high))


def picture_sha256(picture: Picture) -> str:
    """sha256 over shape and pixels: the same picture has it in whatever file format and under whatever name."""
    digest = hashlib.sha256(repr(picture.shape).encode())
    digest.update(np.ascontiguousarray(picture).data)  # no copy of a large picture
    return digest.hexdigest()
