"""PAN ×3: pixel attention, also after upsampling. Zhao et al. 2020, arXiv 2010.01073."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.models import Network

_CHANNELS, _WIDE_CHANNELS, _BLOCKS, _SLOPE = 24, 16, 3, 0.2
_HALF = _CHANNELS // 2


class PixelAttention(nn.Module):
    """(N, C, H, W) -> the same, each value weighed by its own sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.weigh(x))


class SelfCalibratedBlock(nn.Module):
    """(N, C, H, W) -> the same: one half calibrated by pixel attention, one half plain."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(_CHANNELS, _HALF, 1, bias=False), nn.Conv2d(_CHANNELS, _HALF, 1, bias=False)
        self.plain = nn.Conv2d(_HALF, _HALF, 3, padding=1, bias=False)
        self.weigh = nn.Conv2d(_HALF, _HALF, 1)
        self.inner, self.outer = (nn.Conv2d(_HALF, _HALF, 3, padding=1, bias=False) for _ in range(2))
        self.merge = nn.Conv2d(_CHANNELS, _CHANNELS, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        left = functional.leaky_relu(self.left(x), _SLOPE)
        right = functional.leaky_relu(self.right(x), _SLOPE)
        left = functional.leaky_relu(self.plain(left), _SLOPE)
        right = functional.leaky_relu(self.outer(self.inner(right) * torch.sigmoid(self.weigh(right))), _SLOPE)
        merged: Tensor = self.merge(torch.cat([left, right], 1))
        return merged + x


class PAN(nn.Module):
    """(N, 3, H, W) in [0, 1] -> (N, 3, H·scale, W·scale)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.first = nn.Conv2d(3, _CHANNELS, 3, padding=1)
        self.body = nn.Sequential(*(SelfCalibratedBlock() for _ in range(_BLOCKS)))
        self.trunk = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.up = nn.Conv2d(_CHANNELS, _WIDE_CHANNELS, 3, padding=1)
        self.attention = PixelAttention(_WIDE_CHANNELS)
        self.large = nn.Conv2d(_WIDE_CHANNELS, _WIDE_CHANNELS, 3, padding=1)
        self.last = nn.Conv2d(_WIDE_CHANNELS, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.first(x)
        features = first + self.trunk(self.body(first))
        features = self.up(functional.interpolate(features, scale_factor=self.scale, mode="nearest"))
        features = functional.leaky_relu(self.attention(features), _SLOPE)
        detail: Tensor = self.last(functional.leaky_relu(self.large(features), _SLOPE))
        return detail + functional.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)


NETWORK = Network(name="pan", paper="Zhao et al. 2020, arXiv 2010.01073", scales=(3,), build=PAN)
