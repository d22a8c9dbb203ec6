"""Judge how the runtime read a picture file: the file and its right pixels in, right, refused or wrong out."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from benchmarks.picture_formats.picture_file import PictureFile
from runtime.errors import ImageError
from runtime.pictures.decode import decode

_NAME = "it"


@dataclass(frozen=True)
class Verdict:
    """Whether it is `right`, and in words what was made of the file."""

    right: bool
    what: str


def judge(file: PictureFile) -> Verdict:
    """Decode the file and compare the pixels; refusing a file is right where it has no right pixels and is told what it has."""
    logging.getLogger("runtime.pictures.decode").setLevel(logging.ERROR)  # files of several pictures are here on purpose
    try:
        pixels = decode(file.data, name=_NAME).pixels
    except ImageError as error:
        return Verdict(file.pixels is None and "that is not read" in str(error), str(error).removeprefix(f"{_NAME} has "))
    if file.pixels is None:
        return Verdict(False, f"read as {pixels.shape} {pixels.dtype}")
    if (pixels.shape, pixels.dtype) != (file.pixels.shape, file.pixels.dtype):
        return Verdict(False, f"{pixels.shape} {pixels.dtype} instead of {file.pixels.shape} {file.pixels.dtype}")
    off = int(np.abs(pixels.astype(np.int64) - file.pixels).max())
    return Verdict(off <= file.tolerance, "read right" if off <= file.tolerance else f"wrong by up to {off} levels")
