"""CARN-M ×2: cascades of grouped convolutions that share their weights. Ahn et al. 2018, arXiv 1803.08664."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.models import Network
from tests.architectures.mean_shift import MeanShift

_CHANNELS, _GROUPS, _STEPS = 32, 4, 3


class EfficientBlock(nn.Module):
    """(N, C, H, W) -> the same: two grouped convolutions and a pointwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1, groups=_GROUPS),
            nn.ReLU(inplace=True),
            nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1, groups=_GROUPS),
            nn.ReLU(inplace=True),
            nn.Conv2d(_CHANNELS, _CHANNELS, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + x)


def _merges() -> nn.ModuleList:
    return nn.ModuleList(nn.Sequential(nn.Conv2d((at + 2) * _CHANNELS, _CHANNELS, 1), nn.ReLU()) for at in range(_STEPS))


class Cascade(nn.Module):
    """(N, C, H, W) -> the same: one block used again and again, everything so far merged after each use."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.merges = EfficientBlock(), _merges()

    def forward(self, x: Tensor) -> Tensor:
        gathered, merged = x, x
        for merge in self.merges:
            gathered = torch.cat([gathered, self.block(merged)], 1)
            merged = merge(gathered)
        return merged


class CARNM(nn.Module):
    """(N, 3, H, W) in [0, 1] -> (N, 3, H·scale, W·scale)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = MeanShift(-1), MeanShift(1)
        self.entry = nn.Conv2d(3, _CHANNELS, 3, padding=1)
        self.cascades, self.merges = nn.ModuleList(Cascade() for _ in range(_STEPS)), _merges()
        self.up = nn.Sequential(
            nn.Conv2d(_CHANNELS, _CHANNELS * scale**2, 3, padding=1, groups=_GROUPS), nn.ReLU(inplace=True), nn.PixelShuffle(scale)
        )
        self.exit = nn.Conv2d(_CHANNELS, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        merged: Tensor = self.entry(self.sub_mean(x))
        gathered = merged
        for cascade, merge in zip(self.cascades, self.merges, strict=True):
            gathered = torch.cat([gathered, cascade(merged)], 1)
            merged = merge(gathered)
        picture: Tensor = self.add_mean(self.exit(self.up(merged)))
        return picture


NETWORK = Network(name="carn_m", paper="Ahn et al. 2018, arXiv 1803.08664", scales=(2,), build=CARNM)
