"""Every kind of layer as products of matrices, rounded so that its output errs no more than by rounding to the nearest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from calibration.ranges import Method
from export.graph.constants import constant_input
from quantize.graph.layers import along, bias_gain, output_axis
from quantize.graph.qdq import RoundedWeight
from quantize.graph.walk import Array
from quantize.int8 import quantize_int8
from quantize.options import Effort, Int8Options
from quantize.weights.correct import mean_error
from quantize.weights.layer_parts import layer_parts, outputs_at, positions_of, windows_at
from quantize.weights.unfitted import round_unfitted
from runtime.targets import find_target
from tests.graphs import Graph
from tests.layer_kinds import CHANNELS, LAYER_KINDS, NOT_FITTED, OUTPUTS, SIDES
from tests.single_layers import fit, run_node
from tests.small_int8 import measured_on, output_error

CPU = find_target("cpu")
CROPS = 5
STEP = 1 / 255
Builder = Callable[[Graph], str]
EACH_KIND = pytest.mark.parametrize("build", LAYER_KINDS.values(), ids=LAYER_KINDS.keys())
EVERY_KIND = pytest.mark.parametrize("build", {**LAYER_KINDS, **NOT_FITTED}.values(), ids={**LAYER_KINDS, **NOT_FITTED}.keys())


def _smooth(seed: int, sides: tuple[int, int] = SIDES) -> Array:
    """Never negative, and each pixel near the one beside, as behind a ReLU."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(1, CHANNELS, *sides)).cumsum(axis=2).cumsum(axis=3)
    picture: Array = (np.abs(steps) / np.abs(steps).max()).astype(np.float32)
    return picture


def _layer(build: Builder, crops: list[Array]) -> tuple[ir.Node, list[Array], list[Array]]:
    """The layer, what it is given of each crop, and what it makes of that."""
    graph = Graph(7, channels=CHANNELS)
    nodes = list(graph.model(build(graph)).graph)
    values = crops
    for node in nodes[:-1]:
        (values,) = (made for made in run_node(node, [values], opsets={"": 18}) if made is not None)
    (made,) = (made for made in run_node(nodes[-1], [values], opsets={"": 18}) if made is not None)
    return nodes[-1], values, made


@EACH_KIND
def test_a_part_is_the_product_that_makes_its_outputs(build: Builder) -> None:
    node, (given,), (made,) = _layer(build, [_smooth(0)])
    weight, bias = constant_input(node, 1), constant_input(node, 2) if bias_gain(node) else np.zeros(OUTPUTS, np.float32)
    places, covered = 0, set()

    for part in layer_parts(node) or []:
        positions = positions_of(node, part, given)
        product = windows_at(node, part, given, positions) @ weight.ravel()[part.index]
        biased = (
            product
            + bias_gain(node)
            * np.broadcast_to(bias, product.shape[1] if node.op_type != "Conv" else len(weight))[..., part.outputs]
        )
        np.testing.assert_allclose(biased, outputs_at(node, part, made, positions), atol=1e-4)
        places += biased.size
        covered |= set(part.index.ravel().tolist())

    if node.attributes.get("strides") is None or node.op_type == "Conv":
        assert places == made.size
    assert covered == set(range(weight.size))


@EACH_KIND
def test_a_layers_own_error_is_no_larger_than_of_rounding_to_nearest_with_corrected_bias(build: Builder) -> None:
    crops = [_smooth(seed) for seed in range(CROPS)]
    node, given, made = _layer(build, crops)

    fitted = fit(node, given, made, np.random.default_rng(0), target=CPU, input_scale=STEP)

    assert fitted is not None
    nearest = round_unfitted(node, CPU, input_scale=STEP)
    corrected = _bias_corrected(node, nearest, given, made)
    assert _error(node, fitted, given, made) <= 1.001 * _error(node, corrected, given, made)
    assert (fitted.weight.shape, fitted.scale.shape, fitted.bias.shape) == (
        nearest.weight.shape,
        nearest.scale.shape,
        nearest.bias.shape,
    )
    if constant_input(node, 1).size > 100:
        assert _error(node, fitted, given, made) < 0.9 * _error(node, corrected, given, made)


