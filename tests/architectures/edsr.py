"""EDSR ×2: residual blocks without normalisation, means taken off and added. Lim et al. 2017, arXiv 1707.02921."""

from __future__ import annotations

from torch import Tensor, nn

from export.models import Network
from tests.architectures.mean_shift import MeanShift

_CHANNELS, _BLOCKS = 24, 4
_RESIDUAL_SCALE = 0.5


class ResidualBlock(nn.Module):
    """(N, C, H, W) -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.body(x).mul(_RESIDUAL_SCALE)
        return inner + x


class EDSR(nn.Module):
    """(N, 3, H, W) in [0, 1] -> (N, 3, H·scale, W·scale)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = MeanShift(-1), MeanShift(1)
        self.head = nn.Conv2d(3, _CHANNELS, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock() for _ in range(_BLOCKS)), nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1))
        self.tail = nn.Sequential(
            nn.Conv2d(_CHANNELS, _CHANNELS * scale**2, 3, padding=1),
            nn.PixelShuffle(scale),
            nn.Conv2d(_CHANNELS, 3, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        head: Tensor = self.head(self.sub_mean(x))
        picture: Tensor = self.add_mean(self.tail(self.body(head) + head))
        return picture


NETWORK = Network(name="edsr", paper="Lim et al. 2017, arXiv 1707.02921", scales=(2,), build=EDSR)
