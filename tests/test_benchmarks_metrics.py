"""PSNR and SSIM against written-out references and against a published table."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import convolve2d

from benchmarks.metrics import prepare, psnr_db, score
from benchmarks.protocols import PROTOCOLS, Channel, Protocol, find_protocol
from runtime.errors import ImageError, UnknownNameError
from runtime.images import Picture


@pytest.fixture
def pair(picture: Picture) -> tuple[Picture, Picture]:
    noise = np.random.default_rng(0).integers(-12, 13, picture.shape)
    return np.clip(picture.astype(int) + noise, 0, 255).astype(np.uint8), picture


def _luma(picture: Picture) -> NDArray[np.float64]:
    red, green, blue = (picture[..., channel].astype(np.float64) for channel in range(3))
    return np.round(16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255)


def _ssim(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Wang et al. 2004, equation 13, written out."""
    axis = np.arange(-5, 6)
    window = np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = convolve2d(values, window, mode="valid")
        return result

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mu1, mu2 = mean(first), mean(second)
    var1, var2 = mean(first**2) - mu1**2, mean(second**2) - mu2**2
    covariance = mean(first * second) - mu1 * mu2
    top = (2 * mu1 * mu2 + c1) * (2 * covariance + c2)
    return float((top / ((mu1**2 + mu2**2 + c1) * (var1 + var2 + c2))).mean())


def _planes(picture: Picture, protocol: Protocol) -> list[NDArray[np.float64]]:
    if protocol.channel is Channel.LUMA:
        return [_luma(picture)]
    return [picture[..., channel].astype(np.float64) for channel in range(3)]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_psnr_and_ssim_agree_with_their_formulas_written_out(protocol: Protocol, pair: tuple[Picture, Picture]) -> None:
    border = 2 if protocol.crop_scale else 0
    window = (slice(border, -border or None),) * 2
    ours, truth = ([plane[window] for plane in _planes(image, protocol)] for image in pair)
    expected_psnr = 10 * np.log10(255**2 / np.mean([(a - b) ** 2 for a, b in zip(ours, truth, strict=True)]))
    expected_ssim = np.mean([_ssim(a, b) for a, b in zip(ours, truth, strict=True)])
    got = score(*pair, protocol, scale=2)
    assert got.psnr_db == pytest.approx(expected_psnr, abs=1e-9)
    # scikit-image cuts its Gaussian at 3.5 σ as we do (11 taps); 1e-6 is summation order
    assert got.ssim == pytest.approx(expected_ssim, abs=1e-6)


def test_equal_pictures_have_infinite_psnr_and_full_ssim(picture: Picture) -> None:
    got = score(picture, picture, find_protocol("rgb"), scale=2)
    assert got.psnr_db == float("inf")
    assert got.ssim == pytest.approx(1.0)


def test_psnr_is_that_of_a_known_error() -> None:
    assert psnr_db(np.zeros(10), np.full(10, 0.1), peak=1) == pytest.approx(20.0)


def test_the_border_is_left_out_where_the_protocol_says_so(picture: Picture) -> None:
    damaged = picture.copy()
    damaged[:3] = 255 - damaged[:3]
    assert score(damaged, picture, find_protocol("paper-y"), scale=3).psnr_db == float("inf")
    assert score(damaged, picture, find_protocol("vacc"), scale=3).psnr_db < 40


def test_vacc_squeezes_both_pictures_by_area(picture: Picture) -> None:
    high = picture.repeat(2, axis=0).repeat(2, axis=1)
    low, squeezed = prepare(picture, high, find_protocol("vacc"), scale=2)
    assert (low.shape, squeezed.shape) == ((128, 128, 3), (256, 256, 3))
    big = np.zeros((256, 512, 3), np.uint8)
    big[:, ::4] = 200  # every fourth column, as wide as what one output pixel covers
    assert np.all(prepare(big, big, find_protocol("vacc"), scale=1)[0] == 50)


@pytest.mark.parametrize("size", [(13, 40), (40, 13)])
def test_a_picture_smaller_than_ssims_window_is_refused(size: tuple[int, int]) -> None:
    small = np.zeros((*size, 3), np.uint8)
    with pytest.raises(ImageError, match="too small"):
        score(small, small, find_protocol("paper-y"), scale=2)


def test_pictures_of_two_sizes_are_not_compared(picture: Picture) -> None:
    with pytest.raises(ImageError, match="cannot be compared"):
        score(picture[:-1], picture, find_protocol("rgb"), scale=2)


def test_an_unknown_protocol_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="paper-y, lesrcnn, vacc, rgb"):
        find_protocol("papery")
