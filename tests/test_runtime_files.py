"""Picture files as they are: what each format holds is read, written and carried, and what cannot be is refused."""

from __future__ import annotations

import struct
import tempfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from runtime.errors import ImageError
from runtime.images import read_picture
from runtime.pictures.decode import LARGEST_PIXELS, decode
from runtime.pictures.encode import SUFFIXES, can_stream, encode, open_writer
from runtime.pictures.pixels import Picture

KINDS = {"grey": (), "grey and alpha": (2,), "RGB": (3,), "RGB and alpha": (4,)}
LOSSLESS = [".png", ".tif", ".tiff"]
ORIENTATION = 0x0112  # the EXIF tag
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
kinds = pytest.mark.parametrize("channels", KINDS.values(), ids=KINDS)
dtypes = pytest.mark.parametrize("dtype", [np.uint8, np.uint16])


def _noise(shape: tuple[int, ...], dtype: type[np.uint8 | np.uint16] = np.uint8) -> NDArray[np.uint8 | np.uint16]:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 # as Pillow has it
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _by_opencv(data: bytes) -> NDArray[np.generic]:
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    if decoded.ndim == 3:
        decoded = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB if decoded.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return decoded


def _refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, name="the file")
    assert "the file" in str(caught.value)
    return caught.value


# Written and read again


@kinds
@dtypes
@pytest.mark.parametrize("suffix", LOSSLESS)
def test_a_lossless_format_keeps_kind_depth_and_every_sample(
    suffix: str, channels: tuple[int, ...], dtype: type[np.uint8 | np.uint16]
) -> None:
    pixels = _noise((13, 17, *channels), dtype)
    decoded = decode(encode(pixels, suffix, name="it", icc_profile=PROFILE), name="it")
    assert decoded.pixels.dtype == dtype
    assert np.array_equal(decoded.pixels, pixels)
    assert decoded.icc_profile == PROFILE


@kinds
@dtypes
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_what_is_written_row_by_row_is_read_by_other_programs(
    suffix: str, channels: tuple[int, ...], dtype: type[np.uint8 | np.uint16]
) -> None:
    pixels = _noise((13, 17, *channels), dtype)
    if suffix == ".tiff" and (channels == (2,) or (channels == (4,) and dtype is np.uint8)):
        pytest.skip("OpenCV reads no grey with alpha from TIFF, and premultiplies 8-bit colours by it")
    read = _by_opencv(encode(pixels, suffix, name="it"))
    expected = np.dstack([pixels[..., :1]] * 3 + [pixels[..., 1:]]) if channels == (2,) else pixels
    assert np.array_equal(read, expected)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 32)}, {"rowsperstrip": 5}], ids=str)
def test_grey_with_alpha_in_16_bits_is_read_as_other_programs_write_it(order: Literal["<", ">"], options: dict[str, Any]) -> None:
    pixels = _noise((21, 70, 2), np.uint16)
    file = BytesIO()
    tifffile.imwrite(file, pixels, byteorder=order, photometric="minisblack", extrasamples=["unassalpha"], **options)
    assert np.array_equal(decode(file.getvalue(), name="it").pixels, pixels)


def test_grey_with_alpha_in_16_bits_is_read_by_other_programs() -> None:
    pixels = _noise((21, 70, 2), np.uint16)
    assert np.array_equal(tifffile.imread(BytesIO(encode(pixels, ".tiff", name="it"))), pixels)


def test_differences_of_grey_with_alpha_in_16_bits_are_summed() -> None:
    file = BytesIO()
    pixels = _noise((8, 8, 2), np.uint16)
    tifffile.imwrite(file, pixels, byteorder=">", photometric="minisblack", extrasamples=["unassalpha"], compression="zlib")
    predictor = 317
    summed = decode(_with_tiff_tag(file.getvalue(), predictor, 2), name="it").pixels
    assert np.array_equal(summed, pixels.cumsum(axis=1, dtype=np.uint16))


