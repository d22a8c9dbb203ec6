"""Make weights that interpolate, to start training from: training then teaches only what interpolation misses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def bilinear_kernels(factor: int) -> Tensor:
    """(factor², 3, 3): one kernel a sub-pixel, in PixelShuffle's order, that together interpolate bilinearly.

    Each pixel of a 3×3 picture is switched on in turn; what bilinear interpolation makes of it around the middle is its weight.
    """
    impulses = torch.eye(9).view(9, 1, 3, 3)
    wide = functional.interpolate(impulses, scale_factor=factor, mode="bilinear", align_corners=False)
    middle = wide[:, 0, factor : 2 * factor, factor : 2 * factor]
    return middle.reshape(9, factor**2).T.reshape(factor**2, 3, 3)
