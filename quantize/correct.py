"""Bias correction: what rounding the weights adds to a convolution's output on the average is taken off its bias.

    E[W_q * x] - E[W * x] = Σ_i (Σ_hw W_q - W)_oi · E[x_i]

(Nagel et al. 2019, arXiv 1906.04721, section 4.2, with means that calibration measured.) Activations behind a ReLU are never
negative, so that rounding errors of weights do not cancel: they shift whole colours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mean_error(
    weight: NDArray[np.float32], quantized: NDArray[np.int8], scale: NDArray[np.float32], channel_means: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(O,): by how much each output channel's mean moves; weights (O, I, kH, kW), `scale` (O,), means of the input (I,)."""
    error = quantized * scale.reshape(-1, 1, 1, 1).astype(np.float64) - weight
    moved: NDArray[np.float64] = error.sum(axis=(2, 3)) @ channel_means
    return moved
