"""Round weights so that their errors cancel: a convolution's weights in steps in, integers next to them out; no pictures needed.

With e = q - w the rounding errors, in steps, of the taps k of output channel o over input channel i,

    |Σ_k e_oik| <= 1/2  for every kernel,    then    |Σ_ik e_oik| <= 1/2  for every output channel

where each is reached by rounding those weights the other way that were nearest to it (Guo et al. 2022, arXiv 2202.07471, SQuant).
Where a picture is smooth a kernel multiplies all its taps by nearly the same number, so that only the sum of their errors is seen,
as a change of brightness; and what is behind a ReLU is never negative, so that errors of its channels add up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def round_cancelling(steps: Numbers, *, largest: int) -> Numbers:
    """(O, I, K) weights in steps -> integers, none of them a whole step from its weight, from -`largest` to `largest`."""
    rounded = np.rint(steps)
    errors = rounded - steps
    rounded -= _flips(errors, np.rint(errors.sum(axis=2, keepdims=True)))
    errors = rounded - steps
    kernels = errors.sum(axis=2)
    turned = _flips(kernels, np.rint(kernels.sum(axis=1, keepdims=True)))
    rounded -= _flips(errors, turned[..., np.newaxis])  # of these kernels one more weight, the one that suits best
    return np.clip(rounded, -largest, largest)


def _flips(errors: Numbers, count: Numbers) -> Numbers:
    """(..., K) errors, (..., 1) how many -> 1 at the largest, or as -1 at the least where `count` is negative; 0 elsewhere."""
    rank = np.argsort(np.argsort(-errors * np.sign(count), axis=-1, kind="stable"), axis=-1, kind="stable")
    return np.where(rank < np.abs(count), np.sign(count), 0.0)
