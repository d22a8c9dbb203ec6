"""Weights rounded for a layer's output: what is promised of a matrix, and that a network's output is nearer to the fp32 one's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration.ranges import Method
from export.graph.constants import constant_input
from quantize.graph.placement import Placement, place_quantizers
from quantize.graph.qdq import QuantizationParameters, RoundedWeight, activation_parameters, write_qdq
from quantize.int8 import quantize_int8
from quantize.options import Int8Options
from quantize.weights.fit_layer import round_weight
from quantize.weights.layer_sample import draw_sample
from quantize.weights.part_fit import gather_fits
from quantize.weights.rounding import round_layers
from quantize.weights.unfitted import round_unfitted
from runtime.targets import find_target
from tests.graphs import Array, Graph
from tests.single_layers import fit
from tests.small_int8 import small_network

CPU = find_target("cpu")
COLOURS = 3
FLOAT64 = 1e-9  # of a few hundred products in float64, and of a matrix whose condition is some thousands
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=30)
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """A matrix of weights (K, O), its bias last, the Hessian (K, K) of what it is given, and a scale for each output (O,)."""

    weight: Numbers
    hessian: Numbers
    scale: Numbers


def _layer(seed: int, *, weights: int, outputs: int = 32, steps: float = 7.0, correlated: bool = True) -> Layer:
    """Inputs like a smooth picture's windows: never negative, each near the one beside. `steps` to the largest weight."""
    rng = np.random.default_rng(seed)
    walk = 4 + np.cumsum(rng.normal(scale=0.2, size=(4 * weights + 40, weights)), axis=1)
    inputs = np.abs(walk) if correlated else rng.normal(size=walk.shape)
    samples = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    hessian = samples.T @ samples
    hessian[np.diag_indices_from(hessian)] += 3e-3 * np.diag(hessian).mean()
    weight = rng.normal(size=(weights + 1, outputs))
    return Layer(weight, hessian, np.abs(weight[:-1]).max(axis=0) / steps)


def _errors(layer: Layer, rounded: Numbers) -> Numbers:
    """What is lost of each output, (O,), summed over the samples that the Hessian is of."""
    moved = rounded - layer.weight
    errors: Numbers = np.einsum("ko,kl,lo->o", moved, layer.hessian, moved)
    return errors


def _nearest(layer: Layer) -> Numbers:
    rounded = np.rint(layer.weight / layer.scale) * layer.scale
    rounded[-1] = layer.weight[-1]
    return rounded


# A matrix


@quick
@given(seed=seeds, weights=st.integers(1, 40), steps=st.floats(3, 127))
def test_every_weight_but_the_bias_is_a_multiple_of_its_scale(seed: int, weights: int, steps: float) -> None:
    layer = _layer(seed, weights=weights, steps=steps)

    (rounded,) = round_weight(layer.weight, layer.hessian, [layer.scale])

    integers = rounded[:-1] / layer.scale
    np.testing.assert_allclose(integers, np.rint(integers), rtol=0, atol=127 * FLOAT64)
    assert np.abs(np.rint(integers)).max() <= 127


@quick
@given(seed=seeds, weights=st.integers(1, 40))
def test_the_bias_takes_what_is_left_on_the_average(seed: int, weights: int) -> None:
    """The best bias is where the error's derivative, the Hessian's last row, is zero."""
    layer = _layer(seed, weights=weights)

    (rounded,) = round_weight(layer.weight, layer.hessian, [layer.scale])

    slopes = layer.hessian[-1] @ (rounded - layer.weight)
    np.testing.assert_allclose(slopes, 0, atol=FLOAT64 * np.abs(layer.hessian[-1]).sum() * np.abs(layer.weight).max())


@quick
@given(seed=seeds, weights=st.integers(1, 60), steps=st.floats(3, 100))
def test_correlated_inputs_lose_less_than_by_rounding_to_nearest(seed: int, weights: int, steps: float) -> None:
    """Over all outputs: of one alone that is likely, not certain."""
    layer = _layer(seed, weights=weights, steps=steps)

    (rounded,) = round_weight(layer.weight, layer.hessian, [layer.scale])

    found, nearest = _errors(layer, rounded).sum(), _errors(layer, _nearest(layer)).sum()
    assert found <= nearest, f"{found:.3g} against {nearest:.3g}"


@quick
@given(seed=seeds, weights=st.integers(20, 60))
def test_errors_of_a_smooth_window_cancel_almost_wholly(seed: int, weights: int) -> None:
    layer = _layer(seed, weights=weights)

    (rounded,) = round_weight(layer.weight, layer.hessian, [layer.scale])

    assert _errors(layer, rounded).sum() < 0.1 * _errors(layer, _nearest(layer)).sum()


