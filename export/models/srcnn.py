"""SRCNN: three convolutions on a picture that was enlarged bicubically.

Dong et al. 2014, arXiv 1501.00092; 9-5-5 kernels and 128-64 channels, of RGB, as its PyTorch implementation has it. That one
cuts the picture into 33×33 patches; here the whole picture is convolved.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.models.network import Network, Shapes

_KERNELS = (9, 5, 5)
_WIDTHS = (128, 64)
_LAYERS = ("layer_1", "layer_2", "layer_3")


class SRCNN(nn.Module):
    """(N, 3, H, W) RGB in [0, 1], enlarged already -> (N, 3, H, W)."""

    def __init__(self, kernels: tuple[int, ...] = _KERNELS, widths: tuple[int, ...] = _WIDTHS) -> None:
        super().__init__()
        channels = (3, *widths, 3)
        for index, (layer, kernel) in enumerate(zip(_LAYERS, kernels, strict=True)):
            self.add_module(layer, nn.Conv2d(channels[index], channels[index + 1], kernel, padding=kernel // 2))

    def forward(self, enlarged: Tensor) -> Tensor:
        features = torch.relu(self.get_submodule("layer_1")(enlarged))
        features = torch.relu(self.get_submodule("layer_2")(features))
        restored: Tensor = self.get_submodule("layer_3")(features)
        return restored


def _build_like(_: int, shapes: Shapes) -> SRCNN:
    """With a checkpoint's kernels (9-1-5, 9-3-5 and 9-5-5 are the paper's) and widths."""
    weights = [shapes.get(f"{layer}.weight", ()) for layer in _LAYERS]
    if any(len(shape) != 4 for shape in weights):
        return SRCNN()
    return SRCNN(kernels=tuple(shape[2] for shape in weights), widths=tuple(shape[0] for shape in weights[:-1]))


# Trained at 2 and published at github.com/amanshenoy/image-super-resolution as saved/isr_best.pth, of no known commit: weights
# are given as a file.
NETWORK = Network(
    name="srcnn",
    paper="Dong et al. 2014, arXiv 1501.00092",
    scales=(2, 3, 4),
    build=lambda _: SRCNN(),
    build_like=_build_like,
    pre_upscale=True,
)
