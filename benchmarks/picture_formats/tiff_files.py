"""Make TIFF files of every layout, each with the pixels that it should be read as.

Those that tifffile can write are a Cartesian product; the rest is written by hand or by Pillow.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any, Literal

import numpy as np
import tifffile
from PIL import Image

from benchmarks.picture_formats.picture_file import PictureFile, Pixels, noise

SIZE = (21, 35)  # of neither strips, tiles nor bytes a whole number
DEPTHS = (8, 16)
KINDS = (
    "grey",
    "white is zero",
    "grey, alpha",
    "grey, associated alpha",
    "RGB",
    "RGB, alpha",
    "RGB, associated alpha",
    "palette",
    "CMYK",
)
PLANES = ("contig", "separate")
BLOCKS: dict[str, dict[str, Any]] = {"one strip": {}, "strips": {"rowsperstrip": 5}, "tiles": {"tile": (16, 32)}}
COMPRESSIONS = {"none": None, "LZW": 5, "deflate": 8, "old deflate": 32946, "PackBits": 32773}
ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")
_ORIENTATION = 274


def tiff_files() -> Iterator[PictureFile]:
    """Yield all of them."""
    yield from tiff_product()
    yield from few_bits()
    yield from libtiff_blocks()
    yield from turned()
    yield from refused()


def tiff_product() -> Iterator[PictureFile]:
    """Depths × kinds × planes × blocks × compressions × predictors × byte orders × classic and BigTIFF."""
    for bits, kind, planes in itertools.product(DEPTHS, KINDS, PLANES):
        if kind in ("palette", "CMYK") and bits == 16:
            continue  # among the refused
        stored, expected, options = samples_of(kind, bits)
        if planes == "separate":
            if stored.ndim == 2:
                continue
            stored = np.moveaxis(stored, 2, 0)
        for blocks, compression, predictor, order, big in itertools.product(BLOCKS, COMPRESSIONS, (1, 2), ORDERS, (False, True)):
            if predictor == 2 and compression in ("none", "PackBits"):
                continue  # there is none
            layout = f"{planes}, {blocks}, predictor {predictor}, {'BigTIFF' if big else 'TIFF'} {order}"
            yield PictureFile(
                format="TIFF",
                kind=f"{bits}-bit {kind}",
                stored=f"{compression}: {layout}",
                data=_written(
                    stored,
                    planarconfig=planes if stored.ndim == 3 else None,
                    compression=COMPRESSIONS[compression],
                    predictor=predictor,
                    byteorder=order,
                    bigtiff=big,
                    **BLOCKS[blocks],
                    **options,
                ),
                pixels=expected,
            )


def samples_of(kind: str, bits: int) -> tuple[Pixels, Pixels, dict[str, Any]]:
    """Return the samples that a file of that kind holds, what they mean, and how tifffile is told."""
    most = (1 << bits) - 1
    channels = {"grey": 1, "white is zero": 1, "palette": 1, "grey, alpha": 2, "grey, associated alpha": 2, "RGB": 3}.get(kind, 4)
    samples = noise((*SIZE, channels), bits)
    samples[:3, :, -1] = most  # alpha's ends
    samples[3:5, :, -1] = 0
    grey_or_rgb = "minisblack" if channels < 3 else "rgb"
    if channels == 1:
        samples = samples[..., 0]
    if kind == "white is zero":
        return samples, most - samples, {"photometric": "miniswhite"}
    if kind == "palette":
        palette = noise((3, 256), 8).astype(np.uint16) * 257
        return samples, (palette >> 8).astype(np.uint8).T[samples], {"photometric": "palette", "colormap": palette}
    if kind == "CMYK":
        image = Image.frombuffer("CMYK", SIZE[::-1], np.ascontiguousarray(samples).tobytes(), "raw", "CMYK", 0, 1)
        return samples, np.asarray(image.convert("RGB")), {"photometric": "separated"}
    if "associated" not in kind:
        return samples, samples, {"photometric": grey_or_rgb, "extrasamples": ["unassalpha"] if "alpha" in kind else None}
    alpha = samples[..., -1:].astype(np.float64)
    colours = np.floor(
        np.divide(samples[..., :-1] * float(most), alpha, where=alpha > 0, out=np.zeros_like(samples[..., :-1], float)) + 0.5
    )
    expected = np.concatenate([np.minimum(colours, most), alpha], axis=2).astype(samples.dtype)
    return samples, expected, {"photometric": grey_or_rgb, "extrasamples": ["assocalpha"]}


def few_bits() -> Iterator[PictureFile]:
    """1, 2 and 4 bits a sample, grey and palette, which no library here writes in all compressions."""
    for bits, photometric, order, rows in itertools.product((1, 2, 4), (0, 1, 3), ORDERS, (5, SIZE[0])):
        indices = noise(SIZE, bits)
        grey = indices * np.uint8(255 // ((1 << bits) - 1))
        palette = noise((3, 1 << bits), 8).astype(np.uint16) * 257
        expected = {0: 255 - grey, 1: grey, 3: (palette >> 8).astype(np.uint8).T[indices]}[photometric]
        strips = [_packed(indices[top : top + rows], bits) for top in range(0, SIZE[0], rows)]
        tags = {258: ("H", [bits]), 259: ("H", [1]), 262: ("H", [photometric]), 277: ("H", [1]), 278: ("I", [rows])}
        if photometric == 3:
            tags[320] = ("H", palette.ravel().tolist())
        yield PictureFile(
            format="TIFF",
            kind=f"{bits}-bit {('white is zero', 'grey', '', 'palette')[photometric]}",
            stored=f"none: strips of {rows} {order}",
            data=tiff_by_hand(tags, strips, order=order),
            pixels=expected,
        )


def libtiff_blocks() -> Iterator[PictureFile]:
    """JPEG and CCITT blocks, as libtiff writes them."""
    black_and_white = noise(SIZE, 1) > 0
    for compression in ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_ccitt", "group3", "group4"):
        for image in (Image.fromarray(black_and_white),):
            yield PictureFile(
                format="TIFF",
                kind="1-bit grey",
                stored=f"{compression}: by libtiff",
                data=_saved(image, compression=compression),
                pixels=black_and_white.astype(np.uint8) * 255,
            )
    smooth = np.add.outer(np.arange(64), np.arange(48))[..., np.newaxis] * [1, 2, 1] // [1, 1, 2]
    rgb = smooth.astype(np.uint8)
    for pixels, kind in ((rgb, "8-bit RGB"), (rgb[..., 0], "8-bit grey")):
        for orientation in (1, 6):
            turned_back = pixels if orientation == 1 else np.rot90(pixels, 1)
            data = _saved(Image.fromarray(turned_back), compression="jpeg", quality=98, tiffinfo={_ORIENTATION: orientation})
            yield PictureFile(
                format="TIFF",
                kind=kind,
                stored=f"JPEG: orientation {orientation}, by libtiff",
                data=data,
                pixels=pixels,
                tolerance=6,
            )


def turned() -> Iterator[PictureFile]:
    """Yield the eight orientations, and a file of two pages."""
    pixels = noise((*SIZE, 3), 16)
    upright: list[Pixels] = [pixels, pixels[:, ::-1], pixels[::-1, ::-1], pixels[::-1]]
    upright += [one.swapaxes(0, 1) for one in (pixels, pixels[::-1], pixels[::-1, ::-1], pixels[:, ::-1])]
    for bits, orientation in itertools.product(DEPTHS, range(1, 9)):
        shift = 16 - bits
        dtype = np.dtype(np.uint16 if bits == 16 else np.uint8)
        data = _written((pixels >> shift).astype(dtype), photometric="rgb", extratags=[(_ORIENTATION, "H", 1, orientation, True)])
        expected: Pixels = (upright[orientation - 1] >> shift).astype(dtype)
        yield PictureFile(
            format="TIFF", kind=f"{bits}-bit RGB", stored=f"none: orientation {orientation}", data=data, pixels=expected
        )
    pages = BytesIO()
    with tifffile.TiffWriter(pages) as writer:
        writer.write(pixels, photometric="rgb")
        writer.write(pixels[::-1], photometric="rgb")
    yield PictureFile(format="TIFF", kind="16-bit RGB", stored="none: the first of two pages", data=pages.getvalue(), pixels=pixels)


def refused() -> Iterator[PictureFile]:
    """Yield what no reader here gets right, or what has no one meaning."""
    grey, rgb = noise(SIZE, 16), noise((*SIZE, 3), 16)
    rgba8 = noise((*SIZE, 4))
    cases: dict[str, tuple[np.ndarray[Any, Any], dict[str, Any]]] = {
        f"{dtype} samples": (grey.astype(dtype), {})
        for dtype in ("int8", "int16", "uint32", "int32", "float16", "float32", "float64")
    }
    cases |= {
        "float32 samples, predictor 3": (grey.astype("f4"), {"predictor": 3, "compression": 8}),
        "complex samples": (grey.astype("c8"), {}),
        "RGB and a sample that is not said to be alpha": (rgba8, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
        "RGB and two more samples": (noise((*SIZE, 5)), {"photometric": "rgb", "extrasamples": ["unassalpha", "unspecified"]}),
        "16-bit CMYK": (noise((*SIZE, 4), 16), {"photometric": "separated"}),
        "16-bit palette": (grey, {"photometric": "palette", "colormap": noise((3, 1 << 16), 16)}),
        "CIE L*a*b*": (noise((*SIZE, 3)), {"photometric": "cielab"}),
        "ICC L*a*b*": (noise((*SIZE, 3)), {"photometric": "icclab"}),
        "YCbCr, not compressed": (noise((*SIZE, 3)), {"photometric": "ycbcr"}),
        "colour filter array": (
            grey,
            {"photometric": "cfa", "extratags": [(33421, "H", 2, (2, 2), True), (33422, "B", 4, (0, 1, 1, 2), True)]},
        ),
        "a volume": (noise((16, 16, 16)), {"volumetric": True, "tile": (16, 16, 16), "photometric": "minisblack"}),
        "a reduced copy as first page": (rgb, {"photometric": "rgb", "subfiletype": 1}),
        "associated alpha where white is zero": (noise((*SIZE, 2)), {"photometric": "miniswhite", "extrasamples": ["assocalpha"]}),
        "LZMA": (rgb, {"photometric": "rgb", "compression": 34925}),
        "Zstandard": (rgb, {"photometric": "rgb", "compression": 50000}),
        "WebP blocks": (rgba8[..., :3], {"photometric": "rgb", "compression": 50001}),
        "JPEG 2000 blocks": (rgba8[..., :3], {"photometric": "rgb", "compression": 34712}),
        "PNG blocks": (rgba8[..., :3], {"photometric": "rgb", "compression": 34933}),
        "LERC blocks": (rgba8[..., :3], {"photometric": "rgb", "compression": 34887}),
    }
    for what, (samples, options) in cases.items():
        yield PictureFile(
            format="TIFF",
            kind="refused",
            stored=what,
            data=_written(samples, **{"photometric": "minisblack"} | options),
            pixels=None,
        )
    reverse = {258: ("H", [8]), 259: ("H", [1]), 262: ("H", [1]), 266: ("H", [2]), 277: ("H", [1]), 278: ("I", [SIZE[0]])}
    uneven = {258: ("H", [5, 6, 5]), 259: ("H", [1]), 262: ("H", [2]), 277: ("H", [3]), 278: ("I", [SIZE[0]])}
    palette = {258: ("H", [8, 8]), 259: ("H", [1]), 262: ("H", [3]), 277: ("H", [2]), 278: ("I", [SIZE[0]]), 338: ("H", [2])}
    palette[320] = ("H", [0] * 768)
    strips = [bytes(SIZE[0] * SIZE[1] * 2)]
    for what, tags in {"FillOrder 2": reverse, "5, 6 and 5 bits": uneven, "palette and alpha": palette}.items():
        yield PictureFile(format="TIFF", kind="refused", stored=what, data=tiff_by_hand(tags, strips, order="<"), pixels=None)


def tiff_by_hand(tags: dict[int, tuple[str, list[int]]], strips: list[bytes], *, order: str) -> bytes:
    """Return a TIFF of these strips, SIZE large, with these tags: type as `struct` names it, and values."""
    offsets = np.cumsum([8, *map(len, strips)]).tolist()
    end = offsets.pop() + offsets.pop(0) * 0
    offsets = [8, *offsets]
    end += end % 2
    tags = tags | {256: ("I", [SIZE[1]]), 257: ("I", [SIZE[0]]), 273: ("I", offsets), 279: ("I", [len(strip) for strip in strips])}
    entries, behind = b"", b""
    for number, (code, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        place = packed.ljust(4, b"\0")
        if len(packed) > 4:
            place = struct.pack(order + "I", end + 2 + 12 * len(tags) + 4 + len(behind))
            behind += packed + bytes(len(packed) % 2)
        entries += struct.pack(order + "HHI", number, {"B": 1, "H": 3, "I": 4}[code], len(values)) + place
    header = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, end)
    return b"".join([header, *strips]).ljust(end, b"\0") + struct.pack(order + "H", len(tags)) + entries + bytes(4) + behind


def _packed(indices: Pixels, bits: int) -> bytes:
    """Rows of so many bits a sample, each filled up to whole bytes."""
    wide = np.unpackbits(indices[..., np.newaxis].astype(np.uint8), axis=2)[..., 8 - bits :]
    return np.packbits(wide.reshape(len(indices), -1), axis=1).tobytes()


def _written(samples: np.ndarray[Any, Any], **options: Any) -> bytes:  # noqa: ANN401 # as tifffile has it
    file = BytesIO()
    tifffile.imwrite(file, samples, metadata=None, **options)
    return file.getvalue()


def _saved(image: Image.Image, **options: Any) -> bytes:  # noqa: ANN401 # as Pillow has it
    file = BytesIO()
    image.save(file, "TIFF", **options)
    return file.getvalue()
