"""Pictures: decoded as they are or refused, and carried to the network and back without loss."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageOps

from runtime.bundle import Colour, Contract
from runtime.errors import ImageError, PipelineError
from runtime.images import Picture, Rounding, from_network, is_image_file, read_picture, to_network, write_picture
from runtime.pictures.bicubic import upscale_bicubic
from runtime.sizes import upscaled_size

RGB, LUMA = Contract(), Contract(colour="Y")
ORIENTATION = 0x0112  # the EXIF tag
sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))
pictures = sizes.flatmap(lambda size: arrays.arrays(np.uint8, (*size, 3)))


def _alpha(picture: Picture, value: int) -> Picture:
    return np.full(picture.shape[:2], value, np.uint8)


def _refusal(path: Path) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_picture(path)
    assert str(path) in str(caught.value)
    return caught.value


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif", ".tiff", ".webp"])
def test_a_lossless_format_gives_back_every_pixel(picture: Picture, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture{suffix}"
    write_picture(path, picture)
    assert np.array_equal(read_picture(path), picture)


def test_a_written_picture_is_rgb_to_other_programs(picture: Picture, tmp_path: Path) -> None:
    write_picture(tmp_path / "picture.png", picture)
    with Image.open(tmp_path / "picture.png") as image:
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), picture)


def test_a_jpeg_written_is_close_to_the_picture(picture: Picture, tmp_path: Path) -> None:
    smooth = cv2.blur(picture, (9, 9)).astype(np.uint8)
    write_picture(tmp_path / "picture.jpg", smooth)
    difference = np.abs(read_picture(tmp_path / "picture.jpg").astype(int) - smooth)
    assert difference.mean() < 2  # quality 95 on smooth content; swapped channels would give tens


@given(picture=pictures)
def test_a_picture_survives_the_way_to_the_network_and_back(picture: Picture) -> None:
    assert np.array_equal(from_network(to_network(picture, RGB, scale=2), "RGB", source=picture), picture)


@given(picture=pictures)
def test_the_network_is_given_planes_between_0_and_1(picture: Picture) -> None:
    array = to_network(picture, RGB, scale=2)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    assert array.shape == (1, 3, *picture.shape[:2])
    assert np.allclose(array[0].transpose(1, 2, 0), picture / 255, rtol=0, atol=1e-7)


def test_output_beyond_the_range_is_clipped_and_between_codes_is_rounded() -> None:
    output = np.array([-0.5, 0.0, 0.499 / 255, 0.501 / 255, 254.6 / 255, 1.5], np.float32)
    planes = np.broadcast_to(output, (1, 3, 1, 6)).astype(np.float32)
    row = from_network(planes, "RGB", source=np.zeros((1, 3, 3), np.uint8))
    assert row[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize(("rounding", "expected"), [(Rounding.NEAREST, [0, 1, 255, 255]), (Rounding.TRUNCATE, [0, 0, 254, 255])])
def test_an_output_becomes_bytes_by_the_rounding_asked_for(rounding: Rounding, expected: list[int]) -> None:
    values = np.array([-0.2, 0.7 / 255, 254.7 / 255, 1.3], np.float32)
    planes = np.broadcast_to(values, (1, 3, 1, 4)).astype(np.float32)
    row = from_network(planes, "RGB", source=np.zeros((1, 2, 3), np.uint8), rounding=rounding)
    assert row[0, :, 0].tolist() == expected


@given(picture=pictures)
def test_a_luma_network_is_given_the_luma_that_jpeg_has(picture: Picture) -> None:
    expected = np.asarray(Image.fromarray(picture).convert("YCbCr"))[..., 0]
    luma = to_network(picture, LUMA, scale=2)
    assert luma.shape == (1, 1, *picture.shape[:2])
    assert np.abs(luma[0, 0] * 255 - expected).max() <= 1 + 1e-4  # two libraries' fixed-point rounding


def test_a_luma_networks_output_keeps_the_colours_of_the_picture_that_went_in() -> None:
    flat = np.full((6, 8, 3), (200, 60, 90), np.uint8)
    luma = to_network(flat, LUMA, scale=2).repeat(3, axis=2).repeat(3, axis=3)
    larger = from_network(luma, "Y", source=flat)
    assert larger.shape == (18, 24, 3)
    assert np.abs(larger.astype(int) - (200, 60, 90)).max() <= 2  # through 8-bit chroma and back


def test_grey_stays_grey_through_a_luma_network(picture: Picture) -> None:
    grey = picture[..., :1].repeat(3, axis=2)
    larger = from_network(to_network(grey, LUMA, scale=2), "Y", source=grey)
    assert np.array_equal(larger, grey)


@pytest.mark.parametrize("colour", ["RGB", "Y"])
@pytest.mark.parametrize("scale", [1.3, 2])
def test_a_network_before_which_pictures_are_enlarged_is_given_them_so(picture: Picture, colour: Colour, scale: float) -> None:
    size = upscaled_size(picture.shape[:2], scale)
    enlarged = upscale_bicubic(picture, size)
    array = to_network(picture, Contract(colour=colour, pre_upscale=True), scale=scale)
    assert np.array_equal(array, to_network(enlarged, Contract(colour=colour), scale=scale))


def test_the_colours_around_enlarged_luma_are_those_of_the_enlarged_picture(picture: Picture) -> None:
    contract = Contract(colour="Y", pre_upscale=True)
    larger = from_network(to_network(picture, contract, scale=1.7), "Y", source=picture)
    expected = upscale_bicubic(picture, upscaled_size(picture.shape[:2], 1.7))
    assert np.abs(larger.astype(int) - expected).mean() < 2  # through 8-bit chroma; clipped colours at the edge differ by more


def _save_grey(path: Path, picture: Picture) -> None:
    Image.fromarray(picture[..., 0]).save(path)


def _save_two_colours(path: Path, picture: Picture) -> None:
    Image.fromarray(picture[..., 0] > 100).save(path)


@pytest.mark.parametrize("save", [_save_grey, _save_two_colours])
def test_a_grey_picture_has_three_equal_planes(picture: Picture, save: Callable[[Path, Picture], None], tmp_path: Path) -> None:
    save(tmp_path / "grey.png", picture)
    with Image.open(tmp_path / "grey.png") as image:
        grey = np.asarray(image.convert("L"))
    assert np.array_equal(read_picture(tmp_path / "grey.png"), np.stack([grey] * 3, axis=-1))


def test_a_palette_picture_is_read_in_its_colours(picture: Picture, tmp_path: Path) -> None:
    image = Image.fromarray(picture).quantize(16)
    image.save(tmp_path / "palette.png")
    assert np.array_equal(read_picture(tmp_path / "palette.png"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation_is_applied(suffix: str, orientation: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(orientation)
    blocks = rng.integers(0, 256, (4, 2, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(blocks).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    got = read_picture(path)
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() <= 2  # two JPEG decoders may round differently


def test_an_opaque_alpha_channel_is_dropped(picture: Picture, tmp_path: Path) -> None:
    Image.fromarray(np.dstack([picture, _alpha(picture, 255)])).save(tmp_path / "opaque.png")
    assert np.array_equal(read_picture(tmp_path / "opaque.png"), picture)


def _save_rgba(path: Path, picture: Picture) -> None:
    alpha = _alpha(picture, 255)
    alpha[3, 5] = 254
    Image.fromarray(np.dstack([picture, alpha])).save(path)


def _save_grey_with_alpha(path: Path, picture: Picture) -> None:
    Image.fromarray(np.dstack([picture[..., 0], _alpha(picture, 128)]), "LA").save(path)


def _save_transparent_palette(path: Path, picture: Picture) -> None:
    Image.fromarray(picture).quantize(16).save(path, transparency=0)


def _save_transparent_colour(path: Path, picture: Picture) -> None:
    Image.fromarray(picture).save(path, transparency=tuple(int(value) for value in picture[3, 5]))


def _save_transparent_grey(path: Path, picture: Picture) -> None:
    Image.fromarray(picture[..., 0]).save(path, transparency=int(picture[3, 5, 0]))


@pytest.mark.parametrize(
    "save",
    [
        _save_rgba,
        _save_grey_with_alpha,
        _save_transparent_palette,
        _save_transparent_colour,
        _save_transparent_grey,
    ],
)
def test_a_transparent_picture_is_refused(picture: Picture, save: Callable[[Path, Picture], None], tmp_path: Path) -> None:
    save(tmp_path / "transparent.png", picture)
    error = _refusal(tmp_path / "transparent.png")
    assert "transparent" in str(error)
    assert "flatten" in error.hint


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_a_sample_are_refused(picture: Picture, suffix: str, channels: int, tmp_path: Path) -> None:
    path = tmp_path / f"deep.{suffix}"
    planes = np.dstack([picture, _alpha(picture, 255)])[..., :channels]
    assert cv2.imwrite(str(path), planes.astype(np.uint16))
    error = _refusal(path)
    assert "uint16" in str(error)
    assert "8 bits" in error.hint


def _cut_short(path: Path, picture: Picture) -> None:
    write_picture(path, picture)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _write_text(path: Path, picture: Picture) -> None:
    path.write_text("dear diary\n" * 50)


def _write_nothing(path: Path, picture: Picture) -> None:
    path.touch()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tiff"])
@pytest.mark.parametrize("spoil", [_cut_short, _write_text, _write_nothing])
def test_a_file_that_is_no_whole_picture_is_refused(
    picture: Picture, spoil: Callable[[Path, Picture], None], suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"picture.{suffix}"
    spoil(path, picture)
    error = _refusal(path)
    assert f"{path.stat().st_size} bytes" in str(error)
    assert error.hint


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    assert "No such file" in str(_refusal(tmp_path / "nowhere.png"))


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    assert "directory" in str(_refusal(tmp_path)).lower()


def test_a_few_bytes_that_claim_to_be_a_giant_picture_are_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    _refusal(tmp_path / "bomb.png")


@pytest.mark.parametrize("name", ["picture.gif", "picture", "picture.txt"])
def test_a_suffix_that_names_no_format_cannot_be_written(picture: Picture, name: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="suffix names no picture format") as caught:
        write_picture(tmp_path / name, picture)
    assert ".png" in caught.value.hint
    assert not list(tmp_path.iterdir())


def _below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "picture.png"


def _over_a_folder(folder: Path) -> Path:
    (folder / "picture.png").mkdir()
    return folder / "picture.png"


@pytest.mark.parametrize("place", [_below_a_file, _over_a_folder])
def test_a_picture_that_cannot_be_written_leaves_nothing_behind(
    picture: Picture, place: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ImageError, match="cannot write"):
        write_picture(path, picture)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("shape", [(2, 70_000, 3), (0, 4, 3), (4, 0, 3)], ids=["wider than a JPEG can be", "no rows", "no columns"])
def test_a_picture_its_format_cannot_hold_is_refused(shape: tuple[int, int, int], tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        write_picture(tmp_path / "picture.jpg", np.zeros(shape, np.uint8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "expected"), [("a.png", True), ("A.JPEG", True), ("a.txt", False), ("png", False), ("._a.png", False)]
)
def test_a_picture_is_told_by_its_name(name: str, expected: bool) -> None:
    assert is_image_file(Path(name)) is expected


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_an_output_that_is_not_finite_is_refused_instead_of_shown_as_black(spoilt: float) -> None:
    output = np.full((1, 3, 4, 5), 0.5, np.float32)
    output[0, 1, 2, 3] = spoilt
    with pytest.raises(PipelineError, match="NaN or infinity"):
        from_network(output, "RGB", source=np.zeros((4, 5, 3), np.uint8))
