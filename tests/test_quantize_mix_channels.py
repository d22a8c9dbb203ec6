"""Mixing the channels of what nothing nonlinear touches: exact, and chosen so that 8 bits cost the picture less."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from calibration.ranges import Method
from calibration.table import CalibrationSource, CalibrationTable, TensorStatistics
from export.graph.constants import constant_input
from quantize.exact.choose_mixing import choose_matrices, minimise
from quantize.exact.mix_channels import mix_channels, mixable_groups
from quantize.exact.noise_cost import measure_noise_cost
from quantize.options import Int8Options
from quantize.tensor_ranges import mixed_ranges
from runtime.targets import find_target
from tests.graphs import Array, Graph


def run(model: ir.Model | onnx.ModelProto, picture: Array) -> Array:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    output: Array = session.run(None, {"input": picture})[0]
    return output


def stream_network(mode: str = "CRD") -> ir.Model:
    """A residual stream through a block, a scaled block, a Concat and a Resize, then a shuffled tensor between two convolutions."""
    graph = Graph(3, channels=3)
    start = graph.conv("input", 9, 3)
    inner = graph.add("Relu", graph.conv(start, 5, 3))
    first = graph.add("Add", start, graph.conv(inner, 9, 3))
    scaled = graph.add("Mul", graph.conv(graph.add("Relu", graph.conv(first, 5, 1)), 9, 3), graph.constant(0.2))
    second = graph.add("Sub", first, scaled)
    wide = graph.add("Concat", inner, second, channels=14, axis=1)
    third = graph.add("Add", second, graph.conv(wide, 9, 1))
    sizes = graph.constant(np.array([1, 1, 2, 2], np.float32))
    large = graph.add("Resize", third, "", sizes, mode="nearest")
    shuffled = graph.shuffle(graph.conv(large, 32, 3), mode=mode)
    return graph.model(graph.conv(shuffled, 3, 3))


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_a_mixed_network_computes_what_it_did(mode: str) -> None:
    model, rng = stream_network(mode), np.random.default_rng(0)
    picture = rng.random((1, 3, 9, 7), np.float32)
    before, groups = run(model, picture), mixable_groups(model.graph)
    weights = {str(node.name): constant_input(node, 1) for node in model.graph if node.op_type == "Conv"}
    matrices = {
        name: tuple(tuple(row) for row in (np.eye(group.channels) + 0.2 * rng.standard_normal([group.channels] * 2)).tolist())
        for name, group in groups.items()
    }

    mix_channels(model.graph, matrices)

    changed = [
        name for node in model.graph if (name := str(node.name)) in weights and np.any(constant_input(node, 1) != weights[name])
    ]
    assert [group.channels for group in groups.values()] == [9, 8]
    assert changed == list(weights)  # all nine write or read one of the two
    np.testing.assert_allclose(run(model, picture), before, atol=1e-4 * np.abs(before).max())


@pytest.mark.parametrize("operator", ["Relu", "Sigmoid", "GlobalMaxPool", "Softmax"])
def test_what_another_operator_reads_or_writes_is_left(operator: str) -> None:
    graph = Graph(0, channels=3)
    first = graph.conv("input", 4, 3)
    second = graph.add(operator, first)
    model = graph.model(graph.conv(graph.add("Add", first, second), 3, 3))

    assert mixable_groups(model.graph) == {}


def test_a_grouped_convolution_is_left() -> None:
    graph = Graph(0, channels=3)
    first = graph.conv("input", 4, 3)
    weight = graph.constant(graph.random(4, 1, 3, 3))
    second = graph.add("Conv", first, weight, pads=[1, 1, 1, 1], group=4)

    assert mixable_groups(graph.model(graph.conv(second, 3, 3)).graph) == {}


def test_noise_costs_what_the_weight_behind_it_makes_of_it() -> None:
    graph = Graph(1, channels=3)
    first = graph.conv("input", 5, 3)
    model = graph.model(graph.conv(first, 12, 3))
    weight = constant_input(list(model.graph)[1], 1).astype(np.float64)
    crops = [np.random.default_rng(seed).random((1, 3, 64, 64), np.float32) for seed in range(4)]

    gram = measure_noise_cost(model, [first], crops)[first].gram()

    exact = np.einsum("oihw,ojhw->ij", weight, weight)
    # Eight mixtures stand for twelve outputs, each of weight 1: entries are off by about the square root of 2 / (8 · 9 taps).
    assert np.abs(gram - exact).max() < 0.5 * np.abs(exact).max()
    assert np.corrcoef(gram.ravel(), exact.ravel())[0, 1] > 0.9


def test_what_one_channel_carries_is_spread_over_all_of_them() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, (8, 2000)) * np.array([8.0, *[0.5] * 7])[:, np.newaxis]
    gram = np.diag([1.0, *[0.02] * 7])

    matrix = minimise([values], [gram])

    def cost(mixing: np.ndarray) -> float:
        inverse = np.linalg.inv(mixing)
        return float(np.ptp(mixing @ values) ** 2 * np.trace(gram @ inverse @ inverse.T))

    assert abs(np.linalg.det(matrix)) == pytest.approx(1)
    assert cost(matrix) < 0.25 * cost(np.eye(8))  # averaging n equal copies would leave an eighth of the first channel's


def test_chosen_matrices_leave_less_noise_in_the_picture() -> None:
    model = stream_network()
    crops = [np.random.default_rng(seed).random((1, 3, 32, 32), np.float32) for seed in range(4)]
    matrices = choose_matrices(model, crops)
    mixed = ir.from_proto(ir.to_proto(model))
    mix_channels(mixed.graph, matrices)

    def noise(tried: ir.Model) -> float:
        tensors = [str(value.name) for group in mixable_groups(tried.graph).values() for value in group.tensors]
        costs = measure_noise_cost(tried, tensors, crops)
        return sum(cost.amplitude**2 * float(np.trace(cost.gram())) for cost in costs.values())

    assert matrices.keys() == mixable_groups(model.graph).keys()
    assert noise(mixed) < 0.8 * noise(model)


@pytest.mark.parametrize("method", list(Method), ids=lambda method: method.value)
def test_a_mixed_tensors_range_is_that_of_least_error_where_percentiles_are_asked_for(method: Method) -> None:
    graph = stream_network().graph
    ends = TensorStatistics(
        minimum=-4, maximum=4, percentiles={"99.99": (-4, 4)}, mse={"asymmetric": (-3, 3), "symmetric": (-2, 2)}
    )
    source = CalibrationSource(dataset="", seed=0, crops=1, crop_size=(8, 8), images=())
    (first, group), *_ = mixable_groups(graph).items()
    table = CalibrationTable(
        graph_fingerprint="0" * 64,
        source=source,
        mixing={first: tuple(tuple(row) for row in np.eye(group.channels).tolist())},
        tensors={str(value.name): ends for node in graph for value in node.outputs},
    )
    options = Int8Options(target=find_target("cpu"), method=method)

    found = mixed_ranges(graph, table, options)

    assert found == ({str(value.name): (-3.0, 3.0) for value in group.tensors} if method is Method.PERCENTILE else {})
    assert mixed_ranges(graph, table.model_copy(update={"mixing": None}), options) == {}
