"""SPAN ×2: attention without parameters, as it is deployed: one convolution for each of its triples.

Wan et al. 2023, arXiv 2311.12770.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.models import Network

_CHANNELS, _BLOCKS = 20, 4
_MEAN = (0.4488, 0.4371, 0.4040)


class AttentionBlock(nn.Module):
    """(N, C, H, W) -> what the next block reads, and the first convolution's output."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first: Tensor = self.layers[0](x)
        third: Tensor = self.layers[2](functional.silu(self.layers[1](functional.silu(first))))
        attention = torch.sigmoid(third) - 0.5
        return (third + x) * attention, first


class SPAN(nn.Module):
    """(N, 3, H, W) in [0, 1] -> (N, 3, H·scale, W·scale)."""

    mean: Tensor

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.first = nn.Conv2d(3, _CHANNELS, 3, padding=1)
        self.blocks = nn.ModuleList(AttentionBlock() for _ in range(_BLOCKS))
        self.second = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.merge = nn.Conv2d(4 * _CHANNELS, _CHANNELS, 1)
        self.up = nn.Sequential(nn.Conv2d(_CHANNELS, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.first(x - self.mean)
        outputs, inner = [first], first
        for block in self.blocks:
            output, inner = block(outputs[-1])
            outputs.append(output)
        merged = self.merge(torch.cat([first, self.second(outputs[-1]), outputs[1], inner], 1))
        picture: Tensor = self.up(merged)
        return picture


NETWORK = Network(name="span", paper="Wan et al. 2023, arXiv 2311.12770", scales=(2,), build=SPAN)
