"""MDSR: a deep residual network with a head, a tail and an upsampler per scale, built here for one scale at a time.

Lim et al. 2017, arXiv 1707.02921, without batch normalisation and with its residuals a tenth; with the balanced attention of
Wang et al. 2021, arXiv 2104.07566, it is MDSR-BAM. Keys are those of the super-image library.
"""

from __future__ import annotations

import re
from functools import partial

import torch
from torch import Tensor, nn

from export.models.network import Network, Shapes

_BLOCKS = 32
_WIDTH = 64
_RESIDUAL_SCALE = 0.1
_REDUCTION = 16  # of channels inside the channel attention


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1))


class ChannelAttention(nn.Module):
    """(N, C, H, W) -> (N, C, 1, 1) in (0, 1), from each channel's mean: it looks at the whole picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, width // _REDUCTION, 1, bias=False)
        self.relu1 = nn.PReLU(width // _REDUCTION)
        self.fc2 = nn.Conv2d(width // _REDUCTION, width, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.fc2(self.relu1(self.fc1(features.mean((2, 3), keepdim=True)))))


class SpatialAttention(nn.Module):
    """(N, C, H, W) -> (N, 1, H, W) in (0, 1), from the largest channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 1, 7, padding=3, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.conv1(features.amax(1, keepdim=True)))


class BalancedAttention(nn.Module):
    """Channel attention times spatial attention times what they attend to."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ca = ChannelAttention(width)
        self.sa = SpatialAttention()

    def forward(self, features: Tensor) -> Tensor:
        attended: Tensor = self.ca(features) * self.sa(features) * features
        return attended


class ResidualBlock(nn.Module):
    def __init__(self, width: int, *, attention: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolution(width, width), nn.ReLU(), _convolution(width, width))
        self.attention = BalancedAttention(width) if attention else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        refined: Tensor = self.attention(self.body(features))
        return features + _RESIDUAL_SCALE * refined


class MDSR(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] -> (N, 3, H·scale, W·scale), for scale 2, 3 or 4."""

    def __init__(self, scale: int, *, attention: bool = False, blocks: int = _BLOCKS, width: int = _WIDTH) -> None:
        super().__init__()
        self._scale = str(scale)
        self.head = nn.Sequential(_convolution(3, width))
        entrance = (ResidualBlock(width, attention=attention) for _ in range(2))
        self.pre_process = nn.ModuleDict({self._scale: nn.Sequential(*entrance)})
        trunk = (ResidualBlock(width, attention=attention) for _ in range(blocks))
        self.body = nn.Sequential(*trunk, _convolution(width, width))
        steps: list[nn.Module] = []
        for factor in (2, 2) if scale == 4 else (scale,):
            steps += [_convolution(width, width * factor**2), nn.PixelShuffle(factor)]
        self.upsample = nn.ModuleDict({self._scale: nn.Sequential(*steps)})
        self.tail = nn.Sequential(_convolution(width, 3))
        for name in ("sub_mean", "add_mean"):  # in every checkpoint, and of no use to any
            self.add_module(name, nn.Conv2d(3, 3, 1).requires_grad_(False))

    def forward(self, picture: Tensor) -> Tensor:
        entered = self.pre_process[self._scale](self.head(picture))
        restored: Tensor = self.tail(self.upsample[self._scale](entered + self.body(entered)))
        return restored


def _build_like(scale: int, shapes: Shapes, *, attention: bool = False) -> MDSR:
    return MDSR(scale, attention=attention, blocks=_count_blocks(shapes), width=_read_width(shapes))


def _count_blocks(shapes: Shapes) -> int:
    """Residual blocks of a checkpoint's body; the usual number where it has none."""
    return sum(re.fullmatch(r"body\.\d+\.body\.0\.0\.weight", key) is not None for key in shapes) or _BLOCKS


def _read_width(shapes: Shapes) -> int:
    return (shapes.get("head.0.0.weight") or (_WIDTH,))[0]


# Published on Hugging Face as eugenesiow/mdsr and eugenesiow/mdsr-bam, of no known sha256: weights are given as a file or folder.
_FILE_PATTERN = "pytorch_model_{scale}x.pt"

NETWORK = Network(
    name="mdsr",
    paper="Lim et al. 2017, arXiv 1707.02921",
    scales=(2, 3, 4),
    build=MDSR,
    build_like=_build_like,
    file_pattern=_FILE_PATTERN,
)

WITH_ATTENTION = Network(
    name="mdsr-bam",
    paper="Wang et al. 2021, arXiv 2104.07566",
    scales=(2, 3, 4),
    build=partial(MDSR, attention=True),
    build_like=partial(_build_like, attention=True),
    file_pattern=_FILE_PATTERN,
)
