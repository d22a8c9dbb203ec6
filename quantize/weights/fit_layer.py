"""Round a layer's weights so that its output changes least: weights and the layer's inputs in, int8 weights out.

Rounding each weight to its nearest step changes the output more.

With X what the layer is given in the quantized network, Y what it makes in the fp32 one, positions in rows, weights in columns:

    W  = argmin ‖X W - Y‖² + λ ‖W - W₀‖²                     makes up for what rounding did to the layers before
    Q  ← weight by weight: round w_k, and let the weights not yet rounded take on its error,
         W_j -= (w_k - q_k) / L_kk · L_kj,   j > k,   L = chol(H⁻¹),  H = XᵀX + λ I

(Frantar & Alistarh 2022, arXiv 2208.11580; Frantar et al. 2023, arXiv 2210.17323; a convolution is a product with its windows).
What a network sees is smooth and never negative, so that the errors of a window's weights can cancel almost wholly. The bias, which
is not rounded, comes last and takes what is left on the average.

A layer is as many such products as it has groups, or phases of a ConvTranspose (`quantize/weights/layer_parts.py`); a channel has
one scale and one bias in all of them.

Where a channel's scale ends is tried, and so is leaving W as it was, rounded without pictures (`unfitted.py`); channel by channel
the one stays that errs least, or of the whole layer where it has one scale. A layer of so many weights that its sample could be
fitted whatever it is of is judged on windows of other pictures, which are held back: the last one of SRGAN, 9×9 over 64 channels,
cost more than if it had not been rounded so at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.constants import constant_input
from quantize.graph.layers import along, bias_gain, output_axis
from quantize.graph.qdq import RoundedWeight, storable_scale
from quantize.graph.walk import Array
from quantize.weights.layer_parts import Part
from quantize.weights.layer_sample import LayerSample
from quantize.weights.part_fit import Fit, Numbers, gather_fits, mean_residual
from quantize.weights.unfitted import one_or_each, round_unfitted, smallest_scale
from runtime.targets import Target

_DAMPING = 3e-3  # λ, of the mean of H's diagonal: as much as noise in the sample deserves
_SHRINKS = (1.0, 0.9, 0.8)  # of the largest weight, tried as the end of a channel's scale


@dataclass(frozen=True)
class _Candidate:
    """A layer's weight in float, in its own layout, in steps of a scale for each output channel (O,); and its bias (O,)."""

    weight: Numbers
    scale: Numbers
    bias: Numbers


def round_weight(weight: Numbers, hessian: Numbers, scales: Sequence[Numbers], *, largest: int = 127) -> Iterator[Numbers]:
    """(K, O) weights, the last row the bias, and H (K, K) -> for each of `scales` (O,), the same rounded to its steps.

    Codes go from -`largest` to `largest`; the last row is not rounded.
    """
    order = np.append(np.argsort(-np.diag(hessian)[:-1], kind="stable"), len(hessian) - 1)
    factor = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    for scale in scales:
        working = weight[order].copy()
        for k in range(len(order) - 1):
            rounded = np.clip(np.rint(working[k] / scale), -largest, largest) * scale
            missed = (working[k] - rounded) / factor[k, k]
            working[k + 1 :] -= np.outer(factor[k, k + 1 :], missed)
            working[k] = rounded
        restored = np.empty_like(working)
        restored[order] = working
        yield restored


def fit_layer(node: ir.Node, given: Iterable[Array], sample: LayerSample, *, target: Target, input_scale: float) -> RoundedWeight:
    """Return `node` rounded so that of the inputs `given`, crop by crop, it makes what is wanted of it where it is sampled."""
    fits = gather_fits(node, given, sample)
    nearest = round_unfitted(node, target, input_scale=input_scale)
    outputs, axis = len(nearest.bias), output_axis(node)
    best, error = None, np.full(outputs, np.inf)
    for tried in _candidates(node, fits, nearest, target=target, input_scale=input_scale):
        missed = np.zeros(outputs)
        for fit in fits:
            missed[fit.part.outputs] += fit.errors(_matrix(fit.part, tried))
        better = missed < error if target.weight_per_channel else np.full(outputs, missed.sum() < error.sum())
        error = np.where(better, missed, error)
        best = tried if best is None else _chosen(better, tried, best, axis)
    assert best is not None
    integers = np.rint(best.weight / along(best.scale, best.weight.ndim, axis)).astype(np.int8)
    return RoundedWeight(integers, best.scale.astype(np.float32), best.bias)


