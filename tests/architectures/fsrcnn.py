"""FSRCNN ×2 of luma: shrink, map, expand, and a deconvolution. Dong et al. 2016, arXiv 1608.00367."""

from __future__ import annotations

from torch import Tensor, nn

from export.models import Network

_WIDE, _NARROW, _MAPPINGS = 32, 8, 3


class FSRCNN(nn.Module):
    """(N, 1, H, W) luma in [0, 1] -> (N, 1, H·scale, W·scale)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, _WIDE, 5, padding=2), nn.PReLU(_WIDE), nn.Conv2d(_WIDE, _NARROW, 1)]
        layers.append(nn.PReLU(_NARROW))
        for _ in range(_MAPPINGS):
            layers += [nn.Conv2d(_NARROW, _NARROW, 3, padding=1), nn.PReLU(_NARROW)]
        layers += [nn.Conv2d(_NARROW, _WIDE, 1), nn.PReLU(_WIDE)]
        self.body = nn.Sequential(*layers)
        self.up = nn.ConvTranspose2d(_WIDE, 1, 9, stride=scale, padding=4, output_padding=scale - 1)

    def forward(self, luma: Tensor) -> Tensor:
        picture: Tensor = self.up(self.body(luma))
        return picture


NETWORK = Network(name="fsrcnn", paper="Dong et al. 2016, arXiv 1608.00367", scales=(2,), build=FSRCNN, colour="Y")
