"""Make PNG files of every colour type and depth, each with the pixels that it should be read as.

They are written here, because no library writes them all; each row has another filter.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.picture_formats.picture_file import PictureFile, Pixels, noise

SIZE = (13, 19)
DEPTHS = {"grey": (1, 2, 4, 8, 16), "RGB": (8, 16), "palette": (1, 2, 4, 8), "grey, alpha": (8, 16), "RGB, alpha": (8, 16)}
_COLOUR_TYPES = {"grey": 0, "RGB": 2, "palette": 3, "grey, alpha": 4, "RGB, alpha": 6}
_CHANNELS = {"grey": 1, "RGB": 3, "palette": 1, "grey, alpha": 2, "RGB, alpha": 4}
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))  # top, left, and steps


def png_files() -> Iterator[PictureFile]:
    """Colour types × depths × interlace × with and without tRNS × with and without gAMA."""
    for kind, depths in DEPTHS.items():
        for bits, interlaced, transparent, gamma in itertools.product(depths, (False, True), (False, True), (False, True)):
            if transparent and "alpha" in kind:
                continue  # the specification forbids it
            samples = noise((*SIZE, _CHANNELS[kind]), bits)
            samples[2:4] = samples[0, 0]  # several pixels of one colour
            pixels, chunks = _meant(samples, kind, bits, transparent=transparent)
            if gamma:
                chunks.insert(0, (b"gAMA", struct.pack(">I", 220_000)))
            ways = [name for name, used in (("interlaced", interlaced), ("tRNS", transparent), ("gAMA", gamma)) if used]
            yield PictureFile(
                format="PNG",
                kind=f"{bits}-bit {kind}",
                stored=", ".join(ways) or "plain",
                data=png_by_hand(samples, _COLOUR_TYPES[kind], bits, chunks, interlaced=interlaced),
                pixels=pixels,
            )


def _meant(samples: Pixels, kind: str, bits: int, *, transparent: bool) -> tuple[Pixels, list[tuple[bytes, bytes]]]:
    """Return what samples stand for, and the chunks that say so."""
    if kind == "palette":
        table = noise((1 << bits, 3))
        chunks = [(b"PLTE", table.tobytes())]
        if transparent:  # shorter than the palette: the rest is opaque
            alpha = np.full((1 << bits, 1), 255, np.uint8)
            alpha[: (1 << bits) - 1, 0] = noise(((1 << bits) - 1,)) // 2
            table = np.hstack([table, alpha])
            chunks.append((b"tRNS", alpha[:-1].tobytes()))
        return table[samples[..., 0]], chunks
    most = (1 << bits) - 1
    pixels = samples if bits >= 8 else samples * np.uint8(255 // most)
    chunks = []
    if transparent:
        colour = samples[0, 0]
        opaque = (samples != colour).any(axis=2, keepdims=True)
        pixels = np.concatenate([pixels, opaque * np.iinfo(pixels.dtype).max], axis=2).astype(pixels.dtype)
        chunks.append((b"tRNS", colour.astype(">u2").tobytes()))
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels, chunks


def png_by_hand(samples: Pixels, colour_type: int, bits: int, chunks: list[tuple[bytes, bytes]], *, interlaced: bool) -> bytes:
    """Return a PNG of (H, W, C) samples, with these chunks before its pixels."""
    passes = [samples[top::down, left::across] for top, left, down, across in _ADAM7] if interlaced else [samples]
    scanlines = b"".join(_filtered(_rows(part, bits), max(samples.shape[2] * bits // 8, 1)) for part in passes if part.size)
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, colour_type, 0, 0, interlaced)
    packed = zlib.compress(scanlines)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", packed[:100]), (b"IDAT", packed[100:]), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in parts)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _rows(samples: Pixels, bits: int) -> NDArray[np.uint8]:
    """Return the bytes of each row."""
    if bits >= 8:
        return np.ascontiguousarray(samples, samples.dtype.newbyteorder(">")).view(np.uint8).reshape(len(samples), -1)
    wide = np.unpackbits(samples.astype(np.uint8)[..., np.newaxis], axis=-1)[..., 8 - bits :]
    return np.packbits(wide.reshape(len(samples), -1), axis=1)


def _filtered(rows: NDArray[np.uint8], step: int) -> bytes:
    """Return each row behind its filter's number: none, Sub, Up, Average and Paeth in turn."""
    above = np.vstack([np.zeros_like(rows[:1]), rows[:-1]]).astype(int)
    left, above_left = (np.pad(part, ((0, 0), (step, 0)))[:, : rows.shape[1]].astype(int) for part in (rows, above))
    guess = left + above - above_left
    nearness = np.stack([abs(guess - part) for part in (left, above, above_left)])
    paeth = np.choose(nearness.argmin(axis=0), [left, above, above_left])
    guesses = [np.zeros_like(left), left, above, (left + above) // 2, paeth]
    return b"".join(
        bytes([index % 5]) + ((rows[index].astype(int) - guesses[index % 5][index]) & 255).astype(np.uint8).tobytes()
        for index in range(len(rows))
    )
