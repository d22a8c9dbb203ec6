"""ESRGAN's RRDBNet ×4: residual-in-residual dense blocks, nearest upsampling before convolutions.

Wang et al. 2018, arXiv 1809.00219.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.models import Network

_CHANNELS, _GROWTH, _BLOCKS = 12, 6, 2
_RESIDUAL_SCALE = 0.2


class DenseBlock(nn.Module):
    """(N, C, H, W) -> the same: five convolutions, each of everything before it."""

    def __init__(self) -> None:
        super().__init__()
        self.grow = nn.ModuleList(nn.Conv2d(_CHANNELS + at * _GROWTH, _GROWTH, 3, padding=1) for at in range(4))
        self.merge = nn.Conv2d(_CHANNELS + 4 * _GROWTH, _CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.grow:
            features.append(functional.leaky_relu(layer(torch.cat(features, 1)), 0.2))
        merged: Tensor = self.merge(torch.cat(features, 1))
        return merged * _RESIDUAL_SCALE + x


class ResidualInResidual(nn.Module):
    """(N, C, H, W) -> the same: three dense blocks and a residual around them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(DenseBlock(), DenseBlock(), DenseBlock())

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.blocks(x)
        return inner * _RESIDUAL_SCALE + x


class RRDBNet(nn.Module):
    """(N, 3, H, W) in [0, 1] -> (N, 3, 4H, 4W)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        assert scale == 4
        self.first = nn.Conv2d(3, _CHANNELS, 3, padding=1)
        self.body = nn.Sequential(*(ResidualInResidual() for _ in range(_BLOCKS)))
        self.trunk = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.up1 = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.up2 = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.large = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.last = nn.Conv2d(_CHANNELS, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.first(x)
        features = first + self.trunk(self.body(first))
        for layer in (self.up1, self.up2):
            features = functional.leaky_relu(layer(functional.interpolate(features, scale_factor=2, mode="nearest")), 0.2)
        picture: Tensor = self.last(functional.leaky_relu(self.large(features), 0.2))
        return picture


NETWORK = Network(name="rrdbnet", paper="Wang et al. 2018, arXiv 1809.00219", scales=(4,), build=RRDBNet)
