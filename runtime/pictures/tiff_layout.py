"""Read TIFF (revision 6.0, and BigTIFF) directories: how the first page's pixels are stored, checked before any is read.

Takes a file's bytes, gives a `TiffLayout`. Every count and offset is held against the file's length. What is not in the list of
what is read right is refused by its name: a tag that changes what samples mean is never ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError

_ORDERS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}  # "+" is BigTIFF's
_KINDS = {1: "u1", 2: "u1", 3: "u2", 4: "u4", 7: "u1", 13: "u4", 16: "u8"}  # the whole-number types of entries
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 254, 256, 257, 258, 259, 262, 266
_ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _PLANES, _PREDICTOR, _PALETTE = 274, 277, 278, 284, 317, 320
_STRIPS, _TILES, _TILE_WIDTH, _TILE_HEIGHT = (273, 279), (324, 325), 322, 323
_INK_SET, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _DEPTH, _ICC_PROFILE = 332, 338, 339, 32997, 34675

_MOST_BLOCKS = 1 << 20  # a tile of 16 × 16 each is 268 million pixels
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
UNCOMPRESSED, LZW, JPEG, PACKBITS, DEFLATES = 1, 5, 7, 32773, (8, 32946)
FAX = (2, 3, 4)  # CCITT's
ASSOCIATED = 1
_COMPRESSIONS = {
    6: "old-style JPEG",
    34661: "JBIG",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_PHOTOMETRICS = {
    4: "transparency mask",
    6: "YCbCr",
    8: "CIE L*a*b*",
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    32803: "colour filter array",
}
_PHOTOMETRICS |= {32844: "LogL", 32845: "LogLuv", 34892: "linear raw"}
_COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}  # samples of each, without alpha
_COLOUR_NAMES = {WHITE_IS_ZERO: "grey", BLACK_IS_ZERO: "grey", RGB: "RGB", PALETTE: "palette", CMYK: "CMYK", YCBCR: "YCbCr"}
_UNSIGNED = (1, 4)  # 4 says nothing
_FORMATS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}


@dataclass(frozen=True, kw_only=True)
class TiffLayout:
    """How one page is stored.

    Attributes:
        order: "<" or ">": the order of a sample's bytes.
        samples: per pixel, alpha among them.
        bits: of each sample: 1, 2, 4, 8 or 16.
        separate: each sample has its own plane; else those of a pixel lie beside each other.
        differences: rows hold differences from the left neighbour (predictor 2).
        alpha: 0 none, 1 associated (colours are multiplied by it), 2 unassociated.
        block: (rows, columns) of each strip or tile.
        tiled: blocks are all that large; strips end with the picture.
        offsets, sizes: where the blocks are in the file and how many bytes each has; row by row, plane by plane.
        palette: (colours, 3) uint8.
        more_pages: the file has further ones.
    """

    order: str
    height: int
    width: int
    samples: int
    bits: int
    compression: int
    photometric: int
    separate: bool
    differences: bool
    alpha: int
    orientation: int
    block: tuple[int, int]
    tiled: bool
    offsets: NDArray[np.integer]
    sizes: NDArray[np.integer]
    palette: NDArray[np.uint8] | None
    icc_profile: bytes
    more_pages: bool

    @property
    def by_libtiff(self) -> bool:
        """Whether its blocks are decoded by libtiff, through Pillow, which turns the picture too."""
        return self.compression in (JPEG, *FAX)

    @property
    def working_bytes(self) -> int:
        """Memory that decoding takes at most beside the file, the samples and the picture: for the blocks in work."""
        samples = self.samples if self.photometric in (PALETTE, CMYK) else 0  # these have samples and a picture of other sizes
        block = math.prod(self.block) * (1 if self.separate else self.samples) * max(self.bits // 8, 1)
        copies = 1 if self.compression == UNCOMPRESSED else 3
        return self.height * self.width * samples + copies * block + 3 * int(self.sizes.max()) * (copies > 1)

    @property
    def channels(self) -> int:
        """The decoded picture's shape."""
        colours = 3 if self.photometric in (RGB, PALETTE, CMYK, YCBCR) else 1
        return colours + (self.alpha > 0)


def is_tiff(data: bytes) -> bool:
    """Return whether the file begins as a TIFF or BigTIFF does."""
    return data[:4] in _ORDERS


