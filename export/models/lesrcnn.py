"""LESRCNN: lightweight image super-resolution with an enhanced CNN.

Tian et al. 2020, arXiv 2007.04344. What is summed on along the trunk is the activated tensor: the original writes its sums
before the activation, but its ReLU works in place, and its weights were trained with that.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.models.network import Network, PublishedWeights

_WIDTH = 64
_BLOCKS = 8
_DIV2K_MEAN = (0.4488, 0.4371, 0.4040)  # RGB means of DIV2K, as EDSR and its descendants use them


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False))


class MeanShift(nn.Module):
    """Adds `sign` times the data set's mean colour, as the 1×1 convolution that checkpoints store."""

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.shifter = nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            self.shifter.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
            self.shifter.bias = nn.Parameter(sign * torch.tensor(_DIV2K_MEAN))

    def forward(self, picture: Tensor) -> Tensor:
        shifted: Tensor = self.shifter(picture)
        return shifted


class Upsample(nn.Module):
    """3×3 convolutions with bias and PixelShuffle: one step of 2 or 3, or two of 2. Affine: no activation inside."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        factors = (2, 2) if scale == 4 else (scale,)
        steps: list[nn.Module] = []
        for factor in factors:
            steps += [nn.Conv2d(_WIDTH, _WIDTH * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
        self.up = nn.ModuleDict({"body": nn.Sequential(*steps)})

    def forward(self, features: Tensor) -> Tensor:
        upsampled: Tensor = self.up["body"](features)
        return upsampled


class LESRCNN(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] -> (N, 3, H·scale, W·scale), for scale 2, 3 or 4."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.sub_mean = MeanShift(-1)
        self.add_mean = MeanShift(+1)
        self.conv1 = _convolution(3, _WIDTH, 3)
        for block in range(1, _BLOCKS + 1):
            self.add_module(f"conv{2 * block}", _convolution(_WIDTH, _WIDTH, 3))
            self.add_module(f"conv{2 * block + 1}", _convolution(_WIDTH, _WIDTH, 1))
        for layer in range(1, 5):
            self.add_module(f"conv17_{layer}", _convolution(_WIDTH, _WIDTH, 3))
        self.conv18 = _convolution(_WIDTH, 3, 3)
        self.upsample = Upsample(scale)

    def forward(self, picture: Tensor) -> Tensor:
        first = torch.relu(self.conv1(self.sub_mean(picture)))
        trunk = first
        for block in range(1, _BLOCKS + 1):
            inner = torch.relu(self.get_submodule(f"conv{2 * block}")(trunk))
            trunk = torch.relu(trunk + self.get_submodule(f"conv{2 * block + 1}")(inner))
        fine = torch.relu(self.upsample(trunk) + self.upsample(first))
        for layer in range(1, 5):
            fine = torch.relu(self.get_submodule(f"conv17_{layer}")(fine))
        restored: Tensor = self.add_mean(self.conv18(fine))
        return restored


_PUBLISHED = "https://raw.githubusercontent.com/hellloxiaotian/LESRCNN/e3729ed3884cbaa67c1534a1ac9626c71d670d27"

NETWORK = Network(
    name="lesrcnn",
    paper="Tian et al. 2020, arXiv 2007.04344",
    scales=(2, 3, 4),
    build=LESRCNN,
    published={
        2: PublishedWeights(f"{_PUBLISHED}/x2/lesrcnn_x2.pth", "66b4b2ddb268486f78a3d49758a016417e64f602ef963667b5ce34039200bcde"),
        3: PublishedWeights(f"{_PUBLISHED}/x3/lesrcnn_x3.pth", "95cbabcbd243e5582118d3bba44fd751a80dd19a291d5f3b1ebd7c9b3b61346a"),
        4: PublishedWeights(f"{_PUBLISHED}/x4/lesrcnn_x4.pth", "1de9d0e1b1817de43fba3ce9c4b966fd8cde81e160d7432a844d6a2296f90cbc"),
    },
    shipped={2: "fb1dd4f08e831c8e3282ff05fe1cfdaadcfe9ea552db0785fb33de498a6cd091"},
)
