"""IMDN ×3: channels split off step by step, weighed by contrast. Hui et al. 2019, arXiv 1909.11856."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.models import Network

_CHANNELS, _BLOCKS = 24, 3
_KEPT = _CHANNELS // 4
_SLOPE = 0.05


def spatial_mean(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 1, 1), by the sum over the number of pixels, as the paper's code has it."""
    return x.sum(3, keepdim=True).sum(2, keepdim=True) / (x.size(2) * x.size(3))


def spatial_deviation(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 1, 1), the standard deviation over H and W."""
    return spatial_mean((x - spatial_mean(x)).pow(2)).pow(0.5)


class ContrastAttention(nn.Module):
    """(N, C, H, W) -> the same, each channel weighed by its mean and its deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(_CHANNELS, 6, 1), nn.Conv2d(6, _CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        contrast = spatial_deviation(x) + spatial_mean(x)
        return x * torch.sigmoid(self.wide(torch.relu(self.narrow(contrast))))


class DistillationBlock(nn.Module):
    """(N, C, H, W) -> the same."""

    def __init__(self) -> None:
        super().__init__()
        rest = _CHANNELS - _KEPT
        self.split = nn.ModuleList(nn.Conv2d(inputs, _CHANNELS, 3, padding=1) for inputs in (_CHANNELS, rest, rest))
        self.keep = nn.Conv2d(rest, _KEPT, 3, padding=1)
        self.attention = ContrastAttention()
        self.merge = nn.Conv2d(4 * _KEPT, _CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, rest = [], x
        for layer in self.split:
            part, rest = torch.split(functional.leaky_relu(layer(rest), _SLOPE), [_KEPT, _CHANNELS - _KEPT], dim=1)
            kept.append(part)
        merged: Tensor = self.merge(self.attention(torch.cat([*kept, self.keep(rest)], 1)))
        return merged + x


class IMDN(nn.Module):
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


NETWORK = Network(name="imdn", paper="Hui et al. 2019, arXiv 1909.11856", scales=(3,), build=IMDN)