@pytest.mark.parametrize("suffix", [".webp", ".bmp"])
@pytest.mark.parametrize("channels", [(), (3,), (4,)], ids=str)
def test_webp_and_bmp_keep_the_samples_of_what_they_hold(suffix: str, channels: tuple[int, ...]) -> None:
    pixels = _noise((13, 17, *channels))
    if suffix == ".bmp" and channels == (4,):
        with pytest.raises(ImageError, match="no transparency"):
            encode(pixels, suffix, name="it")
        return
    got = decode(encode(pixels, suffix, name="it"), name="it").pixels
    visible = pixels if channels else (pixels if suffix == ".bmp" else np.stack([pixels] * 3, axis=-1))
    if channels == (4,):  # WebP may change colours that cannot be seen
        got, visible = got[got[..., 3] > 0], visible[visible[..., 3] > 0]
    assert np.array_equal(got, visible)


@given(heights=st.lists(st.integers(1, 5), min_size=1, max_size=6), width=st.integers(1, 9), suffix=st.sampled_from(SUFFIXES))
@settings(max_examples=30)
def test_rows_written_in_pieces_make_the_file_that_the_whole_makes(heights: list[int], width: int, suffix: str) -> None:
    pixels = _noise((sum(heights), width, 3))
    whole = encode(pixels, suffix, name="it")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"it{suffix}"
        with open_writer(path, pixels.shape, pixels.dtype) as writer:
            for rows in np.split(pixels, np.cumsum(heights)[:-1]):
                writer.write(rows)
        data = path.read_bytes()
        assert [entry.name for entry in Path(folder).iterdir()] == [path.name]
    assert np.array_equal(decode(data, name="it").pixels, decode(whole, name="it").pixels)
    assert can_stream(suffix) == (suffix in LOSSLESS)


def test_a_writer_that_is_left_early_leaves_no_file(tmp_path: Path) -> None:
    def lose_interest() -> None:
        with open_writer(tmp_path / "it.png", (9, 9), np.dtype(np.uint8)) as writer:
            writer.write(_noise((3, 9)))
            raise RuntimeError("lost interest")

    with pytest.raises(RuntimeError, match="lost interest"):
        lose_interest()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
def test_a_format_of_8_bits_refuses_16(suffix: str) -> None:
    with pytest.raises(ImageError, match="16-bit") as caught:
        encode(_noise((3, 3), np.uint16), suffix, name="it")
    assert ".png" in caught.value.hint


@pytest.mark.parametrize("channels", [2, 4])
def test_a_jpeg_refuses_transparency(channels: int) -> None:
    with pytest.raises(ImageError, match="no transparency"):
        encode(_noise((3, 3, channels)), ".jpg", name="it")


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png", ".tiff"])
def test_a_profile_is_carried(picture: Picture, suffix: str) -> None:
    assert decode(encode(picture, suffix, name="it", icc_profile=PROFILE), name="it").icc_profile == PROFILE


# What others wrote


def test_a_gif_is_its_first_frame(picture: Picture) -> None:
    first, second = Image.fromarray(picture).quantize(64), Image.fromarray(255 - picture).quantize(64)
    decoded = decode(_saved(first, "GIF", save_all=True, append_images=[second]), name="it")
    assert np.array_equal(decoded.pixels, np.asarray(first.convert("RGB")))


def test_a_transparent_palette_colour_becomes_alpha(picture: Picture) -> None:
    image = Image.fromarray(picture).quantize(16)
    decoded = decode(_saved(image, "PNG", transparency=3), name="it").pixels
    assert decoded.shape == (*picture.shape[:2], 4)
    assert np.array_equal(decoded[..., 3] == 0, np.asarray(image) == 3)


def test_a_transparent_shade_of_grey_becomes_alpha(picture: Picture) -> None:
    shade = int(picture[3, 5, 0])
    decoded = decode(_saved(Image.fromarray(picture[..., 0]), "PNG", transparency=shade), name="it").pixels
    assert np.array_equal(decoded[..., 0], picture[..., 0])
    assert np.array_equal(decoded[..., 1], np.where(picture[..., 0] == shade, 0, 255))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(picture: Picture, kind: str) -> None:
    image = Image.fromarray(picture).convert("CMYK")
    options = {"quality": 100} if kind == "JPEG" else {}
    decoded = decode(_saved(image, kind, **options), name="it").pixels
    assert decoded.shape == picture.shape
    assert np.abs(decoded.astype(int) - picture).mean() < 2  # a JPEG's own loss


