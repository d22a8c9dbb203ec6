"""Streaming histograms, against numpy on all the values at once."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from calibration.observers import BINS, ChannelObserver, HistogramObserver

Values = NDArray[np.float32]
# Sixteen-bit fractions, so that fraction × count is exact and the order statistic meant is not in doubt.
FRACTIONS = st.floats(0, 1, width=16)
REACH = 2.0**100
SMALLEST = 2.0**-100  # magnitudes below it share the width of a bin for it


# Values whose bin can be computed without rounding, so that the bin of each is not in doubt either.
GRID_VALUES = st.builds(
    lambda integers, exponent: (integers * 2.0**exponent).astype(np.float32),
    arrays(np.int32, st.integers(1, 100), elements=st.integers(-9999, 9999)),
    st.integers(-12, 12),
)


# (N, 3, H, W)
ACTIVATIONS = arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 5), st.integers(1, 5)),
    elements=st.floats(-9, 9, width=32),
)


def some_values(reach: float = REACH) -> st.SearchStrategy[Values]:
    return arrays(np.float32, st.integers(1, 100), elements=st.floats(-reach, reach, width=32))


def observe(*chunks: Values) -> HistogramObserver:
    observer = HistogramObserver()
    for chunk in chunks:
        observer.update(chunk)
    return observer


def bin_width(values: Values) -> float:
    """The documented bound on an observer's error: 4 · max|x| / BINS."""
    return 4 * max(float(np.abs(values).max()), SMALLEST) / BINS


@given(values=st.one_of(some_values(), some_values(1.0)), fraction=FRACTIONS)
def test_a_quantile_lies_within_one_bin_of_the_order_statistics_around_it(values: Values, fraction: float) -> None:
    quantile = observe(values).quantile(fraction)

    low = float(np.quantile(values, fraction, method="lower"))
    high = float(np.quantile(values, fraction, method="higher"))
    assert low - bin_width(values) <= quantile <= high + bin_width(values)


@given(chunks=st.lists(GRID_VALUES, min_size=1, max_size=5), data=st.data())
def test_order_and_chunking_of_the_data_change_nothing(chunks: list[Values], data: st.DataObject) -> None:
    values = np.concatenate(chunks)
    shuffled = values[np.array(data.draw(st.permutations(range(len(values)))))]
    fractions = data.draw(st.lists(FRACTIONS, min_size=1, max_size=5))

    whole, chunked = observe(shuffled), observe(*chunks)

    assert chunked.count == whole.count == len(values)
    assert [chunked.quantile(fraction) for fraction in fractions] == [whole.quantile(fraction) for fraction in fractions]


@given(chunks=st.lists(some_values(), min_size=1, max_size=5))
def test_extremes_are_exact(chunks: list[Values]) -> None:
    observer = observe(*chunks)

    values = np.concatenate(chunks)
    assert (observer.minimum, observer.maximum) == (values.min(), values.max())


@given(values=GRID_VALUES, doublings=st.integers(28, 60))
def test_widening_keeps_every_value_on_its_side_of_zero(values: Values, doublings: int) -> None:
    observer = observe(values, np.array([2.0**doublings], np.float32))

    negative = int((values < 0).sum())
    assert observer.count == len(values) + 1
    assert observer.quantile((negative + 0.5) / observer.count) >= 0
    if negative:
        assert observer.quantile((negative - 0.5) / observer.count) <= 0


@pytest.mark.parametrize("tiny", [2.0**-30, 2.0**-126], ids=["small", "smallest normal"])
def test_a_value_however_small_is_counted_on_its_side_of_zero(tiny: float) -> None:
    observer = observe(np.array([-tiny, tiny, 4.0], np.float32))

    assert observer.quantile(0.5 / 3) < 0
    assert observer.quantile(1.5 / 3) > 0


@pytest.mark.parametrize("count", [(1 << 23) + 5, (1 << 24) + 3])
def test_counts_are_exact_beyond_what_float32_counts(count: int) -> None:
    largest = np.array([2.0], np.float32)

    observer = observe(np.full(count, 0.5, np.float32), largest)

    assert observer.count == count + 1
    assert observer.quantile(count / (count + 1)) == pytest.approx(0.5, abs=bin_width(largest))


@pytest.mark.parametrize("filled", [0.0, 0.1, 0.34, 0.36, 1.0])
def test_zeros_are_counted_with_all_others_however_many_there_are(filled: float) -> None:
    rng = np.random.default_rng(0)
    values = np.where(rng.random(1 << 16) < filled, rng.normal(size=1 << 16), rng.choice([0.0, -0.0], 1 << 16)).astype(np.float32)
    observer = HistogramObserver()
    observer.update(values)

    _, counts = observer.histogram(BINS)
    reach = 2.0 ** (np.frexp(max(np.abs(values).max(), 2.0**-100))[1])
    wanted = np.bincount((np.floor(values * np.float64(BINS / 2 / reach)) + BINS // 2).astype(int), minlength=BINS)
    assert counts.sum() == values.size
    assert np.array_equal(counts, wanted[wanted > 0])


def test_any_shape_and_memory_layout_is_counted() -> None:
    array = np.arange(120, dtype=np.float32).reshape(1, 4, 5, 6)

    strided = observe(array[:, ::2].transpose(0, 3, 2, 1))

    assert (strided.count, strided.minimum, strided.maximum) == (60, 0.0, 89.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        observe(np.array([0.5, bad, 1.0], np.float32))


def test_an_observer_takes_no_more_memory_after_a_hundred_updates() -> None:
    rng = np.random.default_rng(0)
    observer = observe(rng.normal(size=5000).astype(np.float32))
    after_one = len(pickle.dumps(observer))

    for update in range(100):
        observer.update((rng.normal(size=5000) * 2.0**update).astype(np.float32))

    assert len(pickle.dumps(observer)) == after_one


@given(chunks=st.lists(ACTIVATIONS, min_size=1, max_size=3))
def test_channels_have_the_mean_and_largest_magnitude_that_numpy_finds(chunks: list[Values]) -> None:
    observer = ChannelObserver()
    for chunk in chunks:
        observer.update(chunk)

    values = np.concatenate([chunk.transpose(1, 0, 2, 3).reshape(3, -1) for chunk in chunks], axis=1)
    np.testing.assert_array_equal(observer.largest, np.abs(values).max(axis=1))
    # Sums of a few hundred values below 9 in float64.
    np.testing.assert_allclose(observer.mean, values.mean(axis=1, dtype=np.float64), rtol=0, atol=1e-12)


def test_channel_means_of_many_values_are_as_exact_as_a_double() -> None:
    """A running sum in float32 would stop at 2**24."""
    observer = ChannelObserver()

    observer.update(np.ones((1, 1, 4100, 4100), np.float32))
    observer.update(np.zeros((1, 1, 4100, 4100), np.float32))

    assert observer.mean.tolist() == [0.5]
