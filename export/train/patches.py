"""Photographs -> random pairs of low- and high-resolution patches.

The low-resolution picture is the antialiased bicubic reduction of the whole photograph (a = -0.5, the kernel widened by the
scale), in 8 bits, as evaluation sets are made; patches are cut from it, flipped and transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from export.models import Network
from runtime.errors import DatasetError
from runtime.images import is_image_file, read_picture

_HELD_OUT_EVERY = 40  # where no folder is held out, one picture in forty of the training folder is
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, full range, as JFIF


@dataclass(frozen=True)
class Photograph:
    """A pair: (C, h, w) and (C, h·scale, w·scale) uint8."""

    low: Tensor
    high: Tensor


def find_photographs(folder: Path, *, held_out: Path | None) -> tuple[list[Path], list[Path]]:
    """The pictures below `folder` to train on, and those to hold out: in `held_out`, or one in forty of them.

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
    files: Sequence[Path], network: Network, *, scale: int, smallest: int, on_step: Callable[[int, int], None]
) -> list[Photograph]:
    """Decodes `files`, 8-bit grey or RGB, and makes their low-resolution halves; `smallest` is the least side these may have."""
    photographs = []
    for done, file in enumerate(files):
        on_step(done, len(files))
        photograph = _make_pair(torch.from_numpy(read_picture(file)).permute(2, 0, 1), network, scale)
        if min(photograph.low.shape[1:]) < smallest:
            raise DatasetError(f"{file} is smaller than a patch of {smallest} low-resolution pixels", hint="a smaller --patch")
        photographs.append(photograph)
    on_step(len(files), len(files))
    return photographs


def draw_batch(
    photographs: Sequence[Photograph], *, scale: int, batch: int, patch: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """(N, C, patch, patch) and (N, C, patch·scale, patch·scale) float32 in [0, 1], from random places, turned at random."""
    pairs = [_draw_patch(photographs[int(rng.integers(len(photographs)))], scale, patch, rng) for _ in range(batch)]
    low, high = (torch.stack(side).float().div_(255) for side in zip(*pairs, strict=True))
    return low, high


def _draw_patch(photograph: Photograph, scale: int, patch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    height, width = (side - patch + 1 for side in photograph.low.shape[1:])
    row, column = int(rng.integers(height)), int(rng.integers(width))
    sides = []
    turn = [axis for axis in (1, 2) if rng.random() < 0.5], rng.random() < 0.5
    for picture in (photograph.low, photograph.high):
        factor = 1 if picture is photograph.low else scale
        side, top, left = patch * factor, row * factor, column * factor
        cut = picture[:, top : top + side, left : left + side].flip(turn[0])
        sides.append(cut.transpose(1, 2) if turn[1] else cut)
    return sides[0], sides[1]


def _make_pair(high: Tensor, network: Network, scale: int) -> Photograph:
    height, width = (side // scale for side in high.shape[1:])
    high = high[:, : height * scale, : width * scale]
    low = _resize(high, height, width)
    if network.colour == "Y":
        low, high = _luma(low), _luma(high)
    return Photograph(low.contiguous(), high.contiguous())


def _resize(picture: Tensor, height: int, width: int) -> Tensor:
    resized = functional.interpolate(picture[None].float(), (height, width), mode="bicubic", antialias=True)[0]
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def _luma(picture: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA).view(3, 1, 1)
    return (picture * weights).sum(0, keepdim=True).round_().to(torch.uint8)


def _pictures(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if is_image_file(path))
    if not files:
        reason = "no pictures in it" if folder.is_dir() else "there is no such folder"
        raise DatasetError(f"{folder}: {reason}", hint="name a folder of photographs with --data")
    return files
