"""PNG (W3C, third edition): chunks checked against the file, pixels of every colour type and depth, a transparent colour as alpha.

Takes a file's bytes, gives a `PngFile`. Decoders are shown the chunks that they need and no others: what text, profiles or
animations hold cannot make them take memory. Pillow decodes up to 8 bits, OpenCV 16, which Pillow has not. gAMA and its like are
ignored.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.banded import bands, look_up, to_array

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_ABOUT = (b"PLTE", b"tRNS", b"iCCP", b"eXIf")
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_SAMPLES = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGBA: 4}
_LARGEST_PROFILE = 16 << 20  # bytes; a printer's has five million


@dataclass(frozen=True)
class PngFile:
    """What a PNG says before its pixels are decoded.

    Attributes:
        size: (H, W).
        bits: of a sample.
        colour: the colour type.
        pixels: a PNG of the pixels alone.
        palette: the PLTE chunk.
        transparent: the tRNS chunk: the transparent colour, or each palette entry's alpha.
        icc_profile, exif: empty where there is none.
        animated: there are further frames.
    """

    size: tuple[int, int]
    bits: int
    colour: int
    pixels: BytesIO
    palette: bytes
    transparent: bytes
    icc_profile: bytes
    exif: bytes
    animated: bool

    @property
    def channels(self) -> int:
        """Of the decoded picture."""
        return (3 if self.colour == _PALETTE else _SAMPLES[self.colour]) + bool(self.transparent)


def is_png(data: bytes) -> bool:
    """Whether the file begins as a PNG does."""
    return data.startswith(_SIGNATURE)


def read_png(data: bytes) -> PngFile:
    """Checks every chunk's length against the file.

    Raises:
        ValueError: a chunk that the file does not hold whole, or a header that is none.
    """
    view, at, kind = memoryview(data), len(_SIGNATURE), b""
    pixels, about, kinds = BytesIO(), dict[bytes, bytes](), set[bytes]()
    pixels.write(_SIGNATURE)
    while at < len(data) and kind != b"IEND":
        if at + 12 > len(data):
            raise ValueError("it ends within a chunk")
        length, kind = struct.unpack_from(">I4s", data, at)
        if length > len(data) - at - 12:
            raise ValueError(f"its {kind.decode('latin-1')!r} chunk claims {length} bytes, and {len(data) - at - 12} are there")
        if (kind == b"IHDR") != (at == len(_SIGNATURE)) or (kind == b"IHDR" and length != 13):
            raise ValueError("it does not begin with its only header")
        if kind in _PIXELS:
            pixels.write(view[at : at + 12 + length])
        if kind in _ABOUT:
            about.setdefault(kind, bytes(view[at + 8 : at + 8 + length]))
        if kind in (*_PIXELS, b"acTL"):
            kinds.add(kind)
        at += 12 + length
    if not kinds >= {b"IHDR", b"IDAT"}:
        raise ValueError("it has no pixels")
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    transparent = about.get(b"tRNS", b"")
    if width == 0 or height == 0 or colour not in _SAMPLES:
        raise ValueError(f"its header says {width}×{height} pixels of colour type {colour}")
    if transparent and (colour in (_GREY_ALPHA, _RGBA) or len(transparent) < {_GREY: 2, _RGB: 6}.get(colour, 1)):
        raise ValueError(f"its tRNS chunk has {len(transparent)} bytes, which colour type {colour} does not allow")
    return PngFile(
        size=(height, width),
        bits=bits,
        colour=colour,
        pixels=pixels,
        palette=about.get(b"PLTE", b""),
        transparent=transparent,
        icc_profile=_profile(about[b"iCCP"]) if b"iCCP" in about else b"",
        exif=about.get(b"eXIf", b""),
        animated=b"acTL" in kinds,
    )


def decode_png(png: PngFile) -> NDArray[np.uint8 | np.uint16]:
    """(H, W) or (H, W, C).

    Raises:
        ValueError, OSError, cv2.error: damaged pixels.
    """
    if png.bits == 16:
        pixels: NDArray[np.uint8 | np.uint16] = _decode_16_bits(png)
    else:
        modes = {_GREY: "L", _RGB: "RGB", _PALETTE: "P", _GREY_ALPHA: "LA", _RGBA: "RGBA"}
        with Image.open(png.pixels, formats=("PNG",)) as image:
            pixels = to_array(image, modes[png.colour])
    if png.colour == _PALETTE:
        return _looked_up(pixels, png)
    return _with_transparent_colour(pixels, png) if png.transparent else pixels


def _looked_up(indices: NDArray[np.uint8 | np.uint16], png: PngFile) -> NDArray[np.uint8]:
    """(H, W, 3) RGB, or (H, W, 4) where the palette has alpha."""
    colours = np.frombuffer(png.palette, np.uint8, len(png.palette) // 3 * 3).reshape(-1, 3)
    if int(indices.max()) >= len(colours):
        raise ValueError(f"a pixel has colour {int(indices.max())} of a palette of {len(colours)}")
    if png.transparent:
        alpha = np.full((len(colours), 1), 255, np.uint8)
        stated = np.frombuffer(png.transparent, np.uint8)[: len(colours)]
        alpha[: len(stated), 0] = stated
        colours = np.hstack([colours, alpha])
    return look_up(colours, indices)


def _profile(chunk: bytes) -> bytes:
    """The colour profile that an iCCP chunk holds: its name, a zero, a zero for zlib, what zlib made."""
    inflater = zlib.decompressobj()
    profile = inflater.decompress(chunk.partition(b"\0")[2][1:], _LARGEST_PROFILE)
    if not inflater.eof:
        raise ValueError(f"its colour profile is cut off, or larger than {_LARGEST_PROFILE >> 20} MiB")
    return profile


def _decode_16_bits(png: PngFile) -> NDArray[np.uint16]:
    pixels = cv2.imdecode(np.frombuffer(png.pixels.getbuffer(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != png.size:
        raise ValueError("its 16-bit samples cannot be read")
    if png.colour == _GREY_ALPHA:  # OpenCV makes BGRA of it
        return np.ascontiguousarray(pixels[..., 2:], np.uint16)
    if pixels.ndim == 3:
        flat = pixels.reshape(-1, pixels.shape[2])
        for band in bands(len(flat)):  # OpenCV's own conversion would make a second picture
            flat[band, :3] = flat[band, 2::-1].copy()
    return pixels.astype(np.uint16, copy=False)


def _with_transparent_colour(pixels: NDArray[np.uint8 | np.uint16], png: PngFile) -> NDArray[np.uint8 | np.uint16]:
    """Alpha beside the colours: 0 where a pixel is the tRNS chunk's colour, of which the low bits count."""
    most = (1 << png.bits) - 1
    colour = np.frombuffer(png.transparent, ">u2", _SAMPLES[png.colour]) & most
    if png.bits < 8:
        colour = colour * (255 // most)
    planes = pixels.reshape(-1, len(colour))
    result = np.empty((len(planes), len(colour) + 1), pixels.dtype)
    for band in bands(len(planes)):
        result[band, :-1] = planes[band]
        result[band, -1] = np.where((planes[band] == colour).all(axis=1), 0, np.iinfo(pixels.dtype).max)
    return result.reshape(*png.size, -1)
