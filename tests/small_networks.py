"""Small networks such as other people's are made of."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, relu

from tests.architectures.rfdn import SpatialAttention

_CHANNELS, _NARROW = 16, 8


class AttentionNetwork(nn.Module):
    """A ×2 network around it: (N, 3, H, W) -> (N, 3, 2H, 2W)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, _CHANNELS, 3, padding=1)
        self.attention = SpatialAttention(_CHANNELS, _NARROW)
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
