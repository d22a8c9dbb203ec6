"""python -m tests.hostile_pictures: decodes hostile files one after the other, and prints a line of JSON per group of them.

A line has the group's name, how many files it has, and what the worst of them took: seconds, and memory above what is allowed.
A file's peak is the process's high-water mark, which Linux resets before each.
"""

from __future__ import annotations

import json
import logging
import struct
import time
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from benchmarks.picture_formats.other_files import bmp_by_hand
from benchmarks.picture_formats.picture_file import noise
from benchmarks.picture_formats.png_files import png_by_hand, png_chunk
from benchmarks.picture_formats.tiff_files import tiff_by_hand
from runtime.errors import ImageError
from runtime.pictures.decode import decode
from runtime.pictures.header import PEAK_REST, Header

_SIZE = (24, 30)
_ENDS = 200  # bytes from either end of a file that are set to huge values: all headers and directories
_HUGE = tuple(bytes.fromhex(text) for text in ("ffffffff", "ffff"))
_BOMB = bytes(200 << 20)  # what inflates to more than any small picture


def groups() -> Iterator[tuple[str, Iterator[bytes]]]:
    """Names of kinds of hostile files, and the files."""
    for name, whole in _whole().items():
        yield f"every field of {name} set to huge values", _mutated(whole)
    yield "PNG bombs", _png_bombs()
    yield "TIFF bombs", _tiff_bombs()
    yield "other bombs", _other_bombs()


def _whole() -> dict[str, bytes]:
    rgb, deep = noise((*_SIZE, 3)), noise((*_SIZE, 3), 16)
    image, palette = Image.fromarray(rgb), Image.fromarray(rgb).quantize(16)
    profile = [(b"iCCP", b"name\0\0" + zlib.compress(bytes(300)))]
    two = {"save_all": True, "append_images": [image.rotate(180)]}
    return {
        "an 8-bit PNG": png_by_hand(rgb, 2, 8, [*profile, (b"tRNS", bytes(6)), (b"tEXt", b"a\0b")], interlaced=False),
        "a 16-bit PNG": png_by_hand(deep, 2, 16, profile, interlaced=True),
        "a palette PNG": png_by_hand(noise((*_SIZE, 1), 4), 3, 4, [(b"PLTE", bytes(48)), (b"tRNS", b"\0")], interlaced=False),
        "a JPEG": _saved(image, "JPEG", exif=_exif(), icc_profile=bytes(300)),
        "a progressive JPEG": _saved(image, "JPEG", progressive=True),
        "a lossless WebP": _saved(image, "WEBP", lossless=True, icc_profile=bytes(300), exif=_exif()),
        "a lossy WebP": _saved(image, "WEBP"),
        "a WebP of two frames": _saved(image, "WEBP", **two),
        "a GIF of two frames": _saved(palette, "GIF", **two),
        "a BMP": _saved(image, "BMP"),
        "a palette BMP": _saved(palette, "BMP"),
        "a BMP with masks": bmp_by_hand(np.zeros(_SIZE, np.uint32), 32, top_down=True, masks=[255 << 16, 255 << 8, 255, 255 << 24]),
        "a TIFF": _tiff(deep, photometric="rgb"),
        "a BigTIFF of LZW tiles": _tiff(rgb, photometric="rgb", compression=5, tile=(16, 16), bigtiff=True, predictor=True),
        "a TIFF of deflated planes": _tiff(np.moveaxis(deep, 2, 0), photometric="rgb", planarconfig="separate", compression=8),
        "a TIFF of JPEG blocks": _saved(image, "TIFF", compression="jpeg"),
        "a CCITT TIFF": _saved(image.convert("1"), "TIFF", compression="group4"),
        "a palette TIFF": _saved(palette, "TIFF", compression="packbits"),
    }


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 100
    return exif


def _mutated(whole: bytes) -> Iterator[bytes]:
    for at in sorted({*range(min(_ENDS, len(whole))), *range(max(len(whole) - _ENDS, 0), len(whole))}):
        for value in _HUGE:
            data = whole[:at] + value + whole[at + len(value) :]
            yield data
            if whole.startswith(b"\x89PNG"):
                yield _with_sums(data, whole)


def _with_sums(data: bytes, whole: bytes) -> bytes:
    """The PNG with its chunks' check sums made right, where `whole` has them."""
    at, mended = 8, bytearray(data)
    while at < len(whole):
        (length,) = struct.unpack_from(">I", whole, at)
        struct.pack_into(">I", mended, at + 8 + length, zlib.crc32(data[at + 4 : at + 8 + length]))
        at += 12 + length
    return bytes(mended[: len(data)])


