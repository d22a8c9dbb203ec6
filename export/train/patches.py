"""Cut training patches: photographs in, random pairs of low- and high-resolution patches out.

The low-resolution picture is the antialiased bicubic reduction of the whole photograph (a = -0.5, the kernel widened by the
scale), in 8 bits, as evaluation sets are made, and enlarged again for a network that takes it so; patches are cut from it,
flipped and transposed. Photographs reduced beforehand add detail that is finer by the pixel and free of the blocks that JPEG left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from export.models import Network
from runtime.bundle import Contract
from runtime.errors import DatasetError
from runtime.images import Picture, is_image_file, read_picture, to_planes

_HELD_OUT_EVERY = 40  # where no folder is held out, one picture in forty of the training folder is


@dataclass(frozen=True)
class Photograph:
    """A pair: what the network is given, (C, h, w) uint8, and what it is to make of that, a whole multiple of its size."""

    low: Tensor
    high: Tensor

    @property
    def factor(self) -> int:
        return self.high.shape[1] // self.low.shape[1]


def find_photographs(folder: Path, *, held_out: Path | None) -> tuple[list[Path], list[Path]]:
    """Return the pictures below `folder` to train on, and those to hold out: in `held_out`, or one in forty of them.

    Raises:
        DatasetError: there is no such folder, or too few pictures in it.
    """
    files = _pictures(folder)
    if held_out is not None:
        return files, _pictures(held_out)
    if len(files) < 2:
        raise DatasetError(f"{folder} has one picture: none is left to hold out", hint="name others with --held-out DIR")
    kept = files[::_HELD_OUT_EVERY]
    return [file for file in files if file not in kept], kept


def load_photographs(
    files: Sequence[Path],
    network: Network,
    *,
    scale: int,
    smallest: int,
    on_step: Callable[[int, int], None],
    sizes: Sequence[float] = (1.0,),
) -> list[Photograph]:
    """Decode `files`, 8-bit grey or RGB, and make a pair of each at each of `sizes`, relative to its own.

    `smallest` is the least side of what the network is given; a picture too small at its own size is an error, at others left out.
    """
    photographs = []
    for done, file in enumerate(files):
        on_step(done, len(files))
        picture = read_picture(file)
        for size in sizes:
            photograph = _make_pair(_resize(picture, size), network, scale)
            if min(photograph.low.shape[1:]) >= smallest:
                photographs.append(photograph)
            elif size == 1:
                raise DatasetError(f"{file} is smaller than a patch of {smallest} pixels", hint="a smaller --patch")
    on_step(len(files), len(files))
    return photographs


def draw_batch(photographs: Sequence[Photograph], *, batch: int, patch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """(N, C, patch, patch) and (N, C, patch·factor, patch·factor) float32 in [0, 1], from random places, turned at random."""
    pairs = [_draw_patch(photographs[int(rng.integers(len(photographs)))], patch, rng) for _ in range(batch)]
    low, high = (torch.stack(side).float().div_(255) for side in zip(*pairs, strict=True))
    return low, high


def _draw_patch(photograph: Photograph, patch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    height, width = (side - patch + 1 for side in photograph.low.shape[1:])
    row, column = int(rng.integers(height)), int(rng.integers(width))
    sides = []
    turn = [axis for axis in (1, 2) if rng.random() < 0.5], rng.random() < 0.5
    for picture in (photograph.low, photograph.high):
        factor = 1 if picture is photograph.low else photograph.factor
        side, top, left = patch * factor, row * factor, column * factor
        cut = picture[:, top : top + side, left : left + side].flip(turn[0])
        sides.append(cut.transpose(1, 2) if turn[1] else cut)
    return sides[0], sides[1]


def _make_pair(high: Picture, network: Network, scale: int) -> Photograph:
    height, width = (side // scale for side in high.shape[:2])
    high = high[: height * scale, : width * scale]
    given = to_planes(_shrink(high, height, width), network.contract, scale=scale)
    wanted = to_planes(high, Contract(colour=network.colour), scale=scale)
    return Photograph(_channels_first(given), _channels_first(wanted))


def _resize(picture: Picture, size: float) -> Picture:
    return picture if size == 1 else _shrink(picture, *(max(round(side * size), 1) for side in picture.shape[:2]))


def _shrink(picture: Picture, height: int, width: int) -> Picture:
    planes = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    shrunk = functional.interpolate(planes, (height, width), mode="bicubic", antialias=True)[0]
    rounded: Picture = shrunk.round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return rounded


def _channels_first(planes: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(planes.transpose(2, 0, 1)))


def _pictures(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if is_image_file(path))
    if not files:
        reason = "no pictures in it" if folder.is_dir() else "there is no such folder"
        raise DatasetError(f"{folder}: {reason}", hint="--data FOLDER, which holds photographs")
    return files
