"""SRGAN's generator: residual blocks with batch normalisation, sub-pixel convolutions, and a tanh.

Ledig et al. 2016, arXiv 1609.04802, whose generator has 16 residual blocks; the published weights have 5.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.models.network import Network, PublishedWeights, Shapes

_BLOCKS = 5
_WIDTH = 64


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, features: Tensor) -> Tensor:
        inner = self.prelu(self.bn1(self.conv1(features)))
        refined: Tensor = self.bn2(self.conv2(inner))
        return features + refined


class UpsampleBlock(nn.Module):
    """Twice as large."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width * 4, 3, padding=1)
        self.prelu = nn.PReLU()

    def forward(self, features: Tensor) -> Tensor:
        larger: Tensor = self.prelu(functional.pixel_shuffle(self.conv(features), 2))
        return larger


class SRGAN(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] -> (N, 3, H·scale, W·scale) in (0, 1), for a scale that is a power of two."""

    def __init__(self, scale: int, *, blocks: int = _BLOCKS, width: int = _WIDTH) -> None:
        super().__init__()
        self._trunk = [f"block{number}" for number in range(2, blocks + 3)]
        self._last = f"block{blocks + 3}"
        self.block1 = nn.Sequential(nn.Conv2d(3, width, 9, padding=4), nn.PReLU())
        for name in self._trunk[:-1]:
            self.add_module(name, ResidualBlock(width))
        self.add_module(self._trunk[-1], nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.PReLU()))
        doublings = (UpsampleBlock(width) for _ in range(scale.bit_length() - 1))
        self.add_module(self._last, nn.Sequential(*doublings, nn.Conv2d(width, 3, 9, padding=4)))

    def forward(self, picture: Tensor) -> Tensor:
        first: Tensor = self.block1(picture)
        trunk = first
        for name in self._trunk:
            trunk = self.get_submodule(name)(trunk)
        output: Tensor = self.get_submodule(self._last)(first + trunk)
        return (torch.tanh(output) + 1) / 2


def _build_like(scale: int, shapes: Shapes) -> SRGAN:
    """As many residual blocks as a checkpoint has, of its width."""
    blocks = sum(re.fullmatch(r"block\d+\.bn1\.weight", key) is not None for key in shapes)
    return SRGAN(scale, blocks=blocks or _BLOCKS, width=(shapes.get("block1.0.weight") or (_WIDTH,))[0])


_PUBLISHED = "https://raw.githubusercontent.com/leftthomas/SRGAN/b0323c6ca4ca920f7daa41ba05f44bd220557cd9/epochs/netG_epoch"

NETWORK = Network(
    name="srgan",
    paper="Ledig et al. 2016, arXiv 1609.04802",
    scales=(2, 4, 8),
    build=SRGAN,
    build_like=_build_like,
    published={
        2: PublishedWeights(f"{_PUBLISHED}_2_100.pth", "a7ddfb8d2109ea7360ca7a6913c3acbb7128deef16c2868476e2bb1e2cf9ec3b"),
        4: PublishedWeights(f"{_PUBLISHED}_4_100.pth", "f4c381640826a48d2440583e4920c6bb4041804f4e285c3c6d585f03961fe87c"),
        8: PublishedWeights(f"{_PUBLISHED}_8_100.pth", "91bc47a807f09ebb9c40a69ff2fd3b598e7e618d91f506b71a9c3ec2cbb94355"),
    },
)