@quick
@given(seed=seeds, weights=st.integers(1, 40))
def test_inputs_that_do_not_correlate_leave_rounding_to_nearest(seed: int, weights: int) -> None:
    layer = _layer(seed, weights=weights, correlated=False)
    alone = Layer(layer.weight, np.diag(np.diag(layer.hessian)), layer.scale)

    (rounded,) = round_weight(alone.weight, alone.hessian, [alone.scale])

    np.testing.assert_allclose(rounded, _nearest(alone), rtol=FLOAT64, atol=FLOAT64)


@quick
@given(seed=seeds)
def test_two_weights_are_rounded_as_written_out(seed: int) -> None:
    """The one of the larger diagonal to its nearest, then the other, then the bias, each where the error is least by then."""
    layer = _layer(seed, weights=2)
    first, second = np.argsort(-np.diag(layer.hessian)[:-1])

    (rounded,) = round_weight(layer.weight, layer.hessian, [layer.scale])

    wanted = layer.weight.copy()
    wanted[first] = np.rint(wanted[first] / layer.scale) * layer.scale
    moved = wanted[first] - layer.weight[first]
    rest = [second, 2]
    free = layer.weight[rest] - np.linalg.solve(layer.hessian[np.ix_(rest, rest)], np.outer(layer.hessian[rest, first], moved))
    wanted[second] = np.rint(free[0] / layer.scale) * layer.scale
    moves = (wanted - layer.weight)[[first, second]]
    wanted[2] = layer.weight[2] - layer.hessian[2, [first, second]] @ moves / layer.hessian[2, 2]
    np.testing.assert_allclose(rounded, wanted, rtol=1e-7, atol=1e-7)


def test_weights_beyond_the_scale_are_clipped_and_made_up_for() -> None:
    layer = _layer(0, weights=20, steps=160.0)

    (rounded,) = round_weight(layer.weight, layer.hessian, [layer.scale])

    integers = np.rint(rounded[:-1] / layer.scale)
    assert np.abs(integers).max() == 127
    clipped = np.clip(np.rint(layer.weight / layer.scale), -127, 127) * layer.scale
    clipped[-1] = layer.weight[-1]
    assert _errors(layer, rounded).sum() < _errors(layer, clipped).sum()


# A network


