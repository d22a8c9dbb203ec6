"""Make JPEG, WebP, GIF and BMP files of every kind, each with the pixels that it should be read as."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.picture_formats.picture_file import PictureFile, Pixels, noise

SIZE = (13, 19)


def bmp_files() -> Iterator[PictureFile]:
    """1 to 32 bits, from top and from bottom, with palettes, masks, alpha and run lengths."""
    for bits, top_down in itertools.product((1, 4, 8), (False, True)):
        for kind, table in _palettes(bits).items():
            indices = noise(SIZE, (len(table) - 1).bit_length())
            right = not (kind == "grey palette" and bits == 4) and not (kind == "black and white palette" and bits > 1)
            yield PictureFile(
                format="BMP",
                kind=f"{bits}-bit {kind}" if right else "refused",
                stored=_way(top_down) if right else f"{bits}-bit {kind}, {_way(top_down)}",
                data=bmp_by_hand(indices, bits, top_down=top_down, palette=table),
                pixels=_grey_where_grey(table)[indices] if right else None,
            )
    rgba = noise((*SIZE, 4))
    for top_down in (False, True):
        yield from _of_masks(rgba, top_down=top_down)


def _of_masks(rgba: Pixels, *, top_down: bool) -> Iterator[PictureFile]:
    wide = rgba.astype(np.uint32)
    masks: dict[str, tuple[int, tuple[int, ...], Pixels, bool]] = {
        "RGB": (24, (16, 8, 0), rgba[..., :3], False),
        "RGB and a filler": (32, (16, 8, 0), rgba[..., :3], False),
        "RGB by masks": (32, (24, 16, 8), rgba[..., :3], True),
        "RGB, alpha by masks": (32, (16, 8, 0, 24), rgba, True),
        "RGB, alpha by other masks": (32, (0, 8, 16, 24), rgba, True),
    }
    for kind, (bits, shifts, pixels, stated) in masks.items():
        values = sum(wide[..., channel] << shift for channel, shift in enumerate(shifts))
        fields = [255 << shift for shift in shifts] if stated else []
        data = bmp_by_hand(np.asarray(values, np.uint32), bits, top_down=top_down, masks=fields)
        yield PictureFile(format="BMP", kind=f"{bits}-bit {kind}", stored=_way(top_down), data=data, pixels=pixels)
    for kind, widths in {"5, 5, 5": (5, 5, 5), "5, 6, 5": (5, 6, 5)}.items():
        samples = [rgba[..., channel].astype(np.uint32) >> (8 - width) for channel, width in enumerate(widths)]
        shifts = (widths[1] + widths[2], widths[2], 0)
        values = sum(plane << shift for plane, shift in zip(samples, shifts, strict=True))
        expected = np.dstack([plane * 255 // ((1 << width) - 1) for plane, width in zip(samples, widths, strict=True)])
        fields = [((1 << width) - 1) << shift for width, shift in zip(widths, shifts, strict=True)]
        data = bmp_by_hand(np.asarray(values, np.uint32), 16, top_down=top_down, masks=fields)
        yield PictureFile(format="BMP", kind=f"16-bit {kind}", stored=_way(top_down), data=data, pixels=expected.astype(np.uint8))


def _palettes(bits: int) -> dict[str, Pixels]:
    greys = np.repeat(np.arange(1 << bits, dtype=np.uint8)[:, np.newaxis], 3, axis=1)
    black_and_white = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    if bits == 1:
        return {"palette": noise((2, 3)), "black and white palette": black_and_white}
    return {"palette": noise((1 << bits, 3)), "grey palette": greys, "black and white palette": black_and_white}


def _grey_where_grey(table: Pixels) -> Pixels:
    return table[:, 0] if (table == table[:, :1]).all() else table


def _way(top_down: bool) -> str:
    return "from top to bottom" if top_down else "from bottom to top"


def bmp_by_hand(
    values: Pixels | np.ndarray[Any, np.dtype[np.uint32]],
    bits: int,
    *,
    top_down: bool,
    palette: Pixels | None = None,
    masks: list[int] | None = None,
) -> bytes:
    """Return a BMP of (H, W) values of so many bits."""
    height, width = values.shape
    if bits < 8:
        wide = np.unpackbits(values.astype(np.uint8)[..., np.newaxis], axis=-1)[..., 8 - bits :]
        rows = np.packbits(wide.reshape(height, -1), axis=1)
    else:
        rows = np.ascontiguousarray(values, "<u4").view(np.uint8).reshape(height, width, 4)[..., : bits // 8].reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    table = b"" if palette is None else np.pad(palette[:, ::-1], ((0, 0), (0, 1))).tobytes()
    fields = b"".join(struct.pack("<I", mask) for mask in (*(masks or []), 0, 0, 0, 0)[:4]) if masks else b""
    size = 124 if fields else 40
    about = struct.pack("<IiiHHIIiiII", size, width, -height if top_down else height, 1, bits, 3 if fields else 0, 0, 0, 0, 0, 0)
    if palette is not None:
        about = about[:32] + struct.pack("<II", len(palette), 0)
    about = (about + fields).ljust(size, b"\0")
    body = (rows if top_down else rows[::-1]).tobytes()
    start = 14 + len(about) + len(table)
    return struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start) + about + table + body


def jpeg_files() -> Iterator[PictureFile]:
    """Grey, YCbCr in each subsampling, and CMYK, which Adobe's stores inverted; baseline and progressive."""
    rgb = _smooth()
    for progressive, subsampling in itertools.product((False, True), ("4:4:4", "4:2:2", "4:2:0")):
        stored = f"{'progressive' if progressive else 'baseline'}, {subsampling}"
        for kind, image in (("grey", Image.fromarray(rgb[..., 0])), ("YCbCr", Image.fromarray(rgb))):
            data = _saved(image, "JPEG", quality=98, progressive=progressive, subsampling=subsampling)
            yield PictureFile(format="JPEG", kind=kind, stored=stored, data=data, pixels=np.asarray(image), tolerance=12)
        cmyk = Image.fromarray(rgb).convert("CMYK")
        data = _saved(cmyk, "JPEG", quality=98, progressive=progressive)
        yield PictureFile(format="JPEG", kind="CMYK, Adobe's", stored=stored, data=data, pixels=rgb, tolerance=12)


