"""Choose the range that makes rounding to 8 bits cost least: a histogram in, (low, high) out.

The cost is the mean squared error or the Kullback-Leibler divergence.

MSE:      the range whose rounding and clipping minimise Σ n_i (Q(x_i) - x_i)²
entropy:  the threshold t that minimises KL(P ‖ Q), P the histogram of |x| up to t with all beyond counted at t, Q the same in
          as many steps as a code has (Migacz, "8-bit inference with TensorRT", GTC 2017)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.observers import HistogramObserver

Range = tuple[float, float]
_MSE_BINS = 4096  # 16 a step over a one-sided range: the error's own rounding stays under a hundredth of it
_ENTROPY_BINS = 2048
_ENTROPY_STRIDE = 8  # bins between thresholds tried
_SHARES = np.linspace(1.0, 0.2, 81)  # of the extreme, tried as an end of the range
_TINY = 1e-12


@dataclass(frozen=True)
class Codes:
    """The codes of an 8-bit scheme: `steps` from one end of a range to the other, or to either side of zero where symmetric."""

    symmetric: bool

    @property
    def steps(self) -> int:
        return 127 if self.symmetric else 255


def mse_range(observer: HistogramObserver, codes: Codes) -> Range:
    """(low, high) of least mean squared error; symmetric about zero where the codes are."""
    values, counts = observer.histogram(_MSE_BINS)
    low, high = min(observer.minimum, 0.0), max(observer.maximum, 0.0)
    if codes.symmetric:
        largest = max(-low, high)
        return min(((-share * largest, share * largest) for share in _SHARES), key=lambda ends: _error(values, counts, ends, codes))
    best = min(((low * share, high * share) for share in _SHARES), key=lambda ends: _error(values, counts, ends, codes))
    if low == 0.0 or high == 0.0:
        return best
    best = min(((best[0], high * share) for share in _SHARES), key=lambda ends: _error(values, counts, ends, codes))
    return min(((low * share, best[1]) for share in _SHARES), key=lambda ends: _error(values, counts, ends, codes))


def entropy_range(observer: HistogramObserver, codes: Codes) -> Range:
    """(low, high), neither further from zero than the threshold of least divergence."""
    values, counts = observer.histogram(2 * _ENTROPY_BINS)
    largest = max(-observer.minimum, observer.maximum)
    magnitudes = np.minimum((np.abs(values) / max(largest, _TINY) * _ENTROPY_BINS).astype(int), _ENTROPY_BINS - 1)
    folded = np.bincount(magnitudes, counts, _ENTROPY_BINS).astype(np.float64)
    two_sided = codes.symmetric or observer.minimum < 0.0 < observer.maximum
    bins = _least_divergence(folded, levels=128 if two_sided else 256)
    threshold = largest * bins / _ENTROPY_BINS
    if codes.symmetric:
        return -threshold, threshold
    return max(min(observer.minimum, 0.0), -threshold), min(max(observer.maximum, 0.0), threshold)


def _error(values: NDArray[np.float64], counts: NDArray[np.float64], ends: Range, codes: Codes) -> float:
    low, high = ends
    scale = max(high, -low) / codes.steps if codes.symmetric else (high - low) / codes.steps
    if scale <= 0.0:
        return float(counts @ np.square(values))
    first = -codes.steps if codes.symmetric else round(low / scale)
    last = codes.steps if codes.symmetric else first + codes.steps
    rounded = np.clip(np.rint(values / scale), first, last) * scale
    return float(counts @ np.square(rounded - values))


def _least_divergence(counts: NDArray[np.float64], *, levels: int) -> int:
    """Return how many of the bins are kept by the threshold of least KL(P ‖ Q), of those tried.

    Q is the same in all filled bins of a level, so that Σ p log q is a sum over levels, not bins, and cumulated counts give the
    levels of all thresholds at once.
    """
    sizes = np.arange(levels, len(counts) + 1, _ENTROPY_STRIDE)
    starts = -(-np.arange(levels + 1) * sizes[:, np.newaxis] // levels)  # of levels: bin i is in i · levels // size
    total, filled = counts.sum(), counts > 0
    masses, bins = np.diff(_cumulated(counts)[starts]), np.diff(_cumulated(filled)[starts])
    within = masses.sum(axis=1)
    q = masses / np.maximum(bins, 1) / np.maximum(within, _TINY)[:, np.newaxis]
    q_last = np.where(filled[sizes - 1], q[:, -1], 0.0)
    beyond = total - within  # counted in the last bin, whatever Q is there
    cross = np.sum(masses * np.log(np.maximum(q, _TINY)), axis=1) + beyond * np.log(np.maximum(q_last, _TINY))
    own = _cumulated(_times_log(counts / total))[sizes - 1] + _times_log((counts[sizes - 1] + beyond) / total)
    return int(sizes[np.argmin(own - cross / total)])


def _cumulated(values: NDArray[Any]) -> NDArray[Any]:
    """Sums of the first 0, 1, … of `values`."""
    return np.concatenate([[0], np.cumsum(values)])


def _times_log(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """p log p, 0 at 0."""
    return p * np.log(np.where(p > 0, p, 1.0))