def _run(model: ir.Model, picture: Array, names: Sequence[str] = ()) -> list[Array]:
    """The tensors of those names, or the output."""
    proto = ir.to_proto(model)
    proto.graph.output.extend(entry for entry in proto.graph.value_info if entry.name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    made: list[Array] = session.run(list(names) or None, {"input": picture})
    return made


def _smooth_picture(seed: int, side: int = 32) -> Array:
    """(1, 3, side, side) in [0, 1]: a few slow waves."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side, 0:side] / side
    picture = np.zeros((COLOURS, side, side))
    for _ in range(6):
        down, across, phase = rng.uniform(-12, 12), rng.uniform(-12, 12), rng.uniform(0, 6.3)
        picture += rng.uniform(0, 1, (COLOURS, 1, 1)) * np.sin(down * rows + across * columns + phase)
    picture = (picture - picture.min()) / (picture.max() - picture.min())
    scaled: Array = picture[np.newaxis].astype(np.float32)
    return scaled


def _noise(*seed: int) -> Array:
    noise: Array = np.random.default_rng(seed).uniform(0, 1, (1, 8, 16, 16)).astype(np.float32)
    return noise


def _residual_network(seed: int) -> Graph:
    graph = Graph(seed, channels=COLOURS)
    first = graph.add("Relu", graph.conv("input", 8, 3))
    inner = graph.add("Relu", graph.conv(first, 8, 3))
    graph.conv(graph.add("Add", graph.conv(inner, 8, 3), first), COLOURS, 3)
    return graph


RESIDUAL_OUTPUT = "conv6"
CROPS = [_smooth_picture(seed) for seed in range(8)]
UNSEEN = [_smooth_picture(seed) for seed in range(100, 104)]


@dataclass(frozen=True)
class Prepared:
    """A network with its quantizers, measured on CROPS."""

    model: ir.Model
    placement: Placement
    parameters: Mapping[str, QuantizationParameters]


def _prepare(model: ir.Model, crops: Sequence[Array] = CROPS) -> Prepared:
    placement = place_quantizers(model.graph, CPU)
    ranges = {"input": (0.0, 1.0)}
    names = sorted({quantizer.range_of for quantizer in placement.quantizers.values()} - {"input"})
    output = str(model.graph.outputs[0].name)
    inner = [name for name in names if name != output]
    made = [dict(zip([*inner, output], _run(model, crop, [*inner, output]), strict=True)) for crop in crops]
    ranges |= {name: (min(float(m[name].min()) for m in made), max(float(m[name].max()) for m in made)) for name in names}
    return Prepared(
        model,
        placement,
        {name: activation_parameters(ranges[quantizer.range_of], CPU) for name, quantizer in placement.quantizers.items()},
    )


def _rounded(prepared: Prepared, seed: int = 0, steps: list[tuple[int, int]] | None = None) -> dict[str, RoundedWeight]:
    told: list[tuple[int, int]] = [] if steps is None else steps
    return round_layers(
        prepared.model,
        prepared.placement,
        prepared.parameters,
        CROPS,
        target=CPU,
        rng=np.random.default_rng(seed),
        on_step=lambda done, total: told.append((done, total)),
    )


def _to_nearest(prepared: Prepared) -> dict[str, RoundedWeight]:
    layers = [node for node in prepared.model.graph if node.name in prepared.placement.int8_layers]
    inputs = {str(layer.name): str(layer.inputs[0].name) for layer in layers if layer.inputs[0] is not None}
    return {
        str(layer.name): round_unfitted(layer, CPU, input_scale=prepared.parameters[inputs[str(layer.name)]].scale)
        for layer in layers
    }


def _mean_squared_error(prepared: Prepared, weights: Mapping[str, RoundedWeight], pictures: Sequence[Array] = UNSEEN) -> float:
    """Of the int8 network's output for pictures it was not fitted on."""
    int8 = ir.from_proto(ir.to_proto(prepared.model))
    write_qdq(int8, parameters=prepared.parameters, rounded=weights, target=CPU)
    errors = [_run(int8, picture)[0] - _run(prepared.model, picture)[0] for picture in UNSEEN]
    return float(np.mean(np.square(errors)))


@pytest.mark.parametrize("seed", range(4))
def test_a_network_loses_no_more_than_by_rounding_to_nearest(seed: int) -> None:
    prepared = _prepare(_residual_network(seed).model(RESIDUAL_OUTPUT))

    found, nearest = (_mean_squared_error(prepared, weights) for weights in (_rounded(prepared), _to_nearest(prepared)))

    assert found <= nearest, f"{found:.3g} against {nearest:.3g}"


@pytest.mark.parametrize("seed", range(4))
def test_a_part_errs_by_what_its_products_say(seed: int) -> None:
    """‖X W - Y‖² in float64, crop by crop; the quadratic form cancels all but a thousandth of ‖Y‖², so that 12 digits remain."""
    graph, rng = Graph(seed, channels=COLOURS), np.random.default_rng(seed)
    (layer,) = graph.model(graph.conv("input", 8, 3)).graph
    given = [_noise(seed, index) for index in range(4)]
    sample = draw_sample(layer, [array.shape for array in given], rng)
    assert sample is not None
    for array in given:
        sample.note(rng.normal(size=(1, 8, *array.shape[2:])).astype(np.float32))
    (fit_of_part,) = gather_fits(layer, given, sample)
    matrix = rng.normal(size=fit_of_part.cross.shape)

    direct = sum(np.square(w.astype(np.float64) @ matrix - y).sum(axis=0) for w, y in fit_of_part.fitted_on)

    assert fit_of_part.held_back is None
    np.testing.assert_allclose(fit_of_part.errors(matrix), direct, rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_what_cannot_be_foretold_is_not_fitted(seed: int) -> None:
    """A layer of 649 unknowns and 768 windows whose outputs are half noise: weights left as they were err less on others."""
    graph = Graph(seed, channels=8)
    model = graph.model(graph.conv("input", 4, 9))
    prepared, rng = _prepare(model, [_noise(seed, index) for index in range(4)]), np.random.default_rng(seed)
    (layer,) = model.graph
    given = [_noise(seed, index) for index in range(4)]
    exact = [_run(model, picture)[0] for picture in given]
    wanted = [made + rng.normal(0, made.std(), made.shape).astype(np.float32) for made in exact]
    scale = prepared.parameters["input"].scale

    rounded = fit(layer, given, wanted, rng, target=CPU, input_scale=scale)

    nearest = round_unfitted(layer, CPU, input_scale=scale)
    assert rounded is not None
    np.testing.assert_array_equal(rounded.weight, nearest.weight)


def test_every_layer_gets_int8_weights_of_its_own_shape() -> None:
    prepared = _prepare(_residual_network(0).model(RESIDUAL_OUTPUT))

    rounded = _rounded(prepared)

    assert tuple(rounded) == prepared.placement.int8_layers
    for node in prepared.model.graph:
        if node.name in rounded:
            layer, weight = rounded[node.name], constant_input(node, 1)
            assert (layer.weight.dtype.name, layer.weight.shape) == ("int8", weight.shape)
            assert (layer.scale.dtype.name, layer.scale.shape, layer.bias.shape) == ("float32", weight.shape[:1], weight.shape[:1])
            assert layer.weight.min() >= -127
            assert (layer.scale > 0).all()


def test_the_fp32_network_is_not_touched() -> None:
    model = _residual_network(0).model(RESIDUAL_OUTPUT)
    prepared, before = _prepare(model), ir.to_proto(model).SerializeToString()

    _rounded(prepared)

    assert ir.to_proto(model).SerializeToString() == before


def test_the_same_seed_gives_the_same_weights() -> None:
    prepared = _prepare(_residual_network(0).model(RESIDUAL_OUTPUT))

    one, other = _rounded(prepared, seed=3), _rounded(prepared, seed=3)

    for name, layer in one.items():
        np.testing.assert_array_equal(layer.weight, other[name].weight)
        np.testing.assert_array_equal(layer.scale, other[name].scale)
        np.testing.assert_array_equal(layer.bias, other[name].bias)


def test_progress_is_told_once_per_layer() -> None:
    prepared = _prepare(_residual_network(0).model(RESIDUAL_OUTPUT))
    steps: list[tuple[int, int]] = []

    rounded = _rounded(prepared, steps=steps)

    assert steps == [(index, len(rounded)) for index in range(len(rounded))]


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [2, 0, 1, 3]], ids=["no padding", "another on each side"])
def test_a_layer_is_rounded_however_it_pads(pads: list[int]) -> None:
    graph = Graph(0, channels=COLOURS)
    first = graph.add("Relu", graph.conv("input", 8, 3))
    middle = graph.add("Conv", first, graph.constant(graph.random(8, 8, 3, 3)), channels=8, pads=pads)
    last = graph.conv(middle, COLOURS, 3)

    assert list(_rounded(_prepare(graph.model(last)))) == ["conv0", middle, last]


