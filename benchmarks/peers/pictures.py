"""Choose pictures: data sets in; every quantizer's calibration pictures and the evaluation pictures out.

sredge is given a folder of links to the calibration pictures, and crops them as it does; a peer is given one crop of each picture.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.pairs import ImageSet, Pair, match_pair, read_pair
from runtime.bundle import Contract, Manifest
from runtime.files.whole import write_whole
from runtime.images import Picture, to_network
from runtime.tiles.filling import fill_up

_SIDE = 96  # pixels, as sredge's own crops
_CANDIDATES = 4  # random crops, of which the one with the most contrast is taken, so that few are flat sky
_SEED = 0
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Calibration:
    """What peers calibrate on, as a file, and the folder of the same pictures for sredge."""

    file: Path
    folder: Path
    sha256: str
    count: int


def spread(images: ImageSet, most: int | None) -> ImageSet:
    """Return at most so many pictures, evenly spread over the set's names: the same each time."""
    count = len(images.pairs)
    if most is None or count <= most:
        return images
    return replace(images, pairs=tuple(images.pairs[index * count // most] for index in range(most)))


def write_calibration(images: ImageSet, manifest: Manifest, folder: Path) -> Calibration:
    """Write crops and links below `folder`, under a name that follows from the pixels."""
    arrays = crop_pictures(images.pairs, manifest)
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.data)
    sha256 = digest.hexdigest()
    place = folder / sha256[:16]
    written = io.BytesIO()
    np.savez(written, **arrays)  # type: ignore[arg-type] # numpy's stub takes the names for its own arguments
    place.mkdir(parents=True, exist_ok=True)
    write_whole(place / "crops.npz", written.getvalue())
    return Calibration(place / "crops.npz", _link(images, place / "pictures"), sha256, len(images.pairs))


def crop_pictures(pairs: Sequence[Pair], manifest: Manifest) -> dict[str, Array]:
    """Return `crops`, one of each picture, (N, C, H, W) as the network takes them, all of one size, and `truth`, theirs in high
    resolution, where every picture has that."""
    scale, contract = manifest.scale, manifest.contract
    rng = np.random.default_rng(_SEED)
    read = [read_pair(pair, scale=scale) for pair in pairs]
    height, width = (min(_SIDE, *(one.low.shape[axis] for one in read)) for axis in (0, 1))
    crops, truths = [], []
    for pair, one in zip(pairs, read, strict=True):
        top, left = _detailed(one.low, (height, width), rng)
        crops.append(fill_up(to_network(one.low[top : top + height, left : left + width], contract, scale=scale), contract))
        if one.high is not None and float(scale).is_integer():
            high, by = match_pair(one, name=pair.name, scale=scale)[1], int(scale)
            cropped = high[top * by : (top + height) * by, left * by : (left + width) * by]
            truths.append(to_network(cropped, _not_enlarged(contract), scale=scale))
    whole = manifest.contract.filled_size((height, width)) == (height, width)  # nothing was filled up
    arrays = {"crops": np.concatenate(crops)}
    return {**arrays, "truth": np.concatenate(truths)} if whole and len(truths) == len(crops) else arrays


def _not_enlarged(contract: Contract) -> Contract:
    return contract.model_copy(update={"pre_upscale": False})


def _detailed(picture: Picture, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Return the top left corner of the crop with the most contrast of some random ones."""
    corners = [
        (int(rng.integers(picture.shape[0] - size[0] + 1)), int(rng.integers(picture.shape[1] - size[1] + 1)))
        for _ in range(_CANDIDATES)
    ]
    return max(corners, key=lambda corner: float(picture[corner[0] :, corner[1] :][: size[0], : size[1]].std()))


def _link(images: ImageSet, folder: Path) -> Path:
    """Return a folder of the same pictures, laid out so that they are read the same way: `train` holds high-resolution ones."""
    for pair in images.pairs:
        file = pair.low or pair.high
        assert file is not None
        link = (folder if pair.low else folder / "train") / f"{pair.name}{file.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(file.resolve())
    return folder
