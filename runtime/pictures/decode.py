"""Decode a picture file: PNG, JPEG, WebP, TIFF, GIF or BMP bytes in, pixels and profile out; the first of several frames.

A file is untrusted. Its header is checked before a pixel is decoded, its lengths against the bytes that are there, and what is not
read right is refused by name. Whatever a file inflates to, decoding takes at most 6 times the memory of the pixels that the header
claims, which are at most `LARGEST_PIXELS`, 5 times that of the file, and 32 MiB; picture_header.py has it format by format.
"""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from ..errors import ImageError
from .banded import to_array
from .decode_pillow import FORMATS, from_cmyk, mode_of, refuse_misread
from .decode_png import decode_png, is_png, read_png
from .decode_tiff import read_tiff
from .header import LARGEST_PIXELS, SIDEWAYS, Admit, Header, check_size, make_header, too_large
from .tiff_layout import CMYK, is_tiff, read_layout

__all__ = ["LARGEST_PIXELS", "Admit", "Decoded", "Header", "decode"]

_log = logging.getLogger(__name__)

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP")
_ORIENTATION = 0x0112  # the EXIF tag
# What Pillow raises for damaged files, by format.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError, struct.error, MemoryError, zlib.error)


@dataclass(frozen=True)
class Decoded:
    """A picture as its file has it, turned upright.

    Attributes:
        pixels: (H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB or (H, W, 4) RGB and alpha, uint8 or uint16.
        icc_profile: the colour profile of these pixels; empty where the file has none.
    """

    pixels: NDArray[np.uint8 | np.uint16]
    icc_profile: bytes = b""


def decode(data: bytes, *, name: str, admit: Admit | None = None) -> Decoded:
    """Return the picture that the file `data` holds; `name` is what errors call it.

    Palettes become RGB, a transparent colour becomes alpha, 1, 2 and 4 bits become 8, associated alpha is divided out, CMYK becomes
    RGB: through its profile to sRGB where the file has one.

    Args:
        admit: called once with what decoding will take.

    Raises:
        ImageError: no picture, a damaged one, one too large, or one stored in a way that is not read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of large or damaged files: what matters is an error here
            return _decode(data, name=name, admit=admit)
    except Image.DecompressionBombError as error:
        raise too_large(str(error), name=name) from error
    except (cv2.error, ImageCms.PyCMSError, *_DAMAGED) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # which says where in memory it was read from
            reason = "its format is not known"
        raise ImageError(
            f"{name} is not a picture that can be decoded ({len(data)} bytes): {reason}",
            hint=f"check the file; it should be one of {', '.join(_FORMATS)}",
        ) from error


def _decode(data: bytes, *, name: str, admit: Admit | None) -> Decoded:
    make = partial(make_header, file_bytes=len(data), name=name)
    if is_png(data):
        png = read_png(data)
        orientation = _orientation(png.exif)
        header = make("PNG", png.size, png.channels, sample_bytes=2 if png.bits == 16 else 1, orientation=orientation)
        _admit(admit, header, several=png.animated)
        return Decoded(_upright(decode_png(png), orientation), png.icc_profile)
    if is_tiff(data):
        layout = read_layout(data, name=name, check_size=partial(check_size, name=name))
        sample_bytes = 2 if layout.bits == 16 else 1
        size, orientation, working = (layout.height, layout.width), layout.orientation, layout.working_bytes
        header = make("TIFF", size, layout.channels, sample_bytes=sample_bytes, orientation=orientation, working_bytes=working)
        _admit(admit, header, several=layout.more_pages)
        pixels, profile = read_tiff(data, layout), layout.icc_profile
        if layout.photometric == CMYK:
            image = Image.frombuffer("CMYK", size[::-1], pixels, "raw", "CMYK", 0, 1)
            pixels, profile = from_cmyk(image, profile), b""
        return Decoded(_upright(pixels, 1 if layout.by_libtiff else orientation), profile)
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        refuse_misread(image, data, name=name)
        mode = mode_of(image, name=name)
        orientation, profile = image.getexif().get(_ORIENTATION, 1), image.info.get("icc_profile") or b""
        kind = image.format if image.format in FORMATS else "JPEG"  # Pillow calls JPEGs behind each other MPO
        header = make(kind, image.size[::-1], len(mode), orientation=orientation)
        _admit(admit, header, several=getattr(image, "is_animated", False))
        if image.mode == "CMYK":
            return Decoded(_upright(from_cmyk(image, profile), orientation))
        return Decoded(_upright(to_array(image, mode), orientation), profile)


def _admit(admit: Admit | None, header: Header, *, several: bool) -> None:
    """Say that further pictures are left out, and ask `admit`."""
    if several:
        _log.warning("%s holds more than one picture: the first is read", header.name)
    if admit is not None:
        admit(header)


def _orientation(exif: bytes) -> int:
    found = Image.Exif()
    if exif:
        found.load(exif)
    orientation = found.get(_ORIENTATION, 1)
    return orientation if isinstance(orientation, int) else 1


def _upright(pixels: NDArray[np.uint8 | np.uint16], orientation: int) -> NDArray[np.uint8 | np.uint16]:
    """Return the picture as EXIF wants it shown; what it does not define leaves it as it is."""
    if orientation in SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
