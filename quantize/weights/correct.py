"""Correct a layer's bias: subtract from it what rounding the weights adds to the output on average.

    E[W_q * x] - E[W * x] = Σ_i (Σ_hw (W_q - W)_oihw) · E[x_i]

(Nagel et al. 2019, arXiv 1906.04721, section 4.2, with means that calibration measured.) Activations behind a ReLU are never
negative, so that rounding errors of weights do not cancel: they shift whole colours. A weight in float, the rounded one and the
input channels' means go in, the corrected bias comes out. A ConvTranspose spreads its taps over the phases of its stride: an output
pixel meets one in stride² of them, and the sum is divided by that.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.attributes import attribute
from quantize.graph.layers import output_axis

Numbers = NDArray[np.float64]


def mean_error(layer: ir.Node, error: Numbers, channel_means: Numbers) -> Numbers:
    """(O,): by how much the mean of each output channel of `layer` moves.

    Args:
        error: rounded weights less the exact ones, as the weight lies.
        channel_means: (I,) of the input.
    """
    groups = attribute(layer, "group", 1) if layer.op_type in ("Conv", "ConvTranspose") else 1
    outputs_first = np.moveaxis(error, output_axis(layer), 0)
    summed = outputs_first.reshape(*outputs_first.shape[:2], -1).sum(axis=2)
    if layer.op_type == "ConvTranspose":  # (O/g, I) -> (g, O/g, I/g)
        by_group = summed.reshape(len(summed), groups, -1).transpose(1, 0, 2)
        gain = 1 / math.prod(attribute(layer, "strides", (1, 1)))
    else:
        by_group = summed.reshape(groups, -1, summed.shape[1])
        gain = float(attribute(layer, "alpha", 1.0)) if layer.op_type == "Gemm" else 1.0
    moved: Numbers = gain * np.einsum("goi,gi->go", by_group, channel_means.reshape(groups, -1)).ravel()
    return moved
