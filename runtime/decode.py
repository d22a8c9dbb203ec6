"""Files to pictures: PNG, JPEG, WebP, TIFF, GIF, BMP; of several frames or pages the first.

A file is untrusted. Its header is checked before a pixel is decoded, its lengths against the bytes that are there, and what is not
read right is refused by name. Beside the file itself decoding takes at most `PEAK_BYTES` a pixel that the header claims,
`FILE_COPIES` times the file's size and `PEAK_REST`, whatever the file inflates to.
"""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from runtime.banded import to_array
from runtime.decode_png import decode_png, is_png, read_png
from runtime.decode_tiff import read_tiff
from runtime.errors import ImageError
from runtime.tiff_layout import CMYK, is_tiff, read_layout

_log = logging.getLogger(__name__)

LARGEST_PIXELS = 178_956_970  # where Pillow takes a file for a decompression bomb: half a gigabyte of 24-bit pixels
PEAK_BYTES = {"PNG": 16, "TIFF": 32, "JPEG": 16, "WEBP": 32, "GIF": 16, "BMP": 16}
"""What decoding takes at most, in bytes per pixel."""
FILE_COPIES = 3
PEAK_REST = 64 << 20
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP")
_BY_PILLOW = ("JPEG", "WEBP", "GIF", "BMP")
_ORIENTATION = 0x0112  # the EXIF tag
_RLE_PIXELS = 1 << 24  # of a run-length BMP, which Pillow decodes in Python
_JPEG_SCANS = 200  # of a progressive JPEG, which has about ten; each may visit every pixel
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


@dataclass(frozen=True)
class Claim:
    """What a file's header says, before a pixel of it is decoded.

    Attributes:
        name: what errors call the file.
        size: (H, W) as stored; shown, it may be turned.
        channels, sample_bytes: of the decoded picture.
        peak_bytes: memory that decoding takes at most, the file's own bytes among it.
    """

    name: str
    size: tuple[int, int]
    channels: int
    sample_bytes: int
    peak_bytes: int


Admit = Callable[[Claim], None]
"""Is shown what a file claims before a pixel is decoded; raises ImageError to refuse it, or waits until there is room."""


