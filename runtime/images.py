"""Read and write picture files: as they are (`read_image`), or as 8-bit RGB (`read_picture`, `write_picture`)."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from .errors import ImageError
from .pictures.decode import Decoded, decode
from .pictures.encode import SUFFIXES, open_writer
from .pictures.header import LARGEST_PIXELS, Admit
from .pictures.pixels import (
    AnyPicture,
    Picture,
    Rounding,
    as_rgb,
    check_picture,
    from_network,
    has_alpha,
    to_network,
    to_planes,
)

__all__ = [
    "AnyPicture",
    "Picture",
    "Rounding",
    "check_picture",
    "from_network",
    "is_image_file",
    "read_file",
    "read_image",
    "read_picture",
    "to_network",
    "to_planes",
    "write_picture",
]

_LARGEST_FILE = 8 * LARGEST_PIXELS + (256 << 20)  # the largest picture, not compressed, and what may come with it
_READABLE = (*SUFFIXES, ".gif")


def is_image_file(path: Path) -> bool:
    """Return whether the name says that it is a picture this project reads."""
    return path.suffix.lower() in _READABLE and not path.name.startswith(".")


def read_image(path: Path, *, admit: Admit | None = None) -> Decoded:
    """Decode a file as it is: grey or RGB, with or without alpha, 8 or 16 bits, EXIF orientation applied, its profile beside it.

    Args:
        admit: called with the file's header before a pixel is decoded.

    Raises:
        ImageError: it cannot be read, is damaged, too large or no picture, or `admit` refuses it.
    """
    try:
        with path.open("rb") as file:
            data = read_file(file, name=str(path))
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error
    return decode(data, name=str(path), admit=admit)


def read_file(file: BinaryIO, *, name: str) -> bytes:
    """Return all that an open file holds, which may be a pipe.

    Raises:
        ImageError: more than any picture that is read takes.
    """
    data = file.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE:
        raise ImageError(f"{name} is too large: up to {_LARGEST_FILE >> 20} MiB are read", hint="cut it into pieces")
    return data


def read_picture(path: Path) -> Picture:
    """Decode an opaque 8-bit file to (H, W, 3) uint8 RGB, EXIF orientation applied.

    Raises:
        ImageError: it cannot be read, is no picture, or has transparency or 16 bits, which would be lost.
    """
    pixels = read_image(path).pixels
    if pixels.dtype != np.uint8:
        raise ImageError(f"{path} holds {pixels.dtype} samples; 8-bit ones are read", hint="convert it to 8 bits")
    if has_alpha(pixels) and int(pixels[..., -1].min()) < 255:
        raise ImageError(f"{path} is partly transparent; opaque pictures are read", hint="flatten it onto a background")
    return np.ascontiguousarray(as_rgb(pixels), np.uint8)


def write_picture(path: Path, picture: AnyPicture, *, icc_profile: bytes = b"") -> None:
    """Encode a picture by the suffix of `path`; the file appears whole or not at all.

    Raises:
        ImageError: no picture, a suffix that names no format or one that cannot hold it, or a place that cannot be written to.
    """
    check_picture(picture)
    with open_writer(path, picture.shape, picture.dtype, icc_profile=icc_profile) as writer:
        writer.write(picture)
