"""A U-Net ×2 behind a pixel-unshuffle: its input's sides are multiples of eight.

Ronneberger et al. 2015, arXiv 1505.04597; the unshuffled front end is that of Real-ESRGAN's ×2 network, arXiv 2107.10833.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.models import Network

_CHANNELS = (16, 24, 32)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU())


class UNet(nn.Module):
    """(N, 3, H, W) in [0, 1], H and W multiples of 8 -> (N, 3, H·scale, W·scale)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        top, middle, bottom = _CHANNELS
        self.scale = scale
        self.first = _block(3 * 4, top)
        self.down1 = nn.Conv2d(top, middle, 2, stride=2)
        self.second = _block(middle, middle)
        self.third = _block(middle, bottom)
        self.up2 = nn.ConvTranspose2d(bottom, middle, 2, stride=2)
        self.fourth = _block(2 * middle, middle)
        self.up1 = nn.ConvTranspose2d(middle, top, 2, stride=2)
        self.fifth = _block(2 * top, top)
        self.last = nn.Conv2d(top, 3 * (2 * scale) ** 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        top: Tensor = self.first(functional.pixel_unshuffle(x, 2))
        middle: Tensor = self.second(self.down1(top))
        bottom = self.third(functional.max_pool2d(middle, 2))
        middle = self.fourth(torch.cat([middle, self.up2(bottom)], 1))
        top = self.fifth(torch.cat([top, self.up1(middle)], 1))
        detail = functional.pixel_shuffle(self.last(top), 2 * self.scale)
        return detail + functional.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)


NETWORK = Network(name="unet", paper="Ronneberger et al. 2015, arXiv 1505.04597", scales=(2,), build=UNet)
