"""Bicubic enlargement: Pillow's, at any real scale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from runtime.pictures.bicubic import upscale_bicubic
from runtime.sizes import upscaled_size

SCALES = (1.1, 1.5, 2, 2.25, 3, 4, 7.3)


def _noise(height: int, width: int, *, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (19, 26), (64, 41)], ids=str)
def test_a_picture_is_enlarged_as_pillow_does_it(size: tuple[int, int], scale: float) -> None:
    picture = _noise(*size)
    height, width = upscaled_size(size, scale)
    expected = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
    enlarged = upscale_bicubic(picture, (height, width))
    assert enlarged.shape == expected.shape
    assert enlarged.dtype == np.uint8
    assert np.abs(enlarged.astype(int) - expected).max() <= 1  # fixed point there, floating point here


@given(height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 9))
def test_at_its_own_size_a_picture_stays_as_it_is(height: int, width: int, seed: int) -> None:
    picture = _noise(height, width, seed=seed)
    assert np.array_equal(upscale_bicubic(picture, (height, width)), picture)


@given(value=st.integers(0, 255), height=st.integers(5, 40), width=st.integers(5, 40))
def test_a_flat_picture_stays_flat_to_its_border(value: int, height: int, width: int) -> None:
    assert np.all(upscale_bicubic(np.full((5, 5, 1), value, np.uint8), (height, width)) == value)


def test_any_number_of_channels_is_enlarged_each_by_itself() -> None:
    picture = _noise(7, 9)
    together = upscale_bicubic(picture, (12, 20))
    assert np.array_equal(upscale_bicubic(picture[..., 1:2], (12, 20)), together[..., 1:2])


@pytest.mark.parametrize(("size", "scale", "expected"), [((41, 37), 2, (82, 74)), ((41, 37), 1.4, (57, 52)), ((3, 1), 1.1, (3, 1))])
def test_the_enlarged_size_is_to_the_nearest_pixel(size: tuple[int, int], scale: float, expected: tuple[int, int]) -> None:
    assert upscaled_size(size, scale) == expected
