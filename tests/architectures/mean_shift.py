"""EDSR's MeanShift, written the way its many copies are: a 1×1 convolution that nobody trains.

Lim et al. 2017, arXiv 1707.02921.
"""

from __future__ import annotations

import torch
from torch import nn

_MEAN, _STD = (0.4488, 0.4371, 0.4040), (1.0, 1.0, 1.0)


class MeanShift(nn.Conv2d):
    """(N, 3, H, W) -> x + sign · mean; sign is -1 before the network and 1 after it."""

    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, kernel_size=1)
        std = torch.Tensor(_STD)
        self.weight.data = torch.eye(3).view(3, 3, 1, 1) / std.view(3, 1, 1, 1)
        assert self.bias is not None
        self.bias.data = sign * torch.Tensor(_MEAN) / std
        for parameter in self.parameters():
            parameter.requires_grad = False
