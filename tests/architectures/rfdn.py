"""RFDN ×2: residual feature distillation with enhanced spatial attention. Liu et al. 2020, arXiv 2009.11551."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.models import Network

_CHANNELS, _BLOCKS = 20, 3
_KEPT, _NARROW = _CHANNELS // 2, _CHANNELS // 4
_SLOPE = 0.05


class SpatialAttention(nn.Module):
    """(N, C, H, W) -> the same, weighed by a mask that is made at a sixth of the size."""

    def __init__(self, channels: int = _CHANNELS, narrow: int = _NARROW) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(channels, narrow, 1)
        self.beside = nn.Conv2d(narrow, narrow, 1)
        self.strided = nn.Conv2d(narrow, narrow, 3, stride=2)
        self.below = nn.ModuleList(nn.Conv2d(narrow, narrow, 3, padding=1) for _ in range(3))
        self.wide = nn.Conv2d(narrow, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        narrow: Tensor = self.narrow(x)
        small = functional.max_pool2d(self.strided(narrow), kernel_size=7, stride=3)
        small = self.below[2](torch.relu(self.below[1](torch.relu(self.below[0](small)))))
        large = functional.interpolate(small, (x.size(2), x.size(3)), mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.wide(large + self.beside(narrow)))


class DistillationBlock(nn.Module):
    """(N, C, H, W) -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.keep = nn.ModuleList(nn.Conv2d(_CHANNELS, _KEPT, 1) for _ in range(3))
        self.refine = nn.ModuleList(nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1) for _ in range(3))
        self.last = nn.Conv2d(_CHANNELS, _KEPT, 3, padding=1)
        self.merge = nn.Conv2d(4 * _KEPT, _CHANNELS, 1)
        self.attention = SpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        kept, rest = [], x
        for keep, refine in zip(self.keep, self.refine, strict=True):
            kept.append(functional.leaky_relu(keep(rest), _SLOPE))
            rest = functional.leaky_relu(refine(rest) + rest, _SLOPE)
        kept.append(functional.leaky_relu(self.last(rest), _SLOPE))
        attended: Tensor = self.attention(self.merge(torch.cat(kept, 1)))
        return attended


class RFDN(nn.Module):
    """(N, 3, H, W) in [0, 1] -> (N, 3, H·scale, W·scale)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, _CHANNELS, 3, padding=1)
        self.blocks = nn.ModuleList(DistillationBlock() for _ in range(_BLOCKS))
        self.merge = nn.Conv2d(_BLOCKS * _CHANNELS, _CHANNELS, 1)
        self.last = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.up = nn.Sequential(nn.Conv2d(_CHANNELS, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.first(x)
        outputs = [first]
        for block in self.blocks:
            outputs.append(block(outputs[-1]))
        merged = functional.leaky_relu(self.merge(torch.cat(outputs[1:], 1)), _SLOPE)
        picture: Tensor = self.up(self.last(merged) + first)
        return picture


NETWORK = Network(name="rfdn", paper="Liu et al. 2020, arXiv 2009.11551", scales=(2,), build=RFDN)
