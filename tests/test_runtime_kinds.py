"""Pictures of every kind through a network: what goes in as grey, RGB or RGBA, of 8 or 16 bits, comes out so."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from export.models import find_network
from export.stage import export_network
from export.weights import find_weights
from runtime.bundle import Bundle
from runtime.errors import ImageError
from runtime.pictures.bicubic import upscale_bicubic
from runtime.pictures.pixels import Picture
from runtime.sizes import upscaled_size
from runtime.upscaler import Upscaler

KINDS = {"grey": (), "grey, one channel": (1,), "grey and alpha": (2,), "RGB": (3,), "RGB and alpha": (4,)}
kinds = pytest.mark.parametrize("channels", KINDS.values(), ids=KINDS)
dtypes = pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
networks = pytest.mark.parametrize("network", ["exported", "luma", "enlarged_before"])


@pytest.fixture(scope="module")
def luma(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """ESPCN x3, which upscales luma alone."""
    network = find_network("espcn", scale=3)
    weights = find_weights(network, scale=3, choice="shipped")
    return export_network(network, scale=3, weights=weights, directory=tmp_path_factory.mktemp("luma") / "espcn_x3")


@pytest.fixture
def bundle(network: str, request: pytest.FixtureRequest) -> Bundle:
    found = request.getfixturevalue(network)
    assert isinstance(found, Bundle)
    return found


def _of_kind(picture: Picture, channels: tuple[int, ...], dtype: type[np.uint8 | np.uint16]) -> NDArray[np.uint8 | np.uint16]:
    """The fixture's picture as that kind: its red plane as grey, its green one upside down as alpha."""
    alpha = picture[::-1, :, 1:2]
    planes = {(): picture[..., 0], (1,): picture[..., :1], (2,): np.dstack([picture[..., :1], alpha]), (3,): picture}
    planes[(4,)] = np.dstack([picture, alpha])
    wide = planes[channels]
    return wide if dtype is np.uint8 else wide.astype(np.uint16) * 257


@networks
@kinds
@dtypes
@pytest.mark.parametrize("tile", [None, 16])
def test_what_comes_out_is_of_the_kind_that_went_in(
    bundle: Bundle, picture: Picture, channels: tuple[int, ...], dtype: type[np.uint8 | np.uint16], tile: int | None
) -> None:
    source = _of_kind(picture, channels, dtype)
    with Upscaler.open(bundle, tile=tile, backend="onnxruntime") as upscaler:
        larger = upscaler(source)
    assert larger.shape == (*upscaled_size(picture.shape[:2], bundle.manifest.scale), *channels)
    assert larger.dtype == dtype
    # Enlarged, it is still that picture: a network sharpens, it does not move or recolour.
    flat = larger.reshape(*larger.shape[:2], -1)
    plain = upscale_bicubic(source.reshape(*source.shape[:2], -1), larger.shape[:2])
    if bundle.manifest.checkpoint.source == "shipped":
        assert np.abs(flat.astype(int) - plain).mean() / np.iinfo(dtype).max < 0.02


@networks
@dtypes
def test_alpha_is_enlarged_bicubically_beside_colours_that_it_does_not_change(
    bundle: Bundle, picture: Picture, dtype: type[np.uint8 | np.uint16]
) -> None:
    source = _of_kind(picture, (4,), dtype)
    with Upscaler.open(bundle) as upscaler:
        larger = upscaler(source)
        assert np.array_equal(larger[..., :3], upscaler(source[..., :3]))
    assert np.array_equal(larger[..., 3:], upscale_bicubic(source[..., 3:], larger.shape[:2]))


@networks
def test_16_bits_are_kept_and_not_made_of_8(bundle: Bundle, picture: Picture) -> None:
    with Upscaler.open(bundle) as upscaler:
        low, high = upscaler(picture), upscaler(picture.astype(np.uint16) * 257)
    # 8 bits are rounded between the stages too: enlarged, to luma and chroma, to RGB.
    assert np.abs(high / 257 - low).max() <= 4
    assert np.abs(high / 257 - low).mean() < 1
    assert np.unique(high % 257).size > 100


@networks
def test_a_grey_picture_is_the_luma_of_the_same_one_in_three_planes(bundle: Bundle, picture: Picture) -> None:
    grey = picture[..., 0]
    with Upscaler.open(bundle) as upscaler:
        rgb = upscaler(np.stack([grey] * 3, axis=-1)).astype(float)
        assert np.abs(upscaler(grey) - rgb @ (0.299, 0.587, 0.114)).max() <= 1


@pytest.fixture(scope="module")
def opened(exported: Bundle) -> Upscaler:
    return Upscaler.open(exported, backend="onnxruntime")  # which has no work to do anew for each shape


anything = st.one_of(
    arrays.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.float32, np.bool_, np.complex64]),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
    ),
    st.none(),
    st.text(max_size=3),
)


@given(array=anything)
@settings(max_examples=100)
def test_anything_is_upscaled_or_refused_with_what_was_expected(opened: Upscaler, array: object) -> None:
    try:
        larger = opened(cast(Picture, array))
    except ImageError as error:
        refused = str(error)
        assert "expected a (H, W, 3) uint8 RGB array" in refused
        return
    assert isinstance(array, np.ndarray)
    assert larger.shape == (array.shape[0] * 2, array.shape[1] * 2, *array.shape[2:])
    assert larger.dtype == array.dtype


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3), (1, 40)], ids=str)
def test_thin_pictures_are_upscaled_like_others(opened: Upscaler, size: tuple[int, int]) -> None:
    assert opened(np.zeros((*size, 3), np.uint8)).shape == (size[0] * 2, size[1] * 2, 3)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, -0.1, 1.5, 255.0])
def test_the_network_is_given_no_values_out_of_its_range(opened: Upscaler, spoilt: float) -> None:
    array = np.full((1, 3, 4, 5), 0.5, np.float32)
    array[0, 1, 2, 3] = spoilt
    with pytest.raises(ImageError, match=r"expected values in \[0, 1\]"):
        opened.run(array)


def test_a_float_picture_is_refused_with_what_to_do(opened: Upscaler, picture: Picture) -> None:
    with pytest.raises(ImageError, match="float32") as caught:
        opened(cast(Picture, (picture / 255).astype(np.float32)))
    assert "uint8" in caught.value.hint
