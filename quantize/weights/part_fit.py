"""Gather what a layer is fitted on: what it reads where it is sampled in, products and errors of each of its parts out.

With X windows of what the layer reads, positions in rows, and Y what is wanted of it there, a part is fitted by X^T X and X^T Y,
and weights W err by

    ‖X W - Y‖² = Wᵀ (XᵀX) W - 2 Wᵀ XᵀY + YᵀY    of each output, where they are judged on what they were fitted on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quantize.graph.layers import bias_gain
from quantize.graph.walk import Array
from quantize.weights.layer_parts import Part, windows_at
from quantize.weights.layer_sample import LayerSample

_PLENTY = 20  # windows for each unknown: what is learned from them holds for others to a twentieth
_HELD_BACK_EVERY = 4  # crops, where there are fewer: what was fitted on the others is judged on every fourth

Numbers = NDArray[np.float64]
Sample = Sequence[tuple[Array, Array]]
"""Windows (S, K + 1), last what the bias is multiplied by, and the outputs (S, O) wanted for them: in float32, crop by crop, since
all of them in float64 are what memory would be needed for most."""


@dataclass(frozen=True)
class Fit:
    """What a part is fitted on, and what it is judged by.

    Attributes:
        held_back: None where that is the sample that it is fitted on.
        hessian, cross, power: X^T X (K + 1, K + 1), X^T Y (K + 1, O) and the diagonal of Y^T Y (O,) of `fitted_on`.
    """

    part: Part
    fitted_on: Sample
    held_back: Sample | None
    hessian: Numbers
    cross: Numbers
    power: Numbers

    def errors(self, matrix: Numbers) -> Numbers:
        """(O,): ‖X W - Y‖² of each output with weights `matrix`, on what the part is judged by."""
        if self.held_back is None:
            quadratic: Numbers = np.einsum("ko,ko->o", matrix, self.hessian @ matrix - 2 * self.cross)
            return quadratic + self.power
        return np.asarray(sum(np.square(residual).sum(axis=0) for residual in _residuals(self.held_back, matrix)))


def gather_fits(node: ir.Node, given: Iterable[Array], sample: LayerSample) -> list[Fit]:
    """Windows where each part is sampled, to fit on and to choose by; what is `given` is held crop by crop."""
    gain = np.float32(bias_gain(node))
    windows: list[list[Array]] = [[] for _ in sample.parts]
    for crop, source in enumerate(given):
        for one, found in zip(sample.parts, windows, strict=True):
            read = windows_at(node, one.part, source, one.places[crop])
            found.append(np.append(read, np.full((len(read), 1), gain), axis=1))
    return [_fit(one.part, list(zip(found, one.wanted, strict=True))) for one, found in zip(sample.parts, windows, strict=True)]


def _fit(part: Part, samples: Sample) -> Fit:
    """What to fit on and what to choose by: the same where there is plenty, else of other crops."""
    if sum(len(windows) for windows, _ in samples) >= _PLENTY * (len(part.index) + 1):
        return Fit(part, samples, None, *_products(samples))
    if len(samples) < _HELD_BACK_EVERY:
        samples = [
            (windows[start::_HELD_BACK_EVERY], targets[start::_HELD_BACK_EVERY])
            for windows, targets in samples
            for start in range(_HELD_BACK_EVERY)
        ]
    fitted_on = [sample for index, sample in enumerate(samples) if (index + 1) % _HELD_BACK_EVERY]
    return Fit(part, fitted_on, samples[_HELD_BACK_EVERY - 1 :: _HELD_BACK_EVERY], *_products(fitted_on))


def _products(sample: Sample) -> tuple[Numbers, Numbers, Numbers]:
    """X^T X, X^T Y and the diagonal of Y^T Y, in float64."""
    unknowns, outputs = sample[0][0].shape[1], sample[0][1].shape[1]
    hessian, cross, power = np.zeros((unknowns, unknowns)), np.zeros((unknowns, outputs)), np.zeros(outputs)
    for given, wanted in sample:
        windows, targets = given.astype(np.float64), wanted.astype(np.float64)
        hessian += windows.T @ windows
        cross += windows.T @ targets
        power += np.square(targets).sum(axis=0)
    return hessian, cross, power


def _residuals(sample: Sample, matrix: Numbers) -> Iterator[Numbers]:
    """Yield Y - X W, (S, O), crop by crop."""
    for windows, targets in sample:
        yield targets - windows.astype(np.float64) @ matrix


def mean_residual(sample: Sample, matrix: Numbers) -> Numbers:
    total = np.asarray(sum(residual.sum(axis=0) for residual in _residuals(sample, matrix)))
    return np.asarray(total / sum(len(windows) for windows, _ in sample))
