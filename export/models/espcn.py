"""ESPCN: sub-pixel convolution at the picture's own size.

Shi et al. 2016, arXiv 1609.05158, in the shape that PyTorch's example and the ONNX model zoo give it: four convolutions with ReLU
between them, of luma alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.models.interpolation import bilinear_kernels
from export.models.network import Network, PublishedWeights


class ESPCN(nn.Module):
    """(N, 1, H, W) luma in [0, 1] -> (N, 1, H·scale, W·scale)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv1 = nn.Conv2d(1, 64, 5, padding=2)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 32, 3, padding=1)
        self.conv4 = nn.Conv2d(32, scale**2, 3, padding=1)
        with torch.no_grad():
            self._start_as_interpolation()

    def forward(self, luma: Tensor) -> Tensor:
        features = torch.relu(self.conv1(luma))
        features = torch.relu(self.conv2(features))
        features = torch.relu(self.conv3(features))
        return functional.pixel_shuffle(self.conv4(features), self.scale)

    def _start_as_interpolation(self) -> None:
        """Weights to train from: one channel carries the picture, which no ReLU touches, to a bilinear last layer."""
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            layer.bias.zero_()
        for layer in (self.conv1, self.conv2, self.conv3):
            layer.weight[0] = 0
            layer.weight[0, 0, layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = 1
        self.conv4.weight.zero_()[:, 0] = bilinear_kernels(self.scale)


NETWORK = Network(
    name="espcn",
    paper="Shi et al. 2016, arXiv 1609.05158",
    scales=(3,),
    build=ESPCN,
    colour="Y",
    published={
        3: PublishedWeights(
            "https://github.com/onnx/models/raw/4c46cd00fbdb7cd30b6c1c17ab54f2e1f4f7b177/validated/vision/super_resolution/"
            "sub_pixel_cnn_2016/model/super-resolution-10.onnx",
            "85f36ff88cc504a24af5e0602148bc56a8aa09a58eca8c0da2756f3e8186035e",
        )
    },
    shipped={3: "32c21d2c5ed1dfd6351544c4e1aef84cd0824095b9fd0b093f4509447e6023e3"},
)
