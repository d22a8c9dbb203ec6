"""Observe a tensor's values in bounded memory: arrays in, minimum, maximum, a histogram and each channel's mean and max |x| out.

The histogram has a fixed number of equal bins over [-R, R), R a power of two. A value outside doubles R and merges bins in
pairs, so that no pass over the data is needed to know its range first, and no value is ever lost: a quantile is exact to one
bin, 2R / BINS ≤ 4 · max|x| / BINS.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

BINS = 1 << 15  # one bin is at most 1/8192 of the largest magnitude: 1/32 of a uint8 step over a one-sided range
_SPARSE = 0.35  # share of values that are not 0, up to which picking those out costs less than counting all
_GLANCE_EVERY = 16  # values, to estimate that share
_SLICE = 1 << 20  # values counted at a time, which bounds the copies of them; cv2 counts in float32, exact below 2**24


class HistogramObserver:
    """What one tensor's values were, over all the arrays shown to `update`."""

    def __init__(self) -> None:
        self.minimum = math.inf
        self.maximum = -math.inf
        self._reach = 0.0  # R of the module's docstring; 0 before the first value
        self._counts = np.zeros(BINS, np.int64)

    @property
    def count(self) -> int:
        return int(self._counts.sum())

    def update(self, array: NDArray[np.float32]) -> None:
        """Count every value of `array`, of any shape.

        Raises:
            ValueError: it holds NaN or infinity.
        """
        flat = np.ascontiguousarray(array, np.float32).reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("the tensor holds NaN or infinity")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self._widen(max(abs(low), abs(high)))
        for start in range(0, flat.size, _SLICE):
            self._count_filled(flat[start : start + _SLICE])

    def quantile(self, fraction: float) -> float:
        """Return the value below which `fraction` of all values lie, linear inside its bin and never outside the extremes.

        Raises:
            ValueError: nothing was observed.
        """
        cumulative = np.cumsum(self._counts)
        if not cumulative[-1]:
            raise ValueError("no value was observed")
        wanted = fraction * cumulative[-1]
        index = max(int(np.searchsorted(cumulative, wanted)), int(np.searchsorted(cumulative, 0, side="right")))
        index = min(index, BINS - 1)
        before = cumulative[index - 1] if index else 0
        inside = (wanted - before) / max(int(self._counts[index]), 1)
        width = 2 * self._reach / BINS
        return float(np.clip(-self._reach + (index + inside) * width, self.minimum, self.maximum))

    def histogram(self, most: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(values, counts) of the bins that hold anything, at most about `most`: middles of bins, and how much lay in each."""
        filled = np.flatnonzero(self._counts)
        merge = 1
        while filled.size and (filled[-1] - filled[0]) // merge > most:
            merge *= 2
        counts = self._counts.reshape(-1, merge).sum(axis=1)
        width = 2 * self._reach * merge / BINS
        kept = np.flatnonzero(counts)
        values = np.clip(-self._reach + (kept + 0.5) * width, self.minimum, self.maximum)
        return values, counts[kept].astype(np.float64)

    def _count_filled(self, values: NDArray[np.float32]) -> None:
        """Count zeros by their number and the rest by value: nine in ten of what a ReLU makes are zeros."""
        glance = values[::_GLANCE_EVERY]
        if np.count_nonzero(glance) > _SPARSE * glance.size:
            self._count(values)
            return
        filled = values[values != 0]
        self._counts[BINS // 2] += values.size - filled.size
        if filled.size:
            self._count(filled)

    def _count(self, values: NDArray[np.float32]) -> None:
        """Count in whole numbers: cv2 counts 16-bit codes more than twice as fast as floats, and floor(x · 2^k) rounds nothing."""
        bins = values * np.float32(BINS / 2 / self._reach)
        np.floor(bins, out=bins)
        bins += BINS // 2
        codes = bins.astype(np.uint16).reshape(1, -1)
        self._counts += cv2.calcHist([codes], [0], None, [BINS], [0, BINS]).reshape(-1).astype(np.int64)

    def _widen(self, magnitude: float) -> None:
        """Double R until `magnitude` lies inside, merging bins about zero."""
        if self._reach == 0.0:
            self._reach = 2.0 ** (math.frexp(max(magnitude, 2.0**-100))[1])
        while self._reach <= magnitude:
            merged = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts = np.zeros(BINS, np.int64)
            self._counts[BINS // 4 : BINS // 4 + BINS // 2] = merged
            self._reach *= 2


class ChannelObserver:
    """The mean and the largest magnitude of each channel of one tensor, over all the arrays shown to `update`."""

    def __init__(self) -> None:
        self.largest: NDArray[np.float64] = np.zeros(0)
        self._sum: NDArray[np.float64] = np.zeros(0)
        self._count = 0

    @property
    def mean(self) -> NDArray[np.float64]:
        return self._sum / max(self._count, 1)

    def update(self, array: NDArray[np.float32]) -> None:
        """Take note of `array`, (N, C, H, W)."""
        shape = array.shape[:2]
        rows = np.ascontiguousarray(array, np.float32).reshape(shape[0] * shape[1], -1)
        magnitude = np.abs([rows.min(axis=1), rows.max(axis=1)]).reshape(2, *shape).max(axis=(0, 1))
        sums = cv2.reduce(rows, 1, cv2.REDUCE_SUM, dtype=cv2.CV_64F).reshape(shape).sum(axis=0)
        self.largest = np.maximum(self.largest, magnitude) if self.largest.size else magnitude.astype(np.float64)
        self._sum = sums + (self._sum if self._sum.size else 0.0)
        self._count += array.size // array.shape[1]
