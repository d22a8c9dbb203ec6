"""Real-ESRGAN's compact network ×2: plain convolutions with PReLU and the nearest-upsampled picture added.

Wang et al. 2021, arXiv 2107.10833 (SRVGGNetCompact of its code).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from export.models import Network

_CHANNELS, _LAYERS = 24, 5


class Compact(nn.Module):
    """(N, 3, H, W) in [0, 1] -> (N, 3, H·scale, W·scale)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = [nn.Conv2d(3, _CHANNELS, 3, padding=1), nn.PReLU(_CHANNELS)]
        for _ in range(_LAYERS):
            layers += [nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1), nn.PReLU(_CHANNELS)]
        layers.append(nn.Conv2d(_CHANNELS, 3 * scale**2, 3, padding=1))
        self.body = nn.Sequential(*layers)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: Tensor) -> Tensor:
        detail: Tensor = self.shuffle(self.body(x))
        return detail + functional.interpolate(x, scale_factor=self.scale, mode="nearest")


NETWORK = Network(name="compact", paper="Wang et al. 2021, arXiv 2107.10833", scales=(2,), build=Compact)
