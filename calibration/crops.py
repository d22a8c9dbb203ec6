"""Pictures in, calibration crops out: which pictures are used, and which part of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from calibration.pairs import ImageSet, Pair, hash_pair, load_low
from calibration.steps import OnStep, ignore_step
from calibration.table import CalibrationImage, CalibrationSource
from runtime.bundle import Contract
from runtime.images import Picture, to_network
from runtime.tiles.filling import fill_up

CROPS = 64


CROP_SIZE = (96, 96)


_CANDIDATES = 4


def describe_source(
    images: ImageSet,
    *,
    scale: float,
    crops: int = CROPS,
    crop_size: tuple[int, int] = CROP_SIZE,
    seed: int = 0,
    on_step: OnStep = ignore_step,
) -> CalibrationSource:
    """Which pictures of `images` will be used (a seeded choice where there are more than `crops`), and their hashes."""
    chosen = _choose(images.pairs, crops, seed)
    described = []
    for index, pair in enumerate(chosen):
        on_step("reading", index, len(chosen))
        hashes = hash_pair(pair, scale=scale)
        described.append(CalibrationImage(name=pair.name, low_sha256=hashes.low, high_sha256=hashes.high))
    return CalibrationSource(dataset=images.name, seed=seed, crops=crops, crop_size=crop_size, images=tuple(described))


def crops_of(images: ImageSet, source: CalibrationSource, *, scale: float, contract: Contract) -> Iterator[NDArray[np.float32]]:
    """The crops that `source` describes, (1, C, H, W) float32 in [0, 1], of RGB or luma.

    Where a picture is smaller than a crop, so is its crop; it is mirrored up to a size that the graph takes.
    """
    rng = np.random.default_rng(source.seed)
    chosen = _choose(images.pairs, source.crops, source.seed)
    for index, pair in enumerate(chosen):
        share = source.crops // len(chosen) + (index < source.crops % len(chosen))
        picture = load_low(pair, scale=scale)
        for turn in range(share):
            crop = _detailed_crop(picture, source.crop_size, rng)
            crop = 255 - crop if turn % 2 else crop  # the negative
            sized = _mirror_to(crop, source.crop_size) if contract.static_shape else crop
            yield fill_up(to_network(sized, contract, scale=scale), contract)


def _choose(pairs: Sequence[Pair], most: int, seed: int) -> list[Pair]:
    if len(pairs) <= most:
        return list(pairs)
    picked = np.random.default_rng(seed).choice(len(pairs), size=most, replace=False)
    return [pairs[index] for index in sorted(picked)]


def _detailed_crop(picture: Picture, size: tuple[int, int], rng: np.random.Generator) -> Picture:
    height, width = min(size[0], picture.shape[0]), min(size[1], picture.shape[1])
    candidates = []
    for _ in range(_CANDIDATES):
        top = int(rng.integers(picture.shape[0] - height + 1))
        left = int(rng.integers(picture.shape[1] - width + 1))
        candidates.append(picture[top : top + height, left : left + width])
    return max(candidates, key=_detail)


def _detail(crop: Picture) -> float:
    """Mean absolute difference of neighbouring pixels; 0 where there are none."""
    values = crop.astype(np.float32)
    return sum(float(np.abs(np.diff(values, axis=axis)).mean()) for axis in (0, 1) if crop.shape[axis] > 1)


def _mirror_to(crop: Picture, size: tuple[int, int]) -> Picture:
    missing = [(0, wanted - have) for wanted, have in zip(size, crop.shape[:2], strict=True)]
    return np.pad(crop, [*missing, (0, 0)], mode="symmetric")