def test_a_layer_without_bias_gets_one() -> None:
    """What rounding leaves on the average has to go somewhere."""
    graph = Graph(0, channels=COLOURS)
    first = graph.add("Relu", graph.conv("input", 8, 3, bias=False))
    prepared = _prepare(graph.model(graph.conv(first, COLOURS, 3, bias=False)))

    rounded = _rounded(prepared)

    assert all(layer.bias.any() for layer in rounded.values())
    assert _mean_squared_error(prepared, rounded) <= _mean_squared_error(prepared, _to_nearest(prepared))


def test_a_channel_of_zeros_stays_one() -> None:
    graph = Graph(0, channels=COLOURS)
    weight = graph.random(8, COLOURS, 3, 3)
    weight[5] = 0
    first = graph.add("Relu", graph.conv("input", 8, 3, weight=graph.constant(weight), bias=False))
    prepared = _prepare(graph.model(graph.conv(first, COLOURS, 3)))

    layer = _rounded(prepared)["conv0"]

    assert not layer.weight[5].any()
    assert layer.bias[5] == 0
    assert np.isfinite(layer.scale[5])
    assert layer.scale[5] > 0


def test_of_large_crops_the_middle_is_rounded_on() -> None:
    """What memory rounding takes follows from the windows it is shown, not from the pictures they are of."""
    model, _, table = small_network()
    options = Int8Options(target=CPU, method=Method.MINMAX)
    large = [_smooth_picture(seed, side=150) for seed in range(4)]

    of_large, of_middle = (
        quantize_int8(model, table, options, crops=crops).model.SerializeToString(deterministic=True)
        for crops in (large, [crop[:, :, 11:139, 11:139] for crop in large])
    )

    assert of_large == of_middle


def test_layers_are_rounded_behind_computed_sizes_and_on_a_map_of_one_pixel() -> None:
    """A tensor of integers is computed too (PLKSR, DITN), and channel attention has one window a crop (RCAN)."""
    graph = Graph(0, channels=COLOURS)
    first = graph.add("Relu", graph.conv("input", 8, 3))
    seen = graph.conv(graph.add("GlobalAveragePool", first), 8, 1)
    shape = graph.add("Shape", graph.add("Mul", first, graph.add("Sigmoid", seen)))
    rows = graph.add("Reshape", first, shape, channels=8)
    prepared = _prepare(graph.model(graph.conv(graph.add("Mul", rows, graph.add("Sigmoid", seen)), COLOURS, 3)))

    rounded = _rounded(prepared)

    assert set(rounded) == set(prepared.placement.int8_layers)
    assert len(rounded) == 3
    assert _mean_squared_error(prepared, rounded) <= _mean_squared_error(prepared, _to_nearest(prepared))
