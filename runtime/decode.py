"""Files to pictures: PNG, JPEG, WebP, TIFF, GIF (its first frame) and BMP.

Pillow reads the header, checked before a pixel is decoded, and what 8-bit files hold; OpenCV reads 16 bits, which Pillow has not.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, TiffImagePlugin, UnidentifiedImageError

from runtime.errors import ImageError
from runtime.tiff import with_one_sample

LARGEST_PIXELS = 178_956_970  # where Pillow takes a file for a decompression bomb: half a gigabyte of 24-bit pixels
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP")
_ORIENTATION = 0x0112  # the EXIF tag
_BITS_PER_SAMPLE = 258  # the TIFF tag
_PNG_DEPTH_AT, _PNG_COLOUR_AT = 24, 25  # the bytes of a PNG that have its bit depth and colour type
_PNG_GREY = (0, 4)  # without and with alpha
# What Pillow raises for damaged files, by format.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError, struct.error, MemoryError)


@dataclass(frozen=True)
class Decoded:
    """A picture as its file has it, turned upright.

    Attributes:
        pixels: (H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB or (H, W, 4) RGB and alpha, uint8 or uint16.
        icc_profile: the colour profile of these pixels; empty where the file has none.
    """

    pixels: NDArray[np.uint8 | np.uint16]
    icc_profile: bytes = b""


def decode(data: bytes, *, name: str) -> Decoded:
    """The picture that the file `data` holds; `name` is what errors call it.

    Palettes become RGB, a transparent colour becomes alpha, CMYK becomes RGB: through its profile to sRGB where the file has one.

    Raises:
        ImageError: no picture, a damaged one, one too large, or samples that are neither 8 nor 16 bits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of large or damaged files: what matters is an error here
            return _decode(data, name=name)
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


def _decode(data: bytes, *, name: str) -> Decoded:
    widened = with_one_sample(data)
    if widened is not None:
        single, orientation = _decode(widened[0], name=name), widened[1]
        pairs = single.pixels.reshape(len(single.pixels), -1, 2)
        return Decoded(_upright(pairs, orientation), single.icc_profile)
    with Image.open(BytesIO(data), formats=_FORMATS) as image:
        _check_size(image.size, name=name)
        # Pillow and OpenCV both turn a TIFF themselves.
        orientation = 1 if image.format == "TIFF" else image.getexif().get(_ORIENTATION, 1)
        profile = image.info.get("icc_profile") or b""
        if _is_deep(image, data):
            pixels = _decode_16_bits(data, grey=image.format == "PNG" and data[_PNG_COLOUR_AT] in _PNG_GREY)
        elif image.mode == "CMYK":
            pixels, profile = np.array(_from_cmyk(image, profile)), b""
        else:
            pixels = _decode_8_bits(image, name=name)
    return Decoded(_upright(pixels, orientation), profile)


def _check_size(size: tuple[int, int], *, name: str) -> None:
    if size[0] * size[1] > LARGEST_PIXELS:
        raise _too_large(f"{size[0]}×{size[1]} pixels", name=name)


def _too_large(what: str, *, name: str) -> ImageError:
    return ImageError(f"{name} is too large: {what}; up to {LARGEST_PIXELS} pixels are read", hint="cut it into pieces")


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether its samples have 16 bits; the header says so."""
    if image.format == "PNG":
        return data[_PNG_DEPTH_AT] == 16
    if image.format != "TIFF":
        return False
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    return 16 in image.tag_v2.get(_BITS_PER_SAMPLE, ())


def _decode_8_bits(image: Image.Image, *, name: str) -> NDArray[np.uint8]:
    transparent = "transparency" in image.info
    wanted = {"1": "L", "P": "RGB", "PA": "RGBA", "YCbCr": "RGB", "RGBX": "RGB"}.get(image.mode, image.mode)
    if wanted not in ("L", "LA", "RGB", "RGBA"):
        raise ImageError(f"{name} holds {image.mode} samples; 8-bit and 16-bit grey and colour are read", hint="convert it")
    if transparent and wanted in ("L", "RGB"):
        wanted += "A"
    if wanted == "LA" and image.mode != "LA":  # Pillow makes this one only by way of RGBA
        colours = np.asarray(image.convert("RGBA"))
        return np.ascontiguousarray(colours[..., 2:])
    return np.array(image if image.mode == wanted else image.convert(wanted), np.uint8)


def _decode_16_bits(data: bytes, *, grey: bool) -> NDArray[np.uint8 | np.uint16]:
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16:
        raise ValueError("its 16-bit samples cannot be read")
    if decoded.ndim == 2:
        return decoded.astype(np.uint16, copy=False)
    if decoded.shape[2] == 4:
        colours = cv2.cvtColor(decoded, cv2.COLOR_BGRA2RGBA)
        return np.ascontiguousarray(colours[..., 2:] if grey else colours).astype(np.uint16, copy=False)
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.uint16, copy=False)


def _from_cmyk(image: Image.Image, profile: bytes) -> Image.Image:
    """In RGB: in sRGB where a profile says which CMYK it is."""
    if not profile:
        return image.convert("RGB")
    converted = ImageCms.profileToProfile(image, BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None
    return converted


def _upright(pixels: NDArray[np.uint8 | np.uint16], orientation: int) -> NDArray[np.uint8 | np.uint16]:
    """The picture as EXIF wants it shown; what it does not define leaves it as it is."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
