"""Ranges of least loss, against brute force over the values themselves and the search for a threshold written out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration.observers import BINS, HistogramObserver
from calibration.optimal_ranges import Codes, Range, entropy_range, mse_range

SYMMETRIC, ASYMMETRIC = Codes(symmetric=True), Codes(symmetric=False)
EACH_SCHEME = pytest.mark.parametrize("codes", [SYMMETRIC, ASYMMETRIC], ids=["symmetric", "asymmetric"])
MSE_BINS = 4096
SHARES = np.linspace(0.2, 1.0, 81)
BINS_OF_ENTROPY = 2048
quick = settings(max_examples=15)
Values = NDArray[np.float32]
Search = Callable[[HistogramObserver, Codes], Range]

SHAPES: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "normal": lambda rng: rng.normal(size=4000),
    "laplace": lambda rng: rng.laplace(size=4000),
    "heavy-tailed": lambda rng: rng.standard_t(3, size=4000),
    "rectified": lambda rng: np.maximum(rng.normal(size=4000), 0),
    "negative": lambda rng: -rng.exponential(size=4000),
    "skewed": lambda rng: rng.exponential(size=4000) - 0.3,
    "uniform": lambda rng: rng.uniform(-1, 1, size=4000),
}
EACH_SHAPE = pytest.mark.parametrize("shape", SHAPES)


def _draw(shape: str, seed: int, magnitude: float = 1.0) -> Values:
    values: Values = (SHAPES[shape](np.random.default_rng(seed)) * magnitude).astype(np.float32)
    return values


def _observe(values: Values) -> HistogramObserver:
    observer = HistogramObserver()
    observer.update(values)
    return observer


# Mean squared error


def _rms_error(values: Values, ends: Range, codes: Codes) -> float:
    """How far `values` are from the nearest code, as a root mean square: 255 steps between the ends, zero among them."""
    low, high = ends
    if codes.symmetric:
        scale = max(high, -low) / 127
        points = np.arange(-127, 128) * scale
    else:
        scale = (high - low) / 255
        points = (np.arange(256) + round(low / scale)) * scale
    after = np.clip(np.searchsorted(points, values), 1, len(points) - 1)
    distance = np.minimum(np.abs(values - points[after]), np.abs(values - points[after - 1]))
    return float(np.sqrt(np.mean(np.square(distance, dtype=np.float64))))


def _bin_width(values: Values) -> float:
    """The widest bin that values may have been merged into: half of the bins asked for, or the observer's own."""
    reach = float(np.abs(values).max())
    return max(2 * float(values.max() - values.min()) / MSE_BINS, 4 * reach / BINS)


def _ends(values: Values, codes: Codes) -> Range:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    return (-max(-low, high), max(-low, high)) if codes.symmetric else (low, high)


def _assert_no_worse(values: Values, found: Range, others: list[Range], codes: Codes) -> None:
    """No value is further than half a bin from its bin's middle, nor is its distance to a code: once for each of the two ranges."""
    best = min(others, key=lambda ends: _rms_error(values, ends, codes))
    assert _rms_error(values, found, codes) <= _rms_error(values, best, codes) + _bin_width(values), f"{found} against {best}"


@EACH_SCHEME
@EACH_SHAPE
@quick
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-10, 10))
def test_no_narrower_range_has_less_squared_error(shape: str, codes: Codes, seed: int, exponent: int) -> None:
    values = _draw(shape, seed, 1.7**exponent)
    low, high = _ends(values, codes)

    found = mse_range(_observe(values), codes)

    _assert_no_worse(values, found, [(low * share, high * share) for share in SHARES], codes)


@EACH_SHAPE
@quick
@given(seed=st.integers(0, 2**32 - 1))
def test_no_other_lower_end_has_less_squared_error(shape: str, seed: int) -> None:
    values = _draw(shape, seed)
    low, _ = _ends(values, ASYMMETRIC)

    found = mse_range(_observe(values), ASYMMETRIC)

    _assert_no_worse(values, found, [(low * share, found[1]) for share in SHARES], ASYMMETRIC)


@EACH_SHAPE
def test_hardly_any_pair_of_ends_has_less_squared_error(shape: str) -> None:
    """One end after the other is not all pairs: that costs these shapes less than a hundredth."""
    values = _draw(shape, 0)
    low, high = _ends(values, ASYMMETRIC)

    found = mse_range(_observe(values), ASYMMETRIC)

    pairs = [(low * one, high * other) for one in SHARES[::2] for other in SHARES[::2]]
    best = min(_rms_error(values, ends, ASYMMETRIC) for ends in pairs)
    assert _rms_error(values, found, ASYMMETRIC) <= 1.01 * best + _bin_width(values)


@pytest.mark.parametrize("search", [mse_range, entropy_range])
@EACH_SCHEME
@EACH_SHAPE
@quick
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-30, 30))
def test_a_range_lies_within_the_extremes_and_holds_zero(
    shape: str, codes: Codes, search: Search, seed: int, exponent: int
) -> None:
    values = _draw(shape, seed, 1.7**exponent)

    low, high = search(_observe(values), codes)

    widest = _ends(values, codes)
    assert widest[0] <= low <= 0.0 <= high <= widest[1]
    assert low < high


