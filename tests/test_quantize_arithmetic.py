"""Scales and zero points, against the formulas of the ONNX operators written in numpy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from quantize.graph.qdq import ActivationRange, QuantizationParameters, activation_parameters
from quantize.weights.unfitted import quantize_weight
from runtime.targets import TARGETS, find_target

CPU = find_target("cpu")
SCHEMES = {
    **{target.name: target for target in TARGETS},
    "uint8": replace(CPU, activation_dtype="uint8", activation_symmetric=False),
    "int8": replace(CPU, activation_dtype="int8", activation_symmetric=False),
    "symmetric uint8": replace(CPU, activation_dtype="uint8", activation_symmetric=True),
    "symmetric int8": replace(CPU, activation_dtype="int8", activation_symmetric=True),
}
EACH_SCHEME = pytest.mark.parametrize("scheme", SCHEMES)
BOUND = st.floats(-(2.0**20), 2.0**20, width=32)
RANGES = st.tuples(BOUND, BOUND).map(lambda ends: (min(ends), max(ends)))
ROUNDING = 1e-4  # of a step: the scale is a float32, off by 2**-24 of itself, 255 steps from zero
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


def fake_quantize(values: NDArray[np.float64], parameters: QuantizationParameters) -> NDArray[np.float64]:
    """QuantizeLinear then DequantizeLinear, in float64."""
    limits = np.iinfo(parameters.dtype)
    integers = np.clip(np.rint(values / parameters.scale) + parameters.zero_point, limits.min, limits.max)
    restored: NDArray[np.float64] = (integers - parameters.zero_point) * parameters.scale
    return restored


@EACH_SCHEME
@given(activation_range=RANGES)
def test_zero_is_represented_exactly(scheme: str, activation_range: ActivationRange) -> None:
    parameters = activation_parameters(activation_range, SCHEMES[scheme])

    limits = np.iinfo(parameters.dtype)
    assert limits.min <= parameters.zero_point <= limits.max
    assert fake_quantize(np.zeros(1), parameters) == [0.0]


@EACH_SCHEME
@given(activation_range=RANGES)
def test_no_value_inside_the_range_moves_by_more_than_half_a_step(scheme: str, activation_range: ActivationRange) -> None:
    parameters = activation_parameters(activation_range, SCHEMES[scheme])
    values = np.linspace(*activation_range, 997)

    moved = np.abs(fake_quantize(values, parameters) - values)

    assert moved.max() <= parameters.scale * (0.5 + ROUNDING)


@EACH_SCHEME
@given(activation_range=RANGES)
def test_no_finer_step_would_cover_the_range(scheme: str, activation_range: ActivationRange) -> None:
    target = SCHEMES[scheme]
    low, high = min(activation_range[0], 0.0), max(activation_range[1], 0.0)

    scale = activation_parameters(activation_range, target).scale

    half = 1 << 15 if target.has_wide_codes else 1 << 7  # codes below zero
    needed = max(-low / half, high / (half - 1)) if target.activation_symmetric else (high - low) / (2 * half - 1)
    if target.power_of_two_scales:
        assert math.frexp(scale)[0] == 0.5
        assert needed <= scale * (1 + 1e-4)
        assert scale <= 2 * max(needed, 2.0**-100)
    elif target.float_dtype == "float16":
        assert scale == np.float16(scale)
        assert scale == pytest.approx(max(needed, 2.0**-14), rel=2.0**-11)
    else:
        assert scale == pytest.approx(max(needed, SMALLEST_NORMAL), rel=1e-6)


@pytest.mark.parametrize(("dtype", "zero_point"), [("int8", 0), ("uint8", 128)])
@given(activation_range=RANGES)
def test_a_symmetric_scheme_has_its_zero_point_in_the_middle(
    dtype: str, zero_point: int, activation_range: ActivationRange
) -> None:
    parameters = activation_parameters(activation_range, SCHEMES[f"symmetric {dtype}"])

    assert (parameters.zero_point, parameters.dtype) == (zero_point, dtype)


@pytest.mark.parametrize(("activation_range", "zero_point"), [((0.0, 6.0), 0), ((0.25, 6.0), 0), ((-6.0, 0.0), 255)])
def test_an_asymmetric_scheme_spends_no_code_on_a_sign_that_does_not_occur(
    activation_range: ActivationRange, zero_point: int
) -> None:
    assert activation_parameters(activation_range, SCHEMES["uint8"]).zero_point == zero_point


@EACH_SCHEME
def test_a_range_of_nothing_but_zero_has_a_scale_one_can_divide_by(scheme: str) -> None:
    assert np.float32(activation_parameters((0.0, 0.0), SCHEMES[scheme]).scale) > 0


WEIGHTS = arrays(
    np.float32,
    array_shapes(min_dims=4, max_dims=4, max_side=4),
    elements=st.floats(-(2.0**20), 2.0**20, width=32, allow_subnormal=False).map(
        lambda value: 0.0 if abs(value) < 2.0**-60 else value
    ),
)


@given(weight=WEIGHTS)
def test_no_weight_moves_by_more_than_half_a_step_of_its_channel(weight: NDArray[np.float32]) -> None:
    integers, scale = quantize_weight(weight, CPU)

    assert [(array.dtype.name, array.shape) for array in (integers, scale)] == [
        ("int8", weight.shape),
        ("float32", weight.shape[:1]),
    ]
    steps = scale.astype(np.float64).reshape(-1, 1, 1, 1)
    assert (np.abs(integers * steps - weight) <= steps * (0.5 + ROUNDING)).all()


@given(weight=WEIGHTS)
def test_weights_use_the_symmetric_part_of_int8_to_its_end(weight: NDArray[np.float32]) -> None:
    integers, scale = quantize_weight(weight, CPU)

    for channel, values in enumerate(weight):
        largest = float(np.abs(values).max())
        assert np.abs(integers[channel].astype(int)).max() == (127 if largest > 0 else 0)
        assert scale[channel] == pytest.approx(largest / 127 if largest > 0 else 1.0, rel=1e-6)


@pytest.mark.parametrize("magnitude", [1e-12, 1e-38, 1e-41, 1e-44])
def test_a_channel_of_tiny_weights_still_has_a_scale_one_can_divide_by(magnitude: float) -> None:
    """Dead channels decay to such weights in training."""
    weight = np.array([magnitude, -magnitude, 0.0, magnitude], np.float32).reshape(1, 1, 2, 2)

    integers, scale = quantize_weight(weight, CPU)

    assert scale[0] > 0
    assert np.abs(integers * scale.astype(np.float64) - weight).max() <= 2 * magnitude
