"""Make calibration crops: pictures in, (1, C, H, W) float32 crops of one size out, and a description of the pictures they are from.

Where a picture is larger than a crop, the crop with the most detail out of a few random ones is taken: flat sky says nothing about
where an activation's range ends, edges do. Every other crop of a picture is its negative: a few photographs have few saturated
colours, and a range that was never shown one clips it (on BSDS500 test pictures ESPCN x3 lost 0.03 dB with them, 0.45 without).
Memory does not grow with the number of pictures: one is decoded at a time, and once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from calibration.known_pictures import known_hashes, note_hashes
from calibration.pairs import ImageSet, Pair, PairHashes, hash_pair, load_low, read_pair
from calibration.steps import OnStep, ignore_step
from calibration.table import CalibrationImage, CalibrationSource
from runtime.bundle import Contract
from runtime.images import Picture, to_network
from runtime.tiles.filling import fill_up

CROPS = 64
CROP_SIZE = (96, 96)
_CANDIDATES = 4
_HELD_BACK_EVERY = 4  # pictures
_MOST_HELD_BACK = 8  # crops: judging costs a third of a learning step for each
Crop = NDArray[np.float32]


class Crops(Sequence[Crop]):
    """Crops that are made when the first one is asked for; their number is known without a picture being decoded."""

    def __init__(self, make: Callable[[], Iterator[Crop]], *, count: int) -> None:
        self._make = make
        self._count = count

    @cached_property
    def _made(self) -> tuple[Crop, ...]:
        return tuple(self._make())

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Crop: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Crop]: ...
    def __getitem__(self, index: int | slice) -> Crop | Sequence[Crop]:
        return self._made[index]


def read_crops(
    images: ImageSet,
    *,
    scale: float,
    contract: Contract,
    crops: int = CROPS,
    crop_size: tuple[int, int] = CROP_SIZE,
    seed: int = 0,
    on_step: OnStep = ignore_step,
) -> tuple[CalibrationSource, Sequence[Crop]]:
    """Describe the pictures that are used, as `describe_source` does, and crop them, as `crops_of` does, decoding each file once.

    Where every picture was hashed before and is unchanged, none is decoded until a crop is asked for.
    """
    chosen = _choose(images.pairs, crops, seed)
    known = [known_hashes(pair, scale=scale) for pair in chosen]
    if all(known):
        source = _source(images.name, chosen, [PairHashes(*one) for one in known if one], crops, crop_size, seed)
        return source, Crops(lambda: crops_of(images, source, scale=scale, contract=contract), count=crops)
    hashes: list[PairHashes] = []

    def read_and_hash() -> Iterator[Picture]:
        for index, pair in enumerate(chosen):
            on_step("reading", index, len(chosen))
            read = read_pair(pair, scale=scale)
            hashes.append(read.hashes())
            note_hashes(pair, hashes[-1].low, hashes[-1].high, scale=scale)
            yield read.low

    made = list(_crop(read_and_hash(), len(chosen), crops, crop_size, seed, scale=scale, contract=contract))
    return _source(images.name, chosen, hashes, crops, crop_size, seed), made


def describe_source(
    images: ImageSet,
    *,
    scale: float,
    crops: int = CROPS,
    crop_size: tuple[int, int] = CROP_SIZE,
    seed: int = 0,
    on_step: OnStep = ignore_step,
) -> CalibrationSource:
    """Describe which pictures of `images` are used (a seeded choice where there are more than `crops`), with their hashes."""
    chosen = _choose(images.pairs, crops, seed)
    hashes = []
    for index, pair in enumerate(chosen):
        on_step("reading", index, len(chosen))
        hashes.append(hash_pair(pair, scale=scale))
    return _source(images.name, chosen, hashes, crops, crop_size, seed)


def crops_of(images: ImageSet, source: CalibrationSource, *, scale: float, contract: Contract) -> Iterator[Crop]:
    """Make the crops that `source` describes, (1, C, H, W) float32 in [0, 1], RGB or luma.

    Where a picture is smaller than a crop, so is its crop; it is mirrored up to a size that the graph takes.
    """
    chosen = _choose(images.pairs, source.crops, source.seed)
    pictures = (load_low(pair, scale=scale) for pair in chosen)
    yield from _crop(pictures, len(chosen), source.crops, source.crop_size, source.seed, scale=scale, contract=contract)


def _crop(
    pictures: Iterator[Picture], count: int, crops: int, size: tuple[int, int], seed: int, *, scale: float, contract: Contract
) -> Iterator[Crop]:
    rng = np.random.default_rng(seed)
    for index, picture in enumerate(pictures):
        share = crops // count + (index < crops % count)
        for turn in range(share):
            crop = _detailed_crop(picture, size, rng)
            crop = 255 - crop if turn % 2 else crop  # the negative
            sized = _mirror_to(crop, size) if contract.static_shape else crop
            yield fill_up(to_network(sized, contract, scale=scale), contract)


def _source(
    name: str, chosen: Sequence[Pair], hashes: Sequence[PairHashes], crops: int, size: tuple[int, int], seed: int
) -> CalibrationSource:
    described = (
        CalibrationImage(name=pair.name, low_sha256=one.low, high_sha256=one.high) for pair, one in zip(chosen, hashes, strict=True)
    )
    return CalibrationSource(dataset=name, seed=seed, crops=crops, crop_size=size, images=tuple(described))


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


@dataclass(frozen=True)
class HeldBackCrops:
    """Crops to learn from, and crops of other pictures to judge by what was learned."""

    learned_on: Sequence[Crop]
    held_back: Sequence[Crop]


def without_held_back(source: CalibrationSource) -> CalibrationSource:
    """Return `source` with the pictures, four or more, that `hold_back` learns from."""
    images = (image for index, image in enumerate(source.images) if index % _HELD_BACK_EVERY != _HELD_BACK_EVERY - 1)
    return source.model_copy(update={"images": tuple(images)})


def hold_back(crops: Sequence[Crop], source: CalibrationSource) -> HeldBackCrops:
    """Hold back the crops of every fourth picture of `source`, a few of them; with fewer than four pictures, every fourth crop."""
    count = len(source.images)
    shares = [len(crops) // count + (index < len(crops) % count) for index in range(count)] if count else []
    pictures = np.repeat(np.arange(count), shares) if count >= _HELD_BACK_EVERY else np.arange(len(crops))
    away = pictures % _HELD_BACK_EVERY == _HELD_BACK_EVERY - 1
    held = np.flatnonzero(away)
    judged = held[:: max(1, len(held) // _MOST_HELD_BACK)][:_MOST_HELD_BACK]
    return HeldBackCrops([crops[int(index)] for index in np.flatnonzero(~away)], [crops[int(index)] for index in judged])