def read_layout(data: bytes, *, name: str, check_size: Callable[[tuple[int, int]], None]) -> TiffLayout:
    """Return the first page's layout; `check_size` is shown its (H, W) first.

    Raises:
        ImageError: pixels stored in a way that is not read, by its name.
        ValueError: a damaged directory.
    """
    page = _Page(data, name=name)
    height, width, samples = page.one(_HEIGHT), page.one(_WIDTH), page.one(_SAMPLES, 1)
    page.check(height > 0 and width > 0 and 0 < samples <= 16, f"{width}×{height} pixels of {samples} samples")
    check_size((height, width))
    compression, photometric = page.one(_COMPRESSION, UNCOMPRESSED), page.one(_PHOTOMETRIC)
    bits = _bits(page, samples)
    alpha = _alpha(page, photometric, samples)
    predictor = page.one(_PREDICTOR, 1) if compression in (LZW, *DEFLATES) else 1  # others have none
    _refuse_unknown(page, bits=bits, compression=compression, photometric=photometric, samples=samples, predictor=predictor)
    page.check(not (alpha == ASSOCIATED and photometric == WHITE_IS_ZERO), "associated alpha where white is zero", refused=True)
    page.check(page.one(_SUBFILE, 0) & 5 == 0, "as its first page a reduced copy or a mask of another", refused=True)
    tiled = _TILE_WIDTH in page.entries
    block = (page.one(_TILE_HEIGHT), page.one(_TILE_WIDTH)) if tiled else (min(page.one(_ROWS_PER_STRIP, height), height), width)
    page.check(min(block) > 0, "empty strips or tiles")
    if tiled:  # as the specification has it; smaller ones make a file of blocks alone
        page.check(block[0] % 16 == block[1] % 16 == 0, f"tiles of {block[1]}×{block[0]}, not multiples of 16")
        page.check(
            block[0] * block[1] <= max(4 * height * width, 1 << 20), f"tiles of {block[1]}×{block[0]}, far above the picture"
        )
    separate = page.one(_PLANES, 1) == 2 and samples > 1
    offsets, sizes = (page.values(tag) for tag in (_TILES if tiled else _STRIPS))
    blocks = -(-height // block[0]) * -(-width // block[1]) * (samples if separate else 1)
    page.check(blocks <= _MOST_BLOCKS, f"{blocks} strips or tiles, more than {_MOST_BLOCKS}", refused=True)
    page.check(len(offsets) == len(sizes) == blocks, f"{len(offsets)} strips or tiles with {len(sizes)} sizes instead of {blocks}")
    inside = (offsets <= len(data)) & (sizes <= len(data)) & (sizes > 0)
    page.check(bool(inside.all()), "strips or tiles that are empty or not in the file")
    page.check(bool((offsets.astype(np.uint64) + sizes <= len(data)).all()), "strips or tiles that end behind the file")
    return TiffLayout(
        order=page.order,
        height=height,
        width=width,
        samples=samples,
        bits=bits,
        compression=compression,
        photometric=photometric,
        separate=separate,
        differences=predictor == 2,
        alpha=alpha,
        orientation=page.one(_ORIENTATION, 1),
        block=block,
        tiled=tiled,
        offsets=offsets,
        sizes=sizes,
        palette=_palette(page, bits) if photometric == PALETTE else None,
        icc_profile=page.values(_ICC_PROFILE).astype(np.uint8).tobytes() if _ICC_PROFILE in page.entries else b"",
        more_pages=page.next != 0,
    )


def _bits(page: _Page, samples: int) -> int:
    bits = page.values(_BITS) if _BITS in page.entries else np.ones(samples, np.uint16)
    page.check(len(bits) == samples, f"{len(bits)} numbers of bits for {samples} samples")
    page.check(len(set(bits.tolist())) == 1, f"samples of different depths, {bits.tolist()} bits", refused=True)
    return int(bits[0])


def _alpha(page: _Page, photometric: int, samples: int) -> int:
    """0 none, 1 associated, 2 unassociated."""
    # OpenCV writes RGBA without the tag, and everything that reads it takes the fourth sample for alpha.
    unstated = [2] if photometric == RGB else []
    kinds = page.values(_EXTRA_SAMPLES).tolist() if _EXTRA_SAMPLES in page.entries else unstated
    extra = samples - _COLOURS.get(photometric, samples)
    page.check(extra >= 0, f"{samples} samples a pixel, too few for its colours")
    page.check(extra <= 1, f"{extra} samples a pixel beside its colours", refused=True)
    if extra == 0:
        return 0
    meaning = "one sample a pixel beside its colours, and does not say that it is alpha (ExtraSamples)"
    page.check(len(kinds) == 1 and kinds[0] in (1, 2), meaning, refused=True)
    page.check(photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB), "a palette or CMYK colours with alpha", refused=True)
    return int(kinds[0])