def webp_files() -> Iterator[PictureFile]:
    """Lossless and lossy, with and without alpha, and the first of several frames."""
    rgba = np.dstack([_smooth(), np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8) + 50])
    for channels, kind in ((3, "RGB"), (4, "RGB, alpha")):
        image = Image.fromarray(np.ascontiguousarray(rgba[..., :channels]))
        pixels = np.asarray(image)
        yield PictureFile(format="WebP", kind=kind, stored="lossless", data=_saved(image, "WEBP", lossless=True), pixels=pixels)
        lossy = _saved(image, "WEBP", quality=100)
        yield PictureFile(format="WebP", kind=kind, stored="lossy", data=lossy, pixels=pixels, tolerance=20)
    frames = _saved(image, "WEBP", lossless=True, save_all=True, append_images=[image.rotate(180)])  # Pillow's have alpha
    yield PictureFile(format="WebP", kind="RGB, alpha", stored="the first of two frames", data=frames, pixels=pixels)


def gif_files() -> Iterator[PictureFile]:
    """Palettes and greys, interlaced or not, with a transparent colour, and the first of several frames."""
    indices, table = noise(SIZE, 4), noise((16, 3))
    image = Image.frombytes("P", SIZE[::-1], indices.tobytes())
    image.putpalette(table.tobytes())
    rgb = table[indices]
    alpha = np.where(indices == 3, 0, 255).astype(np.uint8)
    for interlaced in (0, 1):
        way = "interlaced" if interlaced else "plain"
        yield PictureFile(format="GIF", kind="palette", stored=way, data=_saved(image, "GIF", interlace=interlaced), pixels=rgb)
        data = _saved(image, "GIF", interlace=interlaced, transparency=3)
        yield PictureFile(format="GIF", kind="palette, a transparent colour", stored=way, data=data, pixels=np.dstack([rgb, alpha]))
    for kind, whole, right in (
        ("", _saved(image, "GIF"), False),
        (", a transparent colour", _saved(image, "GIF", transparency=3), True),
    ):
        data = whole[:6] + struct.pack("<HH", SIZE[1] + 4, SIZE[0] + 2) + whole[10:]  # the screen is larger than its first frame
        filled = np.pad(np.dstack([rgb, alpha]), ((0, 2), (0, 4), (0, 0)))
        filled[SIZE[0] :, :, :3] = filled[:, SIZE[1] :, :3] = table[3]
        yield PictureFile(
            format="GIF",
            kind=f"palette{kind}" if right else "refused",
            stored="smaller than the screen",
            data=data,
            pixels=filled if right else None,
        )
    data = _saved(image, "GIF", save_all=True, append_images=[image.rotate(180)])
    yield PictureFile(format="GIF", kind="palette", stored="the first of two frames", data=data, pixels=rgb)


def _smooth() -> Pixels:
    slopes = np.add.outer(np.arange(48), np.arange(64))[..., np.newaxis] * [2, 1, 1] // [1, 1, 2]
    return slopes.astype(np.uint8)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 # as Pillow has it
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