def _png_bombs() -> Iterator[bytes]:
    packed = zlib.compress(_BOMB, 9)
    for bits in (8, 16):
        pixels = noise((*_SIZE, 3), bits)
        for kind, body in ((b"iCCP", b"n\0\0"), (b"zTXt", b"n\0\0"), (b"iTXt", b"n\0\1\0\0\0")):
            yield png_by_hand(pixels, 2, bits, [(kind, body + packed)], interlaced=False)
            yield png_by_hand(pixels, 2, bits, [(kind, body + packed)] * 20, interlaced=False)
        header = struct.pack(">IIBBBBB", *_SIZE, bits, 2, 0, 0, 0)
        for chunks in ([(b"IDAT", packed)], [(b"IDAT", b"")] * 300_000, [(b"tEXt", b"a\0b")] * 300_000):
            yield b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in ((b"IHDR", header), *chunks, (b"IEND", b"")))
        for size in ((1, 1 << 19), (1 << 19, 1)):  # rows of a whole picture, or none
            header = struct.pack(">IIBBBBB", *size, bits, 6, 0, 0, 0)
            yield b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")


def _tiff_bombs() -> Iterator[bytes]:
    bomb = zlib.compress(_BOMB, 9)
    packbits = b"\x81\0" * (len(_BOMB) // 128)
    lzw = _tiff(np.zeros((1 << 13, 1 << 13), np.uint8), compression=5, rowsperstrip=1 << 13, photometric="minisblack")
    for bits, strips, compression in ((8, [bomb], 8), (16, [bomb], 8), (8, [packbits], 32773), (8, [lzw[8:]], 5)):
        tags = {258: ("H", [bits]), 259: ("H", [compression]), 262: ("H", [1]), 277: ("H", [1]), 278: ("I", [1 << 30])}
        yield tiff_by_hand(tags, strips, order="<")
        yield tiff_by_hand(tags | {278: ("I", [1])}, strips * 21, order="<")
    jpeg = _saved(Image.new("L", (12_000, 12_000)), "JPEG")
    tags = {258: ("H", [8]), 259: ("H", [7]), 262: ("H", [1]), 277: ("H", [1]), 278: ("I", [21])}
    yield tiff_by_hand(tags, [jpeg], order="<")
    yield tiff_by_hand(tags | {259: ("H", [1]), 34675: ("B", list(bytes(1 << 20)))}, [bytes(21 * 35)], order="<")


def _other_bombs() -> Iterator[bytes]:
    image = Image.fromarray(noise((*_SIZE, 3)))
    yield _saved(image, "GIF", save_all=True, append_images=[image.rotate(angle) for angle in range(1, 300)])
    gif = bytearray(_saved(image.quantize(16), "GIF"))
    at = gif.index(b"\x2c", 13 + 48)
    gif[at + 5 : at + 9] = struct.pack("<HH", 60_000, 60_000)  # a frame larger than the screen
    yield bytes(gif)
    yield _saved(image, "WEBP", save_all=True, append_images=[image.rotate(angle) for angle in range(1, 100)])
    about = struct.pack("<IiiHHIIiiII", 40, 1 << 24, 1, 1, 8, 1, 0, 0, 0, 256, 0)
    rle = b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + about + bytes(1024)
    yield rle + b"\0\2\xff\xff" * 1000  # skips 255 rows, a thousand times
    yield rle + b"\0\0" * 1000
    yield rle[:18] + struct.pack("<ii", 1 << 13, 1 << 11) + rle[26:] + b"\1\1\0\0" * 3000
    progressive = _saved(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    yield progressive[:-2] + scan * 5000 + progressive[-2:]
    jpeg = _saved(image, "JPEG")
    frame = jpeg.index(b"\xff\xc0")
    giant = jpeg[:frame] + jpeg[frame : frame + 5] + struct.pack(">HH", 65_500, 2_700) + jpeg[frame + 9 :]
    yield giant[:frame] + giant[frame : frame + 19] + jpeg[frame:]  # two frame headers
    yield jpeg[:2] + (b"\xff\xe2\xff\xff" + b"ICC_PROFILE\0\1\xff" + bytes(65_519)) * 255 + jpeg[2:]


def _tiff(samples: np.ndarray[Any, Any], **options: Any) -> bytes:  # noqa: ANN401 # as tifffile has it
    file = BytesIO()
    tifffile.imwrite(file, samples, metadata=None, **options)
    return file.getvalue()


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 # as Pillow has it
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _high_water_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def measure(data: bytes) -> tuple[float, int, str]:
    """Seconds, bytes taken beyond what is allowed, and what happened."""
    headers: list[Header] = []
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the mark begins anew
    before, began = _high_water_bytes(), time.perf_counter()
    try:
        what = str(decode(data, name="it", admit=headers.append).pixels.shape)
    except ImageError as error:
        what = str(error)
    seconds = time.perf_counter() - began
    allowed = (headers[0].peak_bytes if headers else 4 * len(data)) + PEAK_REST
    return seconds, _high_water_bytes() - before - allowed, what


def main() -> None:
    logging.disable(logging.WARNING)
    for name, files in groups():
        count, slowest, largest = 0, (0.0, ""), (-1 << 62, "")
        for data in files:
            seconds, beyond, what = measure(data)
            count, slowest, largest = count + 1, max(slowest, (seconds, what)), max(largest, (beyond, what))
        print(json.dumps({"group": name, "files": count, "slowest": slowest, "beyond_bytes": largest}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