def _refuse_unknown(page: _Page, *, bits: int, compression: int, photometric: int, samples: int, predictor: int) -> None:
    """Raise ImageError for what is not in the list of what is read right."""
    formats = page.values(_SAMPLE_FORMAT) if _SAMPLE_FORMAT in page.entries else np.ones(1, np.uint16)
    kind = next((_FORMATS.get(code, f"format-{code}") for code in formats.tolist() if code not in _UNSIGNED), "unsigned")
    known_as = f" ({'F' if kind == 'floating-point' else 'I'} samples to Pillow)" if bits == 32 else ""
    page.check(kind == "unsigned" and bits <= 16, f"{kind} {bits}-bit samples{known_as}", refused=True)
    page.check(
        photometric in _COLOURS, f"photometric kind {photometric} ({_PHOTOMETRICS.get(photometric, 'unknown')})", refused=True
    )
    named = f"compression {compression} ({_COMPRESSIONS.get(compression, 'unknown')})"
    page.check(compression in (UNCOMPRESSED, LZW, JPEG, PACKBITS, *DEFLATES, *FAX), named, refused=True)
    page.check(predictor in (1, 2), f"predictor {predictor}", refused=True)
    depths: tuple[int, ...] = (8, 16) if photometric in (RGB, WHITE_IS_ZERO, BLACK_IS_ZERO) else (8,)
    depths += (1, 2, 4) if samples == 1 and predictor == 1 else ()
    page.check(bits in depths, f"{bits}-bit {_COLOUR_NAMES[photometric]}, {samples} samples a pixel", refused=True)
    separate = page.one(_PLANES, 1)
    page.check(separate in (1, 2), f"planar configuration {separate}")
    page.check(page.one(_DEPTH, 1) == 1, "a volume of more than one plane", refused=True)
    page.check(page.one(_INK_SET, 1) == 1, "inks that are not CMYK", refused=True)
    page.check(page.one(_FILL_ORDER, 1) == 1 or compression in FAX, "bytes whose bits are in reverse (FillOrder 2)", refused=True)
    if compression in FAX:
        page.check(bits == samples == 1 and photometric in (0, 1), "CCITT compression of other than black and white", refused=True)
    if compression == JPEG:
        plain = bits == 8 and (samples, photometric) in ((1, BLACK_IS_ZERO), (3, RGB), (3, YCBCR)) and separate == 1
        page.check(plain, "JPEG compression of other than 8-bit grey or colour", refused=True)
    page.check(photometric != YCBCR or compression == JPEG, "YCbCr colours without JPEG compression", refused=True)


def _palette(page: _Page, bits: int) -> NDArray[np.uint8]:
    values = page.values(_PALETTE)
    page.check(len(values) == 3 << bits, f"a palette of {len(values)} values for {1 << bits} colours")
    return (values.reshape(3, -1).T >> 8).astype(np.uint8)


class _Page:
    """The first directory: its entries by tag, each with its type, count and where its values are."""

    def __init__(self, data: bytes, *, name: str) -> None:
        self._data, self._name = data, name
        self.order, big = _ORDERS[data[:4]]
        count_kind, offset_kind, head, entry_bytes = ("u8", "u8", 8, 20) if big else ("u2", "u4", 4, 12)
        if big:
            self.check(self._numbers("u2", 4, 2).tolist() == [8, 0], "offsets that have not 8 bytes")
        (at,) = self._numbers(offset_kind, head, 1).tolist()
        (count,) = self._numbers(count_kind, at, 1).tolist()
        self.check(count <= 1 << 12, f"a directory of {count} entries")
        first = at + np.dtype(count_kind).itemsize
        self.entries: dict[int, tuple[str, int, int]] = {}
        place_bytes = np.dtype(offset_kind).itemsize  # an entry's values where they fit into that, else their offset
        for start in range(first, first + count * entry_bytes, entry_bytes):
            tag, kind = self._numbers("u2", start, 2).tolist()
            (length,) = self._numbers(offset_kind, start + 4, 1).tolist()
            if kind in _KINDS:  # others hold nothing that is needed here
                place = start + 4 + place_bytes
                fits = length * np.dtype(_KINDS[kind]).itemsize <= place_bytes
                self.entries[tag] = _KINDS[kind], length, place if fits else self._numbers(offset_kind, place, 1).tolist()[0]
        (self.next,) = self._numbers(offset_kind, first + count * entry_bytes, 1).tolist()

    def check(self, condition: bool, what: str, *, refused: bool = False) -> None:
        """Where the condition does not hold: ImageError if the file is `refused` for what it has, ValueError if that is damage."""
        if condition:
            return
        if refused:
            raise ImageError(f"{self._name} has {what}: that is not read", hint="convert it, to a PNG for instance")
        raise ValueError(f"it has {what}")

    def values(self, tag: int) -> NDArray[np.integer]:
        """Return all numbers of a tag."""
        self.check(tag in self.entries, f"no tag {tag}")
        kind, count, at = self.entries[tag]
        return self._numbers(kind, at, count)

    def one(self, tag: int, default: int | None = None) -> int:
        """Return the first number of a tag; `default` where the tag is not there."""
        if default is not None and tag not in self.entries:
            return default
        values = self.values(tag)
        self.check(len(values) > 0, f"an empty tag {tag}")
        return int(values[0])

    def _numbers(self, kind: str, at: int, count: int) -> NDArray[np.integer]:
        dtype = np.dtype(kind).newbyteorder(self.order)  # type: ignore[arg-type] # "<" or ">"
        self.check(at + count * dtype.itemsize <= len(self._data), "a directory that points behind the end of the file")
        numbers: NDArray[np.integer] = np.frombuffer(self._data, dtype, count, at)
        return numbers
