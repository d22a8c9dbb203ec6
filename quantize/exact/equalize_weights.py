"""Equalize the columns of weights where activations have codes to spare, at 16 bits: weights then round less coarsely.

For s > 0 and any positively homogeneous f, as `quantize/exact/equalize.py` has it, W₂ f(W₁ x) = (W₂ S⁻¹) f(S W₁ x). The rows of W₁
have a scale of their own each, and lose nothing. Row o of W₂ is rounded in steps of max_c |w_oc| / 127, so that its output errs by

    (max_c |w_oc| / s_c)² · Σ_c s_c² E[x_c²] / (12 · 127²)

in the mean square. With s_c the largest |w_oc| of a column, beside its row's largest, all columns reach as far, and a channel that
is hardly weighed adds hardly any error. It is stored with fewer codes then: of 65536 it can spare them, of 256 it could not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.table import CalibrationTable
from export.graph.constants import constant_input
from quantize.exact.equalize import equalize, scalable_groups, shuffle_of, unfold

_SMALLEST = 2.0**-6  # ten bits are left of the sixteen

Numbers = NDArray[np.float64]


def equalize_weights(graph: ir.Graph, table: CalibrationTable) -> dict[str, Numbers]:
    """Rescale the weights of `graph` in place; its output stays what it was, up to rounding.

    Returns:
        What each channel was multiplied by, (C,), of the tensors whose channels `table` knows.
    """
    scales: dict[str, tuple[float, ...]] = {}
    factors: dict[str, Numbers] = {}
    for name, group in scalable_groups(graph).items():
        columns = [_columns(constant_input(reader, 1)) for reader in group.readers]
        if not columns or len({len(one) for one in columns}) != 1:
            continue
        largest = np.max(columns, axis=0)
        if not largest.any():
            continue
        scale = np.maximum(largest / largest.max(), _SMALLEST)
        scales[name] = tuple(scale.tolist())
        for tensor in group.tensors:
            channels = len(table.tensors[str(tensor.name)].channel_largest) if tensor.name in table.tensors else 0
            if channels:
                factors[str(tensor.name)] = unfold(scale, channels, shuffle_of(tensor))
    equalize(graph, scales)
    return factors


def scaled_ranges(table: CalibrationTable, factors: Mapping[str, Numbers]) -> dict[str, tuple[float, float]]:
    """(-m, m) of each tensor that has factors, m the largest magnitude that `table` says it now has."""
    largest = {name: float((np.asarray(table.tensors[name].channel_largest) * factor).max()) for name, factor in factors.items()}
    return {name: (-value, value) for name, value in largest.items()}


def _columns(weight: NDArray[np.float32]) -> Numbers:
    """(O, I, kH, kW) -> (I,): the largest |w| of each input channel, beside the largest of its row."""
    magnitudes = np.abs(weight.astype(np.float64)).max(axis=(2, 3))
    rows = magnitudes.max(axis=1, keepdims=True)
    relative: Numbers = (magnitudes / np.where(rows > 0, rows, 1)).max(axis=0)
    return relative
