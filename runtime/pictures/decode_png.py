"""Decode PNG (W3C, third edition), every colour type and depth: chunks are checked; a transparent colour becomes alpha.

Takes a file's bytes, gives a `PngFile`. The decoder is shown the chunks that it needs and no others: what text, profiles or
animations hold cannot make it take memory. OpenCV decodes, which has 16 bits and takes missing rows for the damage that they are;
Pillow has and does neither. gAMA and its like are ignored.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray

from .banded import bands, look_up

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IDAT", b"IEND")
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
        data: the file, whose chunks are whole.
        palette: the PLTE chunk.
        transparent: the tRNS chunk: the transparent colour, or each palette entry's alpha.
        icc_profile, exif: empty where there is none.
        animated: there are further frames.
    """

    size: tuple[int, int]
    bits: int
    colour: int
    data: bytes
    palette: bytes
    transparent: bytes
    icc_profile: bytes
    exif: bytes
    animated: bool

    @property
    def channels(self) -> int:
        """The decoded picture's shape."""
        return (3 if self.colour == _PALETTE else _SAMPLES[self.colour]) + bool(self.transparent)


def is_png(data: bytes) -> bool:
    """Return whether the file begins as a PNG does."""
    return data.startswith(_SIGNATURE)


def read_png(data: bytes) -> PngFile:
    """Check every chunk's length against the file.

    Raises:
        ValueError: a chunk that the file does not hold whole, or a header that is none.
    """
    at, kind = len(_SIGNATURE), b""
    about, kinds = dict[bytes, bytes](), set[bytes]()
    while at < len(data) and kind != b"IEND":
        if at + 12 > len(data):
            raise ValueError("it ends within a chunk")
        length, kind = struct.unpack_from(">I4s", data, at)
        if length > len(data) - at - 12:
            raise ValueError(f"its {kind.decode('latin-1')!r} chunk claims {length} bytes, and {len(data) - at - 12} are there")
        if (kind == b"IHDR") != (at == len(_SIGNATURE)) or (kind == b"IHDR" and length != 13):
            raise ValueError("it does not begin with its only header")
        if kind in _ABOUT:
            about.setdefault(kind, data[at + 8 : at + 8 + length])
        if kind in (b"IDAT", b"acTL"):
            kinds.add(kind)
        at += 12 + length
    if b"IDAT" not in kinds:
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
        data=data,
        palette=about.get(b"PLTE", b""),
        transparent=transparent,
        icc_profile=_profile(about[b"iCCP"]) if b"iCCP" in about else b"",
        exif=about.get(b"eXIf", b""),
        animated=b"acTL" in kinds,
    )


def _pixels_alone(data: bytes) -> BytesIO:
    """Return a PNG of the pixels alone, those of a palette as grey."""
    view, at, kind, alone = memoryview(data), len(_SIGNATURE), b"", BytesIO()
    alone.write(_SIGNATURE)
    while at < len(data) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IHDR":
            alone.write(_as_grey(data[at : at + 25]))
        elif kind in _PIXELS:
            alone.write(view[at : at + 12 + length])
        at += 12 + length
    return alone


def _as_grey(header: bytes) -> bytes:
    """Return the IHDR chunk, saying grey where it says palette: what is decoded then is the numbers of the palette's colours."""
    colour_at = 17
    if header[colour_at] != _PALETTE:
        return header
    chunk = header[:colour_at] + bytes([_GREY]) + header[colour_at + 1 : -4]
    return chunk + struct.pack(">I", zlib.crc32(chunk[4:]))


def decode_png(png: PngFile) -> NDArray[np.uint8 | np.uint16]:
    """(H, W) or (H, W, C).

    Raises:
        ValueError, cv2.error: damaged pixels, or fewer than the header says.
    """
    pixels = cv2.imdecode(np.frombuffer(_pixels_alone(png.data).getbuffer(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape[:2] != png.size:
        raise ValueError("its pixels are damaged, or are not all there")
    deep: NDArray[np.uint8 | np.uint16] = pixels.astype(np.uint16 if png.bits == 16 else np.uint8, copy=False, casting="no")
    if png.colour == _PALETTE:
        return _looked_up(deep, png)
    if png.colour == _GREY_ALPHA:  # OpenCV makes BGRA of it
        return np.ascontiguousarray(deep[..., 2:])
    if png.colour in (_RGB, _RGBA):
        flat = deep.reshape(-1, _SAMPLES[png.colour])
        for band in bands(len(flat)):  # OpenCV's own conversion would make a second picture
            flat[band, :3] = flat[band, 2::-1].copy()
    return _with_transparent_colour(deep, png) if png.transparent else deep


def _looked_up(grey: NDArray[np.uint8 | np.uint16], png: PngFile) -> NDArray[np.uint8]:
    """(H, W, 3) RGB, or (H, W, 4) where the palette has alpha; the numbers of its colours were read as shades of grey."""
    numbers = grey // np.uint8(255 // ((1 << png.bits) - 1))
    colours = np.frombuffer(png.palette, np.uint8, len(png.palette) // 3 * 3).reshape(-1, 3)
    if int(numbers.max()) >= len(colours):
        raise ValueError(f"a pixel has colour {int(numbers.max())} of a palette of {len(colours)}")
    if png.transparent:
        alpha = np.full((len(colours), 1), 255, np.uint8)
        stated = np.frombuffer(png.transparent, np.uint8)[: len(colours)]
        alpha[: len(stated), 0] = stated
        colours = np.hstack([colours, alpha])
    return look_up(colours, numbers)


def _profile(chunk: bytes) -> bytes:
    """Return the colour profile that an iCCP chunk holds: its name, a zero, a zero for zlib, what zlib made."""
    inflater = zlib.decompressobj()
    profile = inflater.decompress(chunk.partition(b"\0")[2][1:], _LARGEST_PROFILE)
    if not inflater.eof:
        raise ValueError(f"its colour profile is cut off, or larger than {_LARGEST_PROFILE >> 20} MiB")
    return profile


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
