"""Compute PSNR from a mean squared error, and luma from RGB: the two formulas that every measurement shares.

PSNR = 10 log10(peak² / MSE)        Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255,  ITU-R BT.601 as MATLAB's rgb2ycbcr has it
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_LUMA = np.array([65.481, 128.553, 24.966]) / 255


def psnr_of(square_error: float, *, peak: float = 1.0) -> float:
    """Return the PSNR of a mean squared error, in dB; infinite where the error is 0.

    Args:
        square_error: mean of the squared differences, in the unit of `peak`, squared.
        peak: the largest value there can be: 255 for 8-bit pictures.
    """
    return math.inf if square_error == 0 else 10 * math.log10(peak**2 / square_error)


def luma(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """(…, 3) RGB in [0, 255] -> (…) luma in [16, 235], rounded to whole numbers."""
    rounded: NDArray[np.float64] = np.rint(16 + rgb @ _LUMA)
    return rounded