@pytest.mark.parametrize("search", [mse_range, entropy_range])
@EACH_SHAPE
@quick
@given(seed=st.integers(0, 2**32 - 1))
def test_symmetric_codes_get_a_symmetric_range(shape: str, search: Search, seed: int) -> None:
    low, high = search(_observe(_draw(shape, seed)), SYMMETRIC)

    assert low == -high


@pytest.mark.parametrize("search", [mse_range, entropy_range])
@EACH_SCHEME
def test_values_that_are_all_zero_have_a_range_of_zero(codes: Codes, search: Search) -> None:
    assert search(_observe(np.zeros(10, np.float32)), codes) == (0.0, 0.0)


@EACH_SCHEME
def test_a_range_clips_one_outlier_among_many_as_far_as_that_costs_less(codes: Codes) -> None:
    count, outlier = 400_000, 3.0
    values = np.append(np.random.default_rng(0).uniform(0, 1, count), outlier).astype(np.float32)

    _, high = mse_range(_observe(values), codes)

    # An end t costs the outlier (3 - t)², and each of the others (t / steps)² / 12 on the average.
    wanted = outlier / (1 + count / (12 * codes.steps**2))
    assert high == pytest.approx(wanted, abs=0.05 * outlier)


# Entropy


def _divergence(counts: Sequence[int], kept: int, levels: int) -> float:
    """KL(P ‖ Q) for the first `kept` bins, as Migacz's slides have it (GTC 2017, "Pseudocode: for i in range(128, 2048)")."""
    reference = list(counts[:kept])
    reference[-1] += sum(counts[kept:])
    steps: list[list[int]] = [[] for _ in range(levels)]
    for index in range(kept):
        steps[index * levels // kept].append(index)
    expanded = [0.0] * kept
    for step in steps:
        filled = [index for index in step if counts[index]]
        for index in filled:
            expanded[index] = sum(counts[other] for other in step) / len(filled)
    total, total_expanded = sum(reference), sum(expanded)
    divergence = 0.0
    for wanted, got in zip(reference, expanded, strict=True):
        if wanted:
            p = wanted / total
            divergence += p * math.log(p / max(got / max(total_expanded, 1e-12), 1e-12))
    return divergence


def _divergences(counts: Sequence[int], levels: int) -> dict[int, float]:
    """By how many bins are kept."""
    return {kept: _divergence(counts, kept, levels) for kept in range(levels, BINS_OF_ENTROPY + 1, 8)}


def _values_of(counts: NDArray[np.int64], signs: tuple[int, ...], exponent: int) -> Values:
    """Values in 2048 equal bins of |x|, where a histogram's bins, a power of two wide, lie wholly in one of them."""
    # The last, and largest, is 2047.75, three quarters into its bin: all that a bin of the histogram moves by is less than that.
    magnitudes = np.repeat(np.arange(BINS_OF_ENTROPY) + 0.75, counts) * 2.0 ** (exponent - 11)
    values: Values = (magnitudes * np.resize(signs, len(magnitudes))).astype(np.float32)
    return values


@pytest.mark.parametrize(
    ("codes", "signs", "levels"),
    [
        (SYMMETRIC, (1, -1), 128),
        (SYMMETRIC, (1,), 128),
        (ASYMMETRIC, (1, -1), 128),
        (ASYMMETRIC, (1,), 256),
        (ASYMMETRIC, (-1,), 256),
    ],
)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1), decay=st.floats(0.5, 20), exponent=st.integers(-8, 8))
def test_a_threshold_has_the_least_divergence_of_all(
    codes: Codes, signs: tuple[int, ...], levels: int, seed: int, decay: float, exponent: int
) -> None:
    expected = 400 * np.exp(-decay * np.arange(BINS_OF_ENTROPY) / BINS_OF_ENTROPY)
    counts = np.random.default_rng(seed).poisson(expected).astype(np.int64)
    counts[-2:] += 1  # both signs reach the end
    values = _values_of(counts, signs, exponent)

    low, high = entropy_range(_observe(values), codes)

    kept = max(-low, high) / float(np.abs(values).max()) * BINS_OF_ENTROPY
    assert kept == pytest.approx(round(kept), abs=1e-6)
    divergences = _divergences(counts.tolist(), levels)
    # Sums of 2048 float64 in another order.
    assert divergences[round(kept)] == pytest.approx(min(divergences.values()), rel=1e-9, abs=1e-12)


def test_the_shorter_side_is_clipped_no_further_than_it_reaches() -> None:
    values = np.append(np.random.default_rng(0).exponential(size=4000), -0.125).astype(np.float32)

    low, high = entropy_range(_observe(values), ASYMMETRIC)

    assert low == -0.125
    assert high > 1