@EVERY_KIND
def test_the_corrected_bias_takes_the_mean_error_off(build: Builder) -> None:
    node, given, made = _layer(build, [np.full((1, CHANNELS, 144, 144), 0.7, np.float32) for _ in range(2)])
    if not bias_gain(node):
        return
    nearest = round_unfitted(node, CPU, input_scale=STEP)
    restored = nearest.weight * along(nearest.scale, nearest.weight.ndim, output_axis(node))

    moved = mean_error(node, (restored - constant_input(node, 1)).astype(np.float64), np.full(CHANNELS, 0.7))

    (rough,) = (one for one in _run(node, nearest, given) if one is not None)
    axis = 1 if made[0].ndim == 4 else -1
    change = rough[0] - made[0]
    if axis == 1:  # away from the border, and as much of each phase as of the others
        change = change[:, :, 12 : change.shape[2] // 12 * 12 - 12, 12 : change.shape[3] // 12 * 12 - 12]
    found = np.moveaxis(change, axis, -1).reshape(-1, made[0].shape[axis]).mean(axis=0)
    np.testing.assert_allclose(moved, found, atol=2e-3 * np.abs(found).max() + 1e-6)


@pytest.mark.parametrize("build", NOT_FITTED.values(), ids=NOT_FITTED.keys())
def test_what_has_no_parts_is_not_fitted(build: Builder) -> None:
    node, given, made = _layer(build, [_smooth(0)])

    assert fit(node, given, made, np.random.default_rng(0), target=CPU, input_scale=STEP) is None


def _run(node: ir.Node, layer: RoundedWeight, given: list[Array]) -> list[list[Array] | None]:
    weight = (layer.weight * along(layer.scale, layer.weight.ndim, output_axis(node))).astype(np.float32)
    constants = [ir.val("w", const_value=ir.tensor(weight))]
    if bias_gain(node):
        constants.append(ir.val("b", const_value=ir.tensor(layer.bias.astype(np.float32))))
    like = ir.Node("", node.op_type, [node.inputs[0], *constants], list(node.attributes.values()), outputs=[ir.val("made")])
    return run_node(like, [given], opsets={"": 18})


def _error(node: ir.Node, layer: RoundedWeight, given: list[Array], made: list[Array]) -> float:
    (rough,) = (one for one in _run(node, layer, given) if one is not None)
    return float(sum(np.square(one - other, dtype=np.float64).sum() for one, other in zip(rough, made, strict=True)))


def _bias_corrected(node: ir.Node, layer: RoundedWeight, given: list[Array], made: list[Array]) -> RoundedWeight:
    (rough,) = (one for one in _run(node, layer, given) if one is not None)
    axis = 1 if made[0].ndim == 4 else -1
    rows: list[NDArray[np.float32]] = [
        np.moveaxis(one - other, axis, -1).reshape(-1, one.shape[axis]) for one, other in zip(rough, made, strict=True)
    ]
    gain = bias_gain(node)
    return RoundedWeight(layer.weight, layer.scale, layer.bias - (np.concatenate(rows).mean(axis=0) / gain if gain else 0))


@pytest.mark.parametrize("effort", list(Effort), ids=lambda effort: effort.value)
@pytest.mark.parametrize("groups", [2, 8], ids=["groups", "depthwise"])
def test_a_network_with_groups_goes_through_every_effort(groups: int, effort: Effort) -> None:
    graph = Graph(0, channels=3)
    first = graph.add("Relu", graph.conv("input", 8, 3))
    grouped = graph.add("Conv", first, graph.constant(graph.random(8, 8 // groups, 3, 3)), pads=[1, 1, 1, 1], group=groups)
    model = graph.proto(graph.shuffle(graph.conv(grouped, 12, 1)))
    crops = [np.random.default_rng(seed).random((1, 3, 16, 12), np.float32) for seed in range(3)]

    int8 = quantize_int8(
        model, measured_on(model, crops), Int8Options(target=CPU, method=Method.MINMAX, effort=effort), crops=crops
    )

    assert len(int8.int8_layers) == 3
    assert output_error(model, int8.model, crops) < 0.02