@dtypes
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [2, 3])
def test_a_file_is_turned_upright_once(orientation: int, suffix: str, channels: int, dtype: type[np.uint8 | np.uint16]) -> None:
    pixels = _noise((5, 7, channels), dtype)
    data = encode(pixels, suffix, name="it")
    if suffix == ".png":
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        body = exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
        data = data[:33] + chunk + data[33:]  # behind the signature and IHDR
    else:
        data = _with_tiff_tag(data, ORIENTATION, orientation)
    turned = [pixels, pixels[:, ::-1], pixels[::-1, ::-1], pixels[::-1]]
    turned += [one.swapaxes(0, 1) for one in (pixels, pixels[::-1], pixels[::-1, ::-1], pixels[:, ::-1])]
    assert np.array_equal(decode(data, name="it").pixels, turned[orientation - 1])


def _with_tiff_tag(data: bytes, number: int, value: int) -> bytes:
    """Our TIFF with one more tag of two bytes, in a new directory at its end."""
    (at,) = struct.unpack(">I", data[4:8])
    (count,) = struct.unpack(">H", data[at : at + 2])
    entries = [data[at + 2 + 12 * index : at + 14 + 12 * index] for index in range(count)]
    entries.append(struct.pack(">HHIHH", number, 3, 1, value, 0))
    directory = struct.pack(">H", count + 1) + b"".join(sorted(entries)) + bytes(4)
    data += b"\0" * (len(data) % 2)
    return data[:4] + struct.pack(">I", len(data)) + data[8:] + directory


# What is refused


def _png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (body, idat, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _bmp_header(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def _gif_header(width: int, height: int) -> bytes:
    data = bytearray(_saved(Image.new("P", (4, 4)), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def _tiff_header(width: int, height: int) -> bytes:
    data = bytearray(encode(np.zeros((4, 4, 3), np.uint8), ".tiff", name="it"))
    (at,) = struct.unpack(">I", data[4:8])
    data[at + 2 + 8 : at + 2 + 12] = struct.pack(">I", width)
    data[at + 14 + 8 : at + 14 + 12] = struct.pack(">I", height)
    return bytes(data)


@pytest.mark.parametrize("header", [_png_header, _bmp_header, _gif_header, _tiff_header])
def test_a_few_bytes_that_claim_to_be_a_giant_are_refused_before_they_are_decoded(header: Callable[[int, int], bytes]) -> None:
    error = _refusal(header(60_000, 60_000))
    assert "too large" in str(error)
    assert str(LARGEST_PIXELS) in str(error)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_floating_and_32_bit_samples_are_refused_by_their_name(mode: str) -> None:
    error = _refusal(_saved(Image.new(mode, (5, 5)), "TIFF"))
    assert f"{mode} samples" in str(error)


@pytest.mark.parametrize("kind", ["ICO", "PPM", "TGA"])
def test_other_formats_are_not_opened_at_all(picture: Picture, kind: str) -> None:
    assert "PNG, JPEG" in _refusal(_saved(Image.fromarray(picture), kind)).hint


def test_a_mislabelled_file_is_read_as_what_it_is(picture: Picture, tmp_path: Path) -> None:
    (tmp_path / "it.jpg").write_bytes(encode(picture, ".png", name="it"))
    assert np.array_equal(read_picture(tmp_path / "it.jpg"), picture)


_WHOLE = {
    kind: _saved(Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5), kind)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP")
}
_WHOLE["16-bit PNG"] = encode(_noise((4, 4, 3), np.uint16), ".png", name="it")
_WHOLE["16-bit grey and alpha TIFF"] = encode(_noise((4, 4, 2), np.uint16), ".tiff", name="it")
_WHOLE["16-bit TIFF"] = encode(_noise((4, 4, 4), np.uint16), ".tiff", name="it", icc_profile=PROFILE)


@given(kind=st.sampled_from(sorted(_WHOLE)), at=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.booleans())
@settings(max_examples=400)
def test_a_damaged_file_is_a_picture_or_an_image_error_and_nothing_else(kind: str, at: int, value: int, cut: bool) -> None:
    data = bytearray(_WHOLE[kind])
    at %= len(data)
    if cut:
        del data[at:]
    else:
        data[at] = value
    try:
        decoded = decode(bytes(data), name="the file")
    except ImageError:
        return
    assert decoded.pixels.dtype in (np.uint8, np.uint16)
    assert decoded.pixels.shape[2:] in KINDS.values()
