"""LESRCNN: lightweight image super-resolution with an enhanced CNN.

Tian et al. 2020, arXiv 2007.04344. What is summed on along the trunk is the activated tensor: the original writes its sums
before the activation, but its ReLU works in place, and its weights were trained with that.

The blind network is the same with one trunk for scales 2 to 4: it holds an upsampler of each and uses that of its scale.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.models.interpolation import bilinear_kernels
from export.models.network import Network, PublishedWeights

_WIDTH = 64
_BLOCKS = 8
_SCALES = (2, 3, 4)
_CARRIED = 6  # channels that carry the picture through a network not trained yet
_DIV2K_MEAN = (0.4488, 0.4371, 0.4040)  # RGB means of DIV2K, as EDSR and its descendants use them


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False))


class MeanShift(nn.Module):
    """Adds `sign` times the data set's mean colour, as the 1×1 convolution that checkpoints store; it is not trained."""

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.shifter = nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            self.shifter.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
            self.shifter.bias = nn.Parameter(sign * torch.tensor(_DIV2K_MEAN))
        self.requires_grad_(False)

    def forward(self, picture: Tensor) -> Tensor:
        if self.training:  # a sum in float32, where autocast would make the convolution's output bfloat16
            assert self.shifter.bias is not None
            return picture + self.shifter.bias.view(1, 3, 1, 1)
        shifted: Tensor = self.shifter(picture)
        return shifted


class UpsampledSum(nn.Module):
    """The sum of two upsampled inputs: 3×3 convolutions with bias and PixelShuffle, one step of 2 or 3, or two of 2."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.factors = (2, 2) if scale == 4 else (scale,)
        steps: list[nn.Module] = []
        for factor in self.factors:
            steps += [nn.Conv2d(_WIDTH, _WIDTH * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
        self.body = nn.Sequential(*steps)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        if self.training:
            return self._upsample_sum(one + other)
        upsampled: Tensor = self.body(one) + self.body(other)
        return upsampled

    def convolutions(self) -> list[nn.Conv2d]:
        return [step for step in self.body if isinstance(step, nn.Conv2d)]

    def start_as_interpolation(self) -> None:
        """Every channel interpolated by itself, plus some noise; the carried colours each less its negative."""
        for index, (convolution, factor) in enumerate(zip(self.convolutions(), self.factors, strict=True)):
            assert convolution.bias is not None
            convolution.bias.zero_()
            weight = convolution.weight.mul_(0.15).view(_WIDTH, factor**2, _WIDTH, 3, 3)
            weight[:_CARRIED] = 0
            kernels = bilinear_kernels(factor) / (2 if index == 0 else 1)  # two inputs are summed
            for channel in range(_WIDTH):
                weight[channel, :, channel] += kernels
                if index == 0 and channel < _CARRIED:
                    weight[channel, :, (channel + 3) % _CARRIED] -= kernels

    def _upsample_sum(self, features: Tensor) -> Tensor:
        """f(a) + f(b) from a + b, in half the arithmetic: f is affine, so that it is f of the sum with its biases doubled."""
        for convolution, factor in zip(self.convolutions(), self.factors, strict=True):
            assert convolution.bias is not None
            wide = functional.conv2d(features, convolution.weight, 2 * convolution.bias, padding=1)
            features = functional.pixel_shuffle(wide, factor)
        return features


class LESRCNN(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] -> (N, 3, H·scale, W·scale), for scale 2, 3 or 4."""

    def __init__(self, scale: int, *, blind: bool = False) -> None:
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
        upsamplers = {f"up{each}": UpsampledSum(each) for each in _SCALES} if blind else {"up": UpsampledSum(scale)}
        self.upsample = nn.ModuleDict(upsamplers)
        self._up = f"up{scale}" if blind else "up"
        with torch.no_grad():
            self._start_as_interpolation()

    def forward(self, picture: Tensor) -> Tensor:
        first = torch.relu(self.conv1(self.sub_mean(picture)))
        trunk = first
        for block in range(1, _BLOCKS + 1):
            inner = torch.relu(self.get_submodule(f"conv{2 * block}")(trunk))
            trunk = torch.relu(trunk + self.get_submodule(f"conv{2 * block + 1}")(inner))
        fine = torch.relu(self.upsample[self._up](trunk, first))
        for layer in range(1, 5):
            fine = torch.relu(self.get_submodule(f"conv17_{layer}")(fine))
        restored: Tensor = self.add_mean(self.conv18(fine))
        return restored

    def _start_as_interpolation(self) -> None:
        """Weights to train from: at first the network interpolates bilinearly, and what it learns is what to add to that.

        Six channels carry the picture to the end, its colours and their negatives, of which one passes each ReLU; the others
        start small and random (He et al. 2015, arXiv 1502.01852).
        """
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d) and "shifter" not in name:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        first, last = self.get_parameter("conv1.0.weight"), self.get_parameter("conv18.0.weight")
        first[:_CARRIED], last[:] = 0, 0
        for colour in range(3):
            first[colour, colour, 1, 1] = last[colour, colour, 1, 1] = 1
            first[colour + 3, colour, 1, 1] = last[colour, colour + 3, 1, 1] = -1
        for block in range(1, _BLOCKS + 1):
            self.get_parameter(f"conv{2 * block + 1}.0.weight").mul_(0.2)[:_CARRIED] = 0
        for layer in range(1, 5):
            weight = self.get_parameter(f"conv17_{layer}.0.weight").mul_(0.3)
            weight[:_CARRIED] = 0
            weight[:, :, 1, 1] += torch.eye(_WIDTH)
        for upsampler in self.upsample.children():
            assert isinstance(upsampler, UpsampledSum)
            upsampler.start_as_interpolation()


_PUBLISHED = "https://raw.githubusercontent.com/hellloxiaotian/LESRCNN/e3729ed3884cbaa67c1534a1ac9626c71d670d27"

NETWORK = Network(
    name="lesrcnn",
    paper="Tian et al. 2020, arXiv 2007.04344",
    scales=_SCALES,
    build=LESRCNN,
    published={
        2: PublishedWeights(f"{_PUBLISHED}/x2/lesrcnn_x2.pth", "66b4b2ddb268486f78a3d49758a016417e64f602ef963667b5ce34039200bcde"),
        3: PublishedWeights(f"{_PUBLISHED}/x3/lesrcnn_x3.pth", "95cbabcbd243e5582118d3bba44fd751a80dd19a291d5f3b1ebd7c9b3b61346a"),
        4: PublishedWeights(f"{_PUBLISHED}/x4/lesrcnn_x4.pth", "1de9d0e1b1817de43fba3ce9c4b966fd8cde81e160d7432a844d6a2296f90cbc"),
    },
    shipped={
        2: "74fa2ae7c7faa43a2b78832862db6cb4ac32e578d45aec42773b5f97ef4b00d6",
        3: "db503e212dd33d1bb49aa686a0002dc1e2d9c574f5983f6e577c756ed2a510c0",
        4: "62aa29c85cd45477ac06efe5390765476e7b624f71464d1f6cd6d2673db2b4c5",
    },
)

# Published beside the others as lesrcnn_b/lesrcnn.pth, of no known sha256: weights are given as a file.
BLIND = Network(
    name="lesrcnn-b",
    paper="Tian et al. 2020, arXiv 2007.04344",
    scales=_SCALES,
    build=partial(LESRCNN, blind=True),
)
