"""Make what a network is judged on: pictures that calibration did not use in; low-resolution crops out, each with its true result.

A crop scores its own outputs; the search in `trials.py` takes the drop from that:

    drop = mean over pictures of PSNR(fp32, truth) - PSNR(int8, truth)

PSNR on 8-bit values after rounding: of luma, 16 + (65.481 R + 128.553 G + 24.966 B) / 255, rounded, where the network takes RGB;
of what it makes where it takes luma. A border of `scale` pixels does not count. The squared errors of a picture's crops are
averaged before the PSNR is taken: a crop of nothing but sky would have a PSNR that any rounding ruins, and no picture is nothing
but sky.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from calibration.pairs import ImageSet, Pair, match_pair, read_pair
from calibration.table import CalibrationImage, CalibrationSource, used_hashes
from quantize.search.result import HeldBack
from runtime.bundle import Contract
from runtime.errors import DatasetError
from runtime.images import Picture, to_network
from runtime.quality import luma, psnr_of
from runtime.sizes import upscaled_size

_CROPS = 16
# Large, and from anywhere: int8 loses most where fp32 is near the truth, which is not where there is most detail.
_CROP_SIZE = (192, 192)
_FEWEST_PICTURES = 4  # with fewer, what one picture happens to lose would decide
_SMALLEST = 16  # pixels per side of a low-resolution crop
_FINEST = 64  # the largest denominator of a scale that is looked for
Array = NDArray[np.float32]


@dataclass(frozen=True)
class ScoredCrop:
    """What the network takes, (1, C, H, W) float32 in [0, 1], and what it should make of it, (H·scale, W·scale) in 8-bit values."""

    given: Array
    truth: NDArray[np.float64]
    border: int

    def square_error(self, output: Array) -> float:
        """Return the mean over pixels, of (1, C, H·scale, W·scale) float32, clipped to [0, 1]."""
        difference = _plane(output) - self.truth
        inside = slice(self.border, -self.border)
        return float(np.square(difference[inside, inside]).mean())


def psnr_db(square_errors: Sequence[float]) -> float:
    """Return the PSNR of one picture, in dB, from the mean squared errors of its crops."""
    return psnr_of(max(float(np.mean(square_errors)), 1e-9), peak=255)


def hold_back(
    images: ImageSet, used: CalibrationSource, *, scale: float, contract: Contract, on_step: Callable[[int, int], None]
) -> tuple[HeldBack, list[list[ScoredCrop]]]:
    """Crops of pictures of `images`, picture by picture: of those that were not `used`, or of too few, other crops of them all.

    A picture without ground truth is the truth itself, and shrunk to what the network is given.

    Raises:
        DatasetError: none is large enough.
    """
    seed = used.seed + 1  # other places than calibration's
    rng = np.random.default_rng(seed)
    names = {image.name for image in used.images}
    digests = used_hashes(used.images)
    others = [pair for pair in images.pairs if pair.name not in names]
    are_others = len(others) >= _FEWEST_PICTURES
    pairs = others if are_others else list(images.pairs)
    size = contract.static_picture_size(scale=scale)
    described: list[CalibrationImage] = []
    crops: list[list[ScoredCrop]] = []
    share = math.ceil(_CROPS / min(_CROPS, len(pairs)))
    for index in rng.permutation(len(pairs)):
        on_step(len(described), min(_CROPS, len(pairs)))
        pair = _with_truth(pairs[index])
        read = read_pair(pair, scale=scale)
        low, high = match_pair(read, name=pair.name, scale=scale)
        too_small = size is not None and (low.shape[0] < size[0] or low.shape[1] < size[1])
        if too_small or min(low.shape[:2]) < max(_SMALLEST, contract.least_side, contract.multiple_of):
            continue
        hashes = read.hashes()
        if are_others and hashes.known & digests:
            continue  # one of the used ones under another name
        described.append(CalibrationImage(name=pair.name, low_sha256=hashes.low, high_sha256=hashes.high))
        crops.append([_crop(low, high, size or _CROP_SIZE, rng, scale=scale, contract=contract) for _ in range(share)])
        if len(crops) * share >= _CROPS:
            break
    if not crops:
        least = f"{size[0]}x{size[1]}" if size else f"{_SMALLEST}x{_SMALLEST}"
        raise DatasetError(
            f"{images.name} has no picture of {least} or more to measure drops on",
            hint="calibrate on larger pictures: --calib FOLDER",
        )
    held_back = HeldBack(
        dataset=images.name,
        images=tuple(described),
        are_other_pictures=are_others,
        crops=len(crops) * share,
        crop_size=size or _CROP_SIZE,
        seed=seed,
    )
    return held_back, crops


def _with_truth(pair: Pair) -> Pair:
    return pair if pair.high is not None else replace(pair, high=pair.low, low=None)


def _crop(
    low: Picture, high: Picture, size: tuple[int, int], rng: np.random.Generator, *, scale: float, contract: Contract
) -> ScoredCrop:
    step = Fraction(scale).limit_denominator(_FINEST).denominator  # where pixels of the one begin, those of the other do
    whole = 1 if contract.static_shape else contract.multiple_of
    height, width = (min(side, length) // whole * whole for side, length in zip(size, low.shape, strict=False))
    top = int(rng.integers((low.shape[0] - height) // step + 1)) * step
    left = int(rng.integers((low.shape[1] - width) // step + 1)) * step
    given = to_network(low[top : top + height, left : left + width], contract, scale=scale)
    rows, columns = upscaled_size((height, width), scale)
    above, before = upscaled_size((top, left), scale)
    as_made = contract.model_copy(update={"pre_upscale": False})
    truth = to_network(high[above : above + rows, before : before + columns], as_made, scale=scale)
    return ScoredCrop(given, _plane(truth), math.ceil(scale))


def _plane(output: Array) -> NDArray[np.float64]:
    pixels: NDArray[np.float64] = np.rint(output[0].clip(0, 1).astype(np.float64) * 255)
    return pixels[0] if len(pixels) == 1 else luma(np.moveaxis(pixels, 0, -1))