def decode(data: bytes, *, name: str, admit: Admit | None = None) -> Decoded:
    """The picture that the file `data` holds; `name` is what errors call it.

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
        raise _too_large(str(error), name=name) from error
    except (cv2.error, ImageCms.PyCMSError, *_DAMAGED) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # which says where in memory it was read from
            reason = "its format is not known"
        raise ImageError(
            f"{name} is not a picture that can be decoded ({len(data)} bytes): {reason}",
            hint=f"check the file; it should be one of {', '.join(_FORMATS)}",
        ) from error


def _decode(data: bytes, *, name: str, admit: Admit | None) -> Decoded:
    def claim(kind: str, size: tuple[int, int], channels: int, *, sample_bytes: int = 1, several: bool = False) -> None:
        _check_size(size, name=name)
        if several:
            _log.warning("%s holds more than one picture: the first is read", name)
        if admit is not None:
            peak = size[0] * size[1] * PEAK_BYTES[kind] + (1 + FILE_COPIES) * len(data)
            admit(Claim(name, size, channels, sample_bytes, peak))

    if is_png(data):
        png = read_png(data)
        claim("PNG", png.size, png.channels, sample_bytes=2 if png.bits == 16 else 1, several=png.animated)
        return Decoded(_upright(decode_png(png), _orientation(png.exif)), png.icc_profile)
    if is_tiff(data):
        layout = read_layout(data, name=name, check_size=partial(_check_size, name=name))
        sample_bytes = 2 if layout.bits == 16 else 1
        claim("TIFF", (layout.height, layout.width), layout.channels, sample_bytes=sample_bytes, several=layout.more_pages)
        pixels, profile = read_tiff(data, layout), layout.icc_profile
        if layout.photometric == CMYK:
            height, width = pixels.shape[:2]
            image = Image.frombuffer("CMYK", (width, height), pixels, "raw", "CMYK", 0, 1)
            pixels, profile = _from_cmyk(image, profile), b""
        return Decoded(_upright(pixels, 1 if layout.by_libtiff else layout.orientation), profile)
    with Image.open(BytesIO(data), formats=_BY_PILLOW) as image:
        _refuse_misread(image, data, name=name)
        mode = _mode_of(image, name=name)
        kind = image.format if image.format in PEAK_BYTES else "JPEG"
        assert kind is not None
        claim(kind, image.size[::-1], len(mode), several=getattr(image, "is_animated", False))
        orientation, profile = image.getexif().get(_ORIENTATION, 1), image.info.get("icc_profile") or b""
        if image.mode == "CMYK":
            return Decoded(_upright(_from_cmyk(image, profile), orientation))
        return Decoded(_upright(to_array(image, mode), orientation), profile)


def _check_size(size: tuple[int, int], *, name: str) -> None:
    if size[0] * size[1] > LARGEST_PIXELS:
        raise _too_large(f"{size[1]}×{size[0]} pixels", name=name)


def _too_large(what: str, *, name: str) -> ImageError:
    return ImageError(f"{name} is too large: {what}; up to {LARGEST_PIXELS} pixels are read", hint="cut it into pieces")


def _orientation(exif: bytes) -> int:
    found = Image.Exif()
    if exif:
        found.load(exif)
    orientation = found.get(_ORIENTATION, 1)
    return orientation if isinstance(orientation, int) else 1


def _refuse_misread(image: Image.Image, data: bytes, *, name: str) -> None:
    """ImageError for what Pillow takes but does not read right, or not within seconds."""
    what = ""
    assert isinstance(image, ImageFile.ImageFile)
    if image.format == "BMP":
        decoder, arguments = image.tile[0][0], image.tile[0][3]
        raw_mode = arguments[0] if isinstance(arguments, tuple) else arguments
        bits = int.from_bytes(data[28:30], "little") if data[14] != 12 else int.from_bytes(data[24:26], "little")
        if decoder == "bmp_rle" and image.size[0] * image.size[1] > _RLE_PIXELS:
            what = f"run-length compression of more than {_RLE_PIXELS} pixels"
        elif decoder != "bmp_rle" and (raw_mode, bits) in (("1", 4), ("1", 8), ("L", 1), ("L", 4)):
            what = f"a palette of greys for {bits}-bit pixels"
    elif image.format == "GIF":
        if image.tile[0][1] != (0, 0, *image.size) and "transparency" not in image.info:
            what = "a first frame that does not fill the picture, and no transparent colour"
    elif data.count(b"\xff\xda") > _JPEG_SCANS:
        what = f"more than {_JPEG_SCANS} scans"
    if what:
        raise ImageError(f"{name} has {what}: that is not read", hint="convert it, to a PNG for instance")


def _mode_of(image: Image.Image, *, name: str) -> str:
    """The mode that it is read in."""
    wanted = {"1": "L", "P": "RGB", "PA": "RGBA", "YCbCr": "RGB", "RGBX": "RGB", "CMYK": "RGB"}.get(image.mode, image.mode)
    if wanted not in ("L", "LA", "RGB", "RGBA"):
        raise ImageError(f"{name} holds {image.mode} samples; 8-bit and 16-bit grey and colour are read", hint="convert it")
    return wanted + "A" if "transparency" in image.info and wanted in ("L", "RGB") else wanted


def _from_cmyk(image: Image.Image, profile: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) in RGB: in sRGB where a profile says which CMYK it is."""
    if not profile:
        return to_array(image, "RGB")
    to_srgb = ImageCms.buildTransform(ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB"), "CMYK", "RGB")

    def convert(piece: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(piece, to_srgb)
        assert converted is not None
        return converted

    return to_array(image, "RGB", convert=convert)


def _upright(pixels: NDArray[np.uint8 | np.uint16], orientation: int) -> NDArray[np.uint8 | np.uint16]:
    """The picture as EXIF wants it shown; what it does not define leaves it as it is."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
