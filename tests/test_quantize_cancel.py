"""Weights rounded so that their errors cancel: what is promised of every kernel and channel, and what it is worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.weights.cancel import round_cancelling
from quantize.weights.unfitted import round_unfitted
from runtime.targets import TARGETS, Target
from tests.graphs import Graph

_EPSILON = 1e-9


@settings(max_examples=60)
@given(
    outputs=st.integers(1, 5), inputs=st.integers(1, 70), taps=st.sampled_from([1, 4, 9, 25, 81]), seed=st.integers(0, 2**32 - 1)
)
def test_errors_of_a_channel_add_up_to_half_a_step_and_of_a_kernel_to_one(outputs: int, inputs: int, taps: int, seed: int) -> None:
    steps = np.random.default_rng(seed).uniform(-120, 120, (outputs, inputs, taps))

    errors = round_cancelling(steps, largest=127) - steps

    assert np.abs(errors).max() < 1 + _EPSILON
    assert np.abs(errors.sum(axis=2)).max() <= 1 + _EPSILON
    assert np.abs(errors.sum(axis=(1, 2))).max() <= 0.5 + _EPSILON


def test_what_is_on_the_grid_stays_and_no_code_leaves_it() -> None:
    rng = np.random.default_rng(0)
    whole = rng.integers(-127, 128, (4, 8, 9)).astype(np.float64)
    np.testing.assert_array_equal(round_cancelling(whole, largest=127), whole)
    at_the_end = np.where(rng.random((4, 8, 9)) < 0.5, 126.9, -126.9)
    assert np.abs(round_cancelling(at_the_end, largest=127)).max() == 127


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target.name))
def test_what_a_smooth_picture_becomes_errs_less_than_with_the_nearest_steps(target: Target) -> None:
    graph = Graph(0, channels=16)
    model = graph.model(graph.conv("input", 8, 3))
    (layer,) = (node for node in model.graph if node.op_type == "Conv")
    weight = layer.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    exact = weight.const_value.numpy().astype(np.float64)
    rounded = round_unfitted(layer, target, input_scale=1 / 255)
    scale = rounded.scale.astype(np.float64)[:, np.newaxis, np.newaxis, np.newaxis]
    rng = np.random.default_rng(1)
    # Windows that are bright or dark as a whole, channel by channel, with a little texture.
    windows = rng.uniform(0, 1, (500, 16, 1, 1)) + 0.05 * rng.standard_normal((500, 16, 3, 3))

    def error(weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        made = np.tensordot(windows, weights - exact, axes=([1, 2, 3], [1, 2, 3]))
        return float(np.square(made).mean())

    nearest = np.clip(np.rint(exact / scale), -target.largest_weight, target.largest_weight) * scale
    assert error(rounded.weight * scale) < 0.5 * error(nearest)
