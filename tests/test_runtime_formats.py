"""Every layout of every picture format: read to the right pixels, or refused by name; and what is written, by other libraries."""

from __future__ import annotations

from collections import defaultdict
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from benchmarks.picture_formats import PictureFile
from benchmarks.picture_formats.cli import picture_formats
from benchmarks.picture_formats.other_files import bmp_files, gif_files, jpeg_files, webp_files
from benchmarks.picture_formats.picture_file import Pixels, noise
from benchmarks.picture_formats.png_files import png_files
from benchmarks.picture_formats.tiff_files import few_bits, libtiff_blocks, refused, tiff_product, turned
from benchmarks.picture_formats.verdict import judge
from runtime.errors import ImageError
from runtime.pictures.encode import SUFFIXES, can_stream, encode

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_SHAPES = [(1, 1), (7, 9), (8, 10), (1, 33), (33, 1), (5, 4)]


def _by_pixels(*files: PictureFile) -> list[object]:
    groups = defaultdict(list)
    for file in files:
        groups[file.format, file.kind].append(file)
    return [pytest.param(group, id=", ".join(name)) for name, group in groups.items()]


@pytest.mark.parametrize(
    "files",
    _by_pixels(*few_bits(), *libtiff_blocks(), *turned(), *png_files(), *jpeg_files(), *webp_files(), *gif_files(), *bmp_files()),
)
def test_a_layout_is_read_to_the_pixels_that_were_written(files: list[PictureFile]) -> None:
    wrong = [f"{file.label}: {verdict.what}" for file in files if not (verdict := judge(file)).right]
    assert not wrong


def test_every_tiff_of_the_product_of_layouts_is_read_to_the_samples_that_tifffile_wrote() -> None:
    files = list(tiff_product())
    wrong = [f"{file.label}: {verdict.what}" for file in files if not (verdict := judge(file)).right]
    assert len(files) > 2000
    assert not wrong


@pytest.mark.parametrize("file", [pytest.param(file, id=file.stored) for file in refused()])
def test_a_layout_that_is_not_read_right_is_refused_by_name(file: PictureFile) -> None:
    verdict = judge(file)
    assert verdict.right, f"{file.label}: {verdict.what}"


@pytest.mark.parametrize("file", [pytest.param(file, id=file.label) for file in png_files() if "gAMA" not in file.stored])
def test_the_pngs_written_here_are_what_libpng_reads(file: PictureFile) -> None:
    """The oracle of the table is right itself; libpng leaves gAMA out as we do, and grey's transparent colour."""
    assert file.pixels is not None
    read = imagecodecs.png_decode(file.data)
    expected = file.pixels[..., 0] if "tRNS" in file.stored and "grey" in file.kind and read.ndim == 2 else file.pixels
    assert np.array_equal(read, expected)


def test_the_table_is_printed_with_every_format_and_nothing_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    picture_formats()
    table = capsys.readouterr().out
    assert all(name in table for name in ("TIFF", "PNG", "JPEG", "WebP", "GIF", "BMP", "refused: "))
    assert "WRONG" not in table


# What is written


def _by_another(data: bytes, suffix: str) -> tuple[Pixels, bytes]:
    """The pixels and the profile, by tifffile or Pillow; 16-bit PNGs by libpng."""
    if suffix in (".tif", ".tiff"):
        with tifffile.TiffFile(BytesIO(data)) as file:
            page = file.pages[0]
            assert isinstance(page, tifffile.TiffPage)
            return page.asarray(), bytes(page.iccprofile or b"")
    with Image.open(BytesIO(data)) as image:
        image.load()
        profile = image.info.get("icc_profile") or b""
        if suffix == ".png":
            return imagecodecs.png_decode(data), profile
        return np.asarray(image), profile


@pytest.mark.parametrize("profile", [b"", PROFILE, PROFILE + b"\0"], ids=["no profile", "profile", "profile of an odd length"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,), (4,)], ids=str)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_written_is_read_by_another_library_to_the_same_pixels(
    suffix: str, channels: tuple[int, ...], bits: int, profile: bytes
) -> None:
    for size in _SHAPES:
        pixels = noise((*size, *channels), bits)
        if suffix in (".jpg", ".jpeg"):
            pixels[:] = pixels[0, 0]  # what JPEG keeps
        if (bits == 16 and not can_stream(suffix)) or (channels in ((2,), (4,)) and suffix in (".jpg", ".jpeg", ".bmp")):
            with pytest.raises(ImageError, match=r"no transparency|16-bit"):
                encode(pixels, suffix, icc_profile=profile, name="it")
            continue
        data = encode(pixels, suffix, icc_profile=profile, name="it")
        read, carried = _by_another(data, suffix)
        plain = pixels[..., 0] if channels == (1,) else pixels
        expected = _as_webp(plain) if suffix == ".webp" else plain
        visible = read if suffix != ".webp" or read.shape[-1] != 4 else np.where(read[..., 3:] > 0, read, expected)
        assert visible.shape == expected.shape
        assert np.abs(visible.astype(int) - expected).max() <= (2 if suffix in (".jpg", ".jpeg") else 0)
        assert carried == (b"" if suffix == ".bmp" else profile)
        if suffix in (".tif", ".tiff"):
            assert int.from_bytes(data[4:8], "big") % 2 == 0, "a TIFF's directory begins at an even place"


def _as_webp(pixels: Pixels) -> Pixels:
    """WebP has no grey: RGB of it."""
    if pixels.ndim == 2:
        return np.dstack([pixels] * 3)
    return np.dstack([pixels[..., :1]] * 3 + [pixels[..., 1:]]) if pixels.shape[2] == 2 else pixels
