"""PLKSR ×2: a large kernel over a part of the channels, an element-wise gate. Lee et al. 2024, arXiv 2404.11848."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.models import Network

_CHANNELS, _PART, _KERNEL, _BLOCKS = 16, 4, 17, 3


class PartialLargeKernel(nn.Module):
    """(N, C, H, W) -> the same: the first channels go through a 17×17 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Conv2d(_PART, _PART, _KERNEL, padding=_KERNEL // 2)

    def forward(self, x: Tensor) -> Tensor:
        part, rest = torch.split(x, [_PART, _CHANNELS - _PART], dim=1)
        return torch.cat([self.large(part), rest], 1)


class Block(nn.Module):
    """(N, C, H, W) -> the same: channel mixer, large kernel, gate, pointwise refinement."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer = nn.Sequential(
            nn.Conv2d(_CHANNELS, 2 * _CHANNELS, 3, padding=1), nn.GELU(), nn.Conv2d(2 * _CHANNELS, _CHANNELS, 3, padding=1)
        )
        self.kernel = PartialLargeKernel()
        self.gate = nn.Sequential(nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1), nn.Sigmoid())
        self.refine = nn.Conv2d(_CHANNELS, _CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.kernel(self.mixer(x))
        refined: Tensor = self.refine(mixed * self.gate(mixed))
        return refined + x


class PLKSR(nn.Module):
    """(N, 3, H, W) in [0, 1] -> (N, 3, H·scale, W·scale)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.copies = scale**2
        self.body = nn.Sequential(
            nn.Conv2d(3, _CHANNELS, 3, padding=1),
            *(Block() for _ in range(_BLOCKS)),
            nn.Conv2d(_CHANNELS, 3 * scale**2, 3, padding=1),
        )
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: Tensor) -> Tensor:
        picture: Tensor = self.shuffle(self.body(x) + torch.repeat_interleave(x, repeats=self.copies, dim=1))
        return picture


NETWORK = Network(name="plksr", paper="Lee et al. 2024, arXiv 2404.11848", scales=(2,), build=PLKSR)
