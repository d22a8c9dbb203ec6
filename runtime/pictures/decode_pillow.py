"""Decode JPEG, WebP, GIF and BMP with Pillow, 8 bits; refuse by name what Pillow does not read right."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile

from ..errors import ImageError
from .banded import to_array

FORMATS = ("JPEG", "WEBP", "GIF", "BMP")
_MODES = {"1": "L", "P": "RGB", "PA": "RGBA", "YCbCr": "RGB", "RGBX": "RGB", "CMYK": "RGB"}  # what they are read in
_RLE_PIXELS = 1 << 22  # of a run-length BMP, which Pillow decodes in Python
_JPEG_SCANS = 200  # of a progressive JPEG, which has about ten; each may visit every pixel


def refuse_misread(image: Image.Image, data: bytes, *, name: str) -> None:
    """Raise ImageError for what Pillow takes but does not read right, or not within seconds."""
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
    elif image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > _JPEG_SCANS:
        what = f"more than {_JPEG_SCANS} scans"
    if what:
        raise ImageError(f"{name} has {what}: that is not read", hint="convert it, to a PNG for instance")


def mode_of(image: Image.Image, *, name: str) -> str:
    """Return the mode that it is read in."""
    wanted = _MODES.get(image.mode, image.mode)
    if wanted not in ("L", "LA", "RGB", "RGBA"):
        raise ImageError(f"{name} holds {image.mode} samples; 8-bit and 16-bit grey and colour are read", hint="convert it")
    return wanted + "A" if "transparency" in image.info and wanted in ("L", "RGB") else wanted


def from_cmyk(image: Image.Image, profile: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) in RGB: in sRGB where a profile says which CMYK it is."""
    if not profile:
        return to_array(image, "RGB")
    to_srgb = ImageCms.buildTransform(ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB"), "CMYK", "RGB")

    def convert(piece: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(piece, to_srgb)
        assert converted is not None
        return converted

    return to_array(image, "RGB", convert=convert)
