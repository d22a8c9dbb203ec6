"""Choose the matrices that mix_channels.py mixes channels by: a graph and crops in, one matrix per group of tensors out.

A tensor x has one scale for all its channels, so that rounding adds noise of variance r² / (12 · 255²) to each, r the width of the
range of A x. What that costs the picture y is, over the tensors t of a group,

    J(A) = Σ_t r_t(A)² · tr(A⁻ᵀ M_t A⁻¹),    M_t = Σ_s (∂y / ∂x_t(s))ᵀ (∂y / ∂x_t(s)).

A good A carries what the picture depends on in many channels, whose rounding errors then average out, with none of them far wider
than the others. Adam minimises J (Kingma & Ba 2015, arXiv 1412.6980), r being a p-norm of values (`quantize/exact/noise_cost.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from quantize.exact.mix_channels import Matrices, Numbers, mixable_groups
from quantize.exact.noise_cost import measure_noise_cost
from quantize.graph.walk import Array

_STEPS = 400
_RATE = 0.02  # of A, whose rows begin with length 1
_BETAS = (0.9, 0.99)
_NORM = 8  # p: the largest of some thousand values say what the range is, and yet many have a gradient
_SAMPLES = 6_000  # pixels that a group's ranges are judged on, over all of its tensors
_FLOOR = 1e-2  # of the largest value, and of M: what a channel counts for that says nothing
_FEWEST_CHANNELS = 8  # among which to average; three are a picture with its mean taken off
_MOST_TENSORS = 12  # of a group that are measured, evenly: each of 23 blocks is much like the next


def choose_matrices(model: ir.Model, crops: Sequence[Array]) -> Matrices:
    """Return a for each group of the fp32 `model` that can be mixed, measured on `crops`, (1, C, H, W) each.

    Six digits of each entry.
    """
    groups = {name: group for name, group in mixable_groups(model.graph).items() if group.channels >= _FEWEST_CHANNELS}
    wanted = {name: _evenly([str(value.name) for value in group.tensors]) for name, group in groups.items()}
    measured = measure_noise_cost(model, [tensor for tensors in wanted.values() for tensor in tensors], crops)
    chosen = {}
    for name, tensors in wanted.items():
        found = [measured[tensor] for tensor in tensors if tensor in measured]
        if found:
            budget = max(1, _SAMPLES // len(found))
            matrix = minimise([one.widest(budget) for one in found], [one.gram() for one in found])
            chosen[name] = tuple(tuple(float(f"{entry:.6g}") for entry in row) for row in matrix)
    return chosen


def minimise(samples: Sequence[Numbers], grams: Sequence[Numbers]) -> Numbers:
    """Return the (C, C) matrix of least J, with determinant 1 or -1; values (C, S) and M (C, C) of each tensor are given."""
    count = len(grams[0])
    identity = np.eye(count)
    values = [np.concatenate([given, _FLOOR * np.abs(given).max(initial=1e-12) * identity], axis=1) for given in samples]
    weights = [gram + _FLOOR * np.trace(gram) / count * identity for gram in grams]
    matrix, mean, square = _spread(count), np.zeros((count, count)), np.zeros((count, count))
    for step in range(_STEPS):
        slope = _slope(matrix, values, weights)
        mean += (1 - _BETAS[0]) * (slope - mean)
        square += (1 - _BETAS[1]) * (slope**2 - square)
        unbiased = mean / (1 - _BETAS[0] ** (step + 1)), square / (1 - _BETAS[1] ** (step + 1))
        matrix = matrix - _RATE * (1 - step / _STEPS) * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-12)
    normed: Numbers = matrix * np.exp(-np.linalg.slogdet(matrix)[1] / count)
    return normed


def _slope(matrix: Numbers, values: Sequence[Numbers], weights: Sequence[Numbers]) -> Numbers:
    """∂ log J / ∂A."""
    inverse = np.linalg.inv(matrix)
    spread = inverse @ inverse.T
    total, slope = 0.0, np.zeros_like(matrix)
    for given, weight in zip(values, weights, strict=True):
        mixed = matrix @ given
        largest, middle = _ends(mixed)
        shares = np.abs(mixed - middle) / largest
        power_sum = float((shares**_NORM).sum())
        width, cost = largest * power_sum ** (1 / _NORM), float((weight * spread).sum())
        by_width = power_sum ** (1 / _NORM - 1) * (shares ** (_NORM - 1) * np.sign(mixed - middle)) @ given.T
        total += width**2 * cost
        slope += 2 * width * cost * by_width - 2 * width**2 * inverse.T @ weight @ spread
    return slope / total


def _ends(mixed: Numbers) -> tuple[float, float]:
    """Half of the range's width, and its middle."""
    low, high = float(mixed.min()), float(mixed.max())
    return (high - low) / 2, (high + low) / 2


def _spread(count: int) -> Numbers:
    """Return an orthogonal matrix whose entries are all of much the same size.

    The discrete cosine transform (DCT-II), transposed.
    """
    angles = np.pi / count * np.outer(np.arange(count) + 0.5, np.arange(count))
    matrix: Numbers = np.sqrt(2 / count) * np.cos(angles)
    matrix[:, 0] /= np.sqrt(2)
    return matrix


def _evenly(names: Sequence[str]) -> Sequence[str]:
    """Return the first, the last, and as many between as are measured."""
    if len(names) <= _MOST_TENSORS:
        return names
    return [names[index] for index in np.linspace(0, len(names) - 1, _MOST_TENSORS).round().astype(int)]
