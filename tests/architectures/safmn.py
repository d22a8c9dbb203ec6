"""SAFMN ×4: depthwise convolutions at four sizes modulate the features. Sun et al. 2023, arXiv 2302.13800."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.models import Network

_CHANNELS, _LEVELS, _BLOCKS = 32, 4, 2
_PART = _CHANNELS // _LEVELS


class ChannelNorm(nn.Module):
    """(N, C, H, W) -> the same: each pixel's channels to mean 0 and deviation 1, scaled and shifted."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(_CHANNELS)), nn.Parameter(torch.zeros(_CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        normal = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * normal + self.bias[:, None, None]


class Modulation(nn.Module):
    """(N, C, H, W) -> the same: a quarter of the channels at each of 1, 1/2, 1/4 and 1/8 of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(_PART, _PART, 3, padding=1, groups=_PART) for _ in range(_LEVELS))
        self.merge = nn.Conv2d(_CHANNELS, _CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        parts = []
        for level, (layer, part) in enumerate(zip(self.levels, torch.chunk(x, _LEVELS, dim=1), strict=True)):
            if level:
                small = layer(functional.max_pool2d(part, 2**level))
                parts.append(functional.interpolate(small, size=(height, width), mode="nearest"))
            else:
                parts.append(layer(part))
        return functional.gelu(self.merge(torch.cat(parts, 1))) * x


class Block(nn.Module):
    """(N, C, H, W) -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.modulation = ChannelNorm(), ChannelNorm(), Modulation()
        self.mixer = nn.Sequential(
            nn.Conv2d(_CHANNELS, 2 * _CHANNELS, 3, padding=1), nn.GELU(), nn.Conv2d(2 * _CHANNELS, _CHANNELS, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.modulation(self.norm1(x)) + x
        mixed: Tensor = self.mixer(self.norm2(x))
        return mixed + x


class SAFMN(nn.Module):
    """(N, 3, H, W) in [0, 1] -> (N, 3, H·scale, W·scale)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, _CHANNELS, 3, padding=1)
        self.body = nn.Sequential(*(Block() for _ in range(_BLOCKS)))
        self.up = nn.Sequential(nn.Conv2d(_CHANNELS, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.first(x)
        picture: Tensor = self.up(self.body(first) + first)
        return picture


NETWORK = Network(name="safmn", paper="Sun et al. 2023, arXiv 2302.13800", scales=(4,), build=SAFMN)
