"""LapSRN ×4: a pyramid of residuals, each level a deconvolution by two; of RGB, channel by channel.

Lai et al. 2017, arXiv 1704.03915.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.models import Network

_CHANNELS, _LAYERS, _SLOPE = 16, 3, 0.2


def _bilinear_kernel() -> Tensor:
    """(4, 4): what a deconvolution by two interpolates bilinearly with."""
    side = torch.tensor([0.25, 0.75, 0.75, 0.25])
    return side[:, None] * side[None, :]


class Level(nn.Module):
    """Features (N, C, H, W) and a picture (N, 3, H, W) -> both at twice the size."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(_LAYERS):
            layers += [nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1), nn.LeakyReLU(_SLOPE)]
        self.embed = nn.Sequential(*layers, nn.ConvTranspose2d(_CHANNELS, _CHANNELS, 4, stride=2, padding=1), nn.LeakyReLU(_SLOPE))
        self.residual = nn.Conv2d(_CHANNELS, 3, 3, padding=1)
        self.enlarge = nn.ConvTranspose2d(3, 3, 4, stride=2, padding=1, groups=3, bias=False)
        with torch.no_grad():
            self.enlarge.weight.copy_(_bilinear_kernel().expand(3, 1, 4, 4))

    def forward(self, features: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        features = self.embed(features)
        return features, self.enlarge(picture) + self.residual(features)


class LapSRN(nn.Module):
    """(N, 3, H, W) in [0, 1] -> (N, 3, 4H, 4W)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        assert scale == 4
        self.first = nn.Sequential(nn.Conv2d(3, _CHANNELS, 3, padding=1), nn.LeakyReLU(_SLOPE))
        self.levels = nn.ModuleList((Level(), Level()))

    def forward(self, picture: Tensor) -> Tensor:
        features: Tensor = self.first(picture)
        for level in self.levels:
            features, picture = level(features, picture)
        return picture


NETWORK = Network(name="lapsrn", paper="Lai et al. 2017, arXiv 1704.03915", scales=(4,), build=LapSRN)