def _candidates(
    node: ir.Node, fits: Sequence[Fit], nearest: RoundedWeight, *, target: Target, input_scale: float
) -> Iterator[_Candidate]:
    """Yield `nearest` with its bias corrected, then weights that are fitted and rounded to the steps of some scales."""
    axis, scale = output_axis(node), nearest.scale.astype(np.float64)
    weight = nearest.weight * along(scale, nearest.weight.ndim, axis)
    plain = _Candidate(weight, scale, nearest.bias)
    gain = bias_gain(node)
    missing = _mean_of_parts([mean_residual(fit.fitted_on, _matrix(fit.part, plain)) for fit in fits], fits, len(plain.bias))
    yield _Candidate(weight, scale, plain.bias + (missing / gain if gain else 0.0))
    exact = _Candidate(constant_input(node, 1).astype(np.float64), scale, nearest.bias)
    systems = [_fitted(fit, _matrix(fit.part, exact)) for fit in fits]
    largest, fitted_bias = np.zeros(len(scale)), np.zeros(len(scale))
    for fit, (_, fitted) in zip(fits, systems, strict=True):
        channels = fit.part.outputs
        largest[channels] = np.maximum(largest[channels], np.abs(fitted[:-1]).max(axis=0))
        fitted_bias[channels] = np.maximum(fitted_bias[channels], np.abs(fitted[-1]))
    finest = one_or_each(np.maximum(largest / target.largest_weight, 2 * smallest_scale(fitted_bias, input_scale)), target)
    scales = [storable_scale(finest * shrink, target).astype(np.float64) for shrink in _SHRINKS]
    rounds = [
        list(round_weight(fitted, hessian, [tried[fit.part.outputs] for tried in scales], largest=target.largest_weight))
        for fit, (hessian, fitted) in zip(fits, systems, strict=True)
    ]
    for tried, *matrices in zip(scales, *rounds, strict=True):
        flat = np.zeros(weight.size)
        for fit, matrix in zip(fits, matrices, strict=True):
            flat[fit.part.index] = matrix[:-1]
        bias = _mean_of_parts([matrix[-1] for matrix in matrices], fits, len(plain.bias))
        yield _Candidate(flat.reshape(weight.shape), tried, bias)


def _fitted(fit: Fit, before: Numbers) -> tuple[Numbers, Numbers]:
    """H (K + 1, K + 1) and W (K + 1, O) of the module's docstring."""
    damping = max(_DAMPING * np.diag(fit.hessian).mean(), np.finfo(np.float64).tiny ** 0.5)
    hessian = fit.hessian + damping * np.eye(len(fit.hessian))
    return hessian, np.linalg.solve(hessian, fit.cross + damping * before)


def _matrix(part: Part, layer: _Candidate) -> Numbers:
    """(K + 1, O): the weights of `part`, the bias last."""
    return np.concatenate([layer.weight.ravel()[part.index], layer.bias[np.newaxis, part.outputs]])


def _mean_of_parts(values: Sequence[Numbers], fits: Sequence[Fit], outputs: int) -> Numbers:
    """(O,): of values for the outputs of each part, the mean over the parts that an output has."""
    total, count = np.zeros(outputs), np.zeros(outputs)
    for value, fit in zip(values, fits, strict=True):
        total[fit.part.outputs] += value
        count[fit.part.outputs] += 1
    mean: Numbers = total / np.maximum(count, 1)
    return mean


def _chosen(better: NDArray[np.bool_], tried: _Candidate, best: _Candidate, axis: int) -> _Candidate:
    """Channel by channel the one or the other."""
    return _Candidate(
        np.where(along(better, best.weight.ndim, axis), tried.weight, best.weight),
        np.where(better, tried.scale, best.scale),
        np.where(better, tried.bias, best.bias),
    )
