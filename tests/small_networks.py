"""Small networks such as other people's are made of."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, pixel_shuffle, relu

_CHANNELS, _NARROW = 16, 8


class SpatialAttention(nn.Module):
    """RFDN's: a branch at a sixth of the size is resized to that of its input and added. Liu et al. 2020, arXiv 2009.11551."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(_CHANNELS, _NARROW, 1)
        self.beside = nn.Conv2d(_NARROW, _NARROW, 1)
        self.strided = nn.Conv2d(_NARROW, _NARROW, 3, stride=2)
        self.below = nn.ModuleList(nn.Conv2d(_NARROW, _NARROW, 3, padding=1) for _ in range(3))
        self.wide = nn.Conv2d(_NARROW, _CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        narrow: Tensor = self.narrow(x)
        small = relu(self.below[0](max_pool2d(self.strided(narrow), 7, 3)))
        small = self.below[2](relu(self.below[1](small)))
        large = interpolate(small, (x.size(2), x.size(3)), mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.wide(large + self.beside(narrow)))


class AttentionNetwork(nn.Module):
    """A ×2 network around it: (N, 3, H, W) -> (N, 3, 2H, 2W)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, _CHANNELS, 3, padding=1)
        self.attention = SpatialAttention()
        self.tail = nn.Conv2d(_CHANNELS, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = relu(self.head(x))
        return pixel_shuffle(self.tail(self.attention(first) + first), 2)


def write_attention_network(path: Path) -> None:
    """Writes it as ONNX, with seeded random weights, its batch, height and width free."""
    torch.manual_seed(0)
    axes = {0: "batch", 2: "height", 3: "width"}
    with torch.no_grad():
        torch.onnx.export(
            AttentionNetwork().eval(),
            (torch.rand(1, 3, 64, 64),),
            path,
            opset_version=17,
            dynamo=False,  # as most published files were made
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": axes, "y": {axis: f"{name}_out" for axis, name in axes.items()}},
        )
