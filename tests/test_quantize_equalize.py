"""Channels scaled alike on random graphs: what they compute stays, and what may not be scaled is left alone.

Scales are powers of two where a network must stay what it was: float32 products and sums are then scaled without rounding, so that
outputs are compared bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantize.exact.equalize import Scales, choose_scales, equalize
from tests.graphs import CHANNELS, Array, Graph

SIDES = (5, 6)
SIX_DIGITS = 1e-5  # scales are rounded to six, so that a table is the same on every machine
seeds = st.integers(0, 2**32 - 1)
modes = st.sampled_from(["CRD", "DCR"])
quick = settings(max_examples=15)
EACH_MODE = pytest.mark.parametrize("mode", ["CRD", "DCR"])


def _run(model: ir.Model) -> dict[str, Array]:
    """Every activation of `model` by name, for one picture."""
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    made = [name for node in proto.graph.node for name in node.output]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shape = (2, session.get_inputs()[0].shape[1], *SIDES)
    picture = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    return {"input": picture, **dict(zip(made, session.run(None, {"input": picture}), strict=True))}


def _output(model: ir.Model) -> Array:
    return _run(model)[str(model.graph.outputs[0].name)]


def _largest(model: ir.Model) -> dict[str, NDArray[np.float64]]:
    return {name: np.abs(array).max(axis=(0, 2, 3)).astype(np.float64) for name, array in _run(model).items()}


def _chosen(model: ir.Model) -> Scales:
    return choose_scales(model.graph, _largest(model))


def _powers_of_two(scales: Scales, seed: int) -> Scales:
    """As many scales as in `scales`, of one to four doublings or halvings."""
    rng = np.random.default_rng(seed)
    return {name: tuple(2.0 ** rng.choice([-4, -3, -2, -1, 1, 2, 3, 4], len(values))) for name, values in scales.items()}


def _assert_scaling_changes_nothing(model: ir.Model, seed: int) -> None:
    scales = _chosen(model)
    assert scales
    before, weights = _output(model), _weights(model)
    equalize(model.graph, _powers_of_two(scales, seed))
    np.testing.assert_array_equal(_output(model), before)
    assert any((array != weights[name]).any() for name, array in _weights(model).items()), "nothing was scaled"


def _weights(model: ir.Model) -> dict[str, Array]:
    return {
        name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items() if value.const_value is not None
    }


def _uneven_conv(graph: Graph, source: str, outputs: int, kernel: int = 3) -> str:
    """A convolution whose channels differ a hundredfold."""
    rows = 10 ** graph.rng.uniform(-1, 1, (outputs, 1, 1, 1))
    weight = graph.random(outputs, graph.channels[source], kernel, kernel) * rows
    return graph.conv(source, outputs, kernel, weight=graph.constant(weight.astype(np.float32)), bias=False)


# What stays


@quick
@given(seed=seeds, chain=st.lists(st.sampled_from(["relu", "prelu", "leaky", "identity"]), max_size=3), bias=st.booleans())
def test_scaling_through_homogeneous_operators_changes_nothing(seed: int, chain: list[str], bias: bool) -> None:
    graph = Graph(seed)
    tensor = graph.conv("input", 8, 3, bias=bias)
    for kind in chain:
        if kind == "prelu":
            tensor = graph.add("PRelu", tensor, graph.constant(graph.random(8, 1, 1)))
        else:
            tensor = graph.add({"relu": "Relu", "leaky": "LeakyRelu", "identity": "Identity"}[kind], tensor)

    _assert_scaling_changes_nothing(graph.model(graph.conv(tensor, 3, 3)), seed)


@quick
@given(seed=seeds, blocks=st.integers(1, 3), doubled=st.booleans())
def test_scaling_residual_blocks_changes_nothing(seed: int, blocks: int, doubled: bool) -> None:
    graph = Graph(seed)
    tensor = graph.conv("input", 8, 3)
    for _ in range(blocks):
        inner = graph.conv(graph.add("Relu", graph.conv(tensor, 6, 3)), 8, 3)
        tensor = graph.add("Add", inner, inner if doubled else tensor)

    _assert_scaling_changes_nothing(graph.model(graph.conv(tensor, 3, 3)), seed)


@quick
@given(seed=seeds, mode=modes, factor=st.integers(2, 3), before=st.booleans(), after=st.booleans())
def test_scaling_across_a_shuffle_changes_nothing(seed: int, mode: str, factor: int, before: bool, after: bool) -> None:
    graph = Graph(seed)
    tensor = graph.conv("input", 3 * factor**2, 3)
    if before:
        tensor = graph.add("Relu", tensor)
    tensor = graph.shuffle(tensor, factor, mode)
    if after:
        tensor = graph.add("Relu", tensor)

    _assert_scaling_changes_nothing(graph.model(graph.conv(tensor, 3, 3)), seed)


@quick
@given(seed=seeds, mode=modes)
def test_scaling_shuffles_that_are_added_changes_nothing(seed: int, mode: str) -> None:
    graph = Graph(seed)
    left, right = (graph.shuffle(graph.conv("input", 16, 3), 2, mode) for _ in range(2))

    _assert_scaling_changes_nothing(graph.model(graph.conv(graph.add("Add", left, right), 3, 3)), seed)


@quick
@given(seed=seeds)
def test_scaling_the_shuffle_that_has_no_mode_changes_nothing(seed: int) -> None:
    """ONNX's own default is DCR."""
    graph = Graph(seed)
    tensor = graph.add("DepthToSpace", graph.conv("input", 12, 3), channels=3, blocksize=2)

    _assert_scaling_changes_nothing(graph.model(graph.conv(tensor, 3, 3)), seed)


def _added_then_shuffled(graph: Graph, mode: str) -> str:
    return graph.shuffle(graph.add("Add", graph.conv("input", 16, 3), graph.conv("input", 16, 3)), 2, mode)


def _shuffled_and_read(graph: Graph, mode: str) -> str:
    wide = graph.conv("input", 16, 3)
    return graph.add("Add", graph.shuffle(graph.conv(wide, 16, 3), 2, mode), graph.shuffle(wide, 2, mode))


def _shuffled_twice(graph: Graph, mode: str) -> str:
    """What lies between is read by a convolution, too."""
    middle = graph.add("Relu", graph.shuffle(graph.conv("input", 64, 3), 2, mode))
    return graph.add("Add", graph.shuffle(middle, 2, mode), graph.shuffle(graph.conv(middle, 16, 3), 2, mode))


@pytest.mark.parametrize("build", [_added_then_shuffled, _shuffled_and_read, _shuffled_twice])
@EACH_MODE
def test_an_unusual_shuffle_is_scaled_exactly_or_left_alone(build: Callable[[Graph, str], str], mode: str) -> None:
    graph = Graph(0)
    model = graph.model(graph.conv(build(graph, mode), 3, 3))
    before = _output(model)

    equalize(model.graph, _powers_of_two(_chosen(model), 0))

    np.testing.assert_array_equal(_output(model), before)


# What is chosen


@quick
@given(seed=seeds)
def test_the_spread_of_channels_shrinks_to_its_fourth_root(seed: int) -> None:
    graph = Graph(seed)
    hidden = graph.add("Relu", _uneven_conv(graph, "input", 8))
    model = graph.model(graph.conv(hidden, 3, 3))
    before = _largest(model)
    scales = _chosen(model)
    (group,) = scales
    share = before[group] / before[group].max()

    equalize(model.graph, scales)

    after = _largest(model)[group]
    # The group's largest channel is that of the convolution or of the ReLU, each measured to 2**-24; scales have six digits.
    relu_share = before[hidden] / before[hidden].max()
    wanted = np.minimum(np.maximum(share, relu_share) ** -0.75, 16.0)
    np.testing.assert_allclose(after, before[group] * wanted, rtol=2 * SIX_DIGITS)


@quick
@given(seed=seeds, blocks=st.integers(1, 3))
def test_tensors_that_are_added_share_one_scale_a_channel(seed: int, blocks: int) -> None:
    graph = Graph(seed)
    tensor = first = _uneven_conv(graph, "input", 8)
    tied = [first]
    for _ in range(blocks):
        tied.append(_uneven_conv(graph, tensor, 8))
        tensor = graph.add("Add", tied[-1], tensor)
        tied.append(tensor)
    model = graph.model(graph.conv(tensor, 3, 3))
    largest = _largest(model)

    ((group, scale),) = choose_scales(model.graph, largest).items()

    assert group == first
    share = np.max([largest[name] / largest[name].max() for name in tied], axis=0)
    np.testing.assert_allclose(scale, np.minimum(share**-0.75, 16.0), rtol=SIX_DIGITS)


@EACH_MODE
@quick
@given(seed=seeds)
def test_channels_shuffled_into_one_share_its_scale(mode: str, seed: int) -> None:
    graph = Graph(seed)
    wide = _uneven_conv(graph, "input", 12)
    model = graph.model(graph.conv(graph.shuffle(wide, 2, mode), 3, 3))
    before = _largest(model)[wide]

    equalize(model.graph, scales := _chosen(model))

    (scale,) = scales.values()
    # https://onnx.ai/onnx/operators/onnx__DepthToSpace.html: CRD has the colour outermost, DCR innermost.
    colour = [channel // 4 if mode == "CRD" else channel % 3 for channel in range(12)]
    np.testing.assert_allclose(_largest(model)[wide], before * np.array(scale)[colour], rtol=SIX_DIGITS)


def test_a_channel_that_never_speaks_is_scaled_no_further_than_sixteenfold() -> None:
    graph = Graph(0)
    weight = graph.random(4, CHANNELS, 1, 1)
    weight[2] = 0
    first = graph.conv("input", 4, 1, weight=graph.constant(weight), bias=False)
    model = graph.model(graph.conv(first, 3, 3))

    assert _chosen(model)[first][2] == 16.0


def test_a_group_that_is_zero_throughout_is_left_alone() -> None:
    graph = Graph(0)
    first = graph.conv("input", 4, 1, weight=graph.constant(np.zeros((4, CHANNELS, 1, 1), np.float32)), bias=False)

    assert _chosen(graph.model(graph.conv(first, 3, 3))) == {}


# What is left alone


def _constant_added(graph: Graph) -> str:
    first = graph.conv("input", 8, 3)
    return graph.conv(graph.add("Add", first, graph.constant(graph.random(8, 1, 1))), 3, 3)


def _grouped(graph: Graph) -> str:
    first = graph.conv("input", 8, 3)
    weight = graph.constant(graph.random(8, 4, 3, 3))
    return graph.conv(graph.add("Conv", first, weight, channels=8, group=2, pads=[1] * 4), 3, 3)


def _shared_weights(graph: Graph) -> str:
    weight = graph.constant(graph.random(CHANNELS, CHANNELS, 3, 3))
    first = graph.conv("input", CHANNELS, 3, weight=weight)
    return graph.conv(first, CHANNELS, 3, weight=weight)


def _shared_bias(graph: Graph) -> str:
    bias = graph.constant(graph.random(CHANNELS))
    first, second = (graph.constant(graph.random(CHANNELS, CHANNELS, 1, 1)) for _ in range(2))
    return graph.add("Conv", graph.add("Conv", "input", first, bias), second, bias)


def _not_homogeneous(graph: Graph) -> str:
    return graph.conv(graph.add("Sigmoid", graph.conv("input", 8, 3)), 3, 3)


def _read_by_another(graph: Graph) -> str:
    first = graph.conv("input", 8, 3)
    return graph.add("Add", graph.conv(first, 8, 3), graph.add("Tanh", first))


def _added_to_the_input(graph: Graph) -> str:
    return graph.conv(graph.add("Add", graph.conv("input", CHANNELS, 3), "input"), 3, 3)


def _added_to_the_output(graph: Graph) -> str:
    first = graph.conv("input", 8, 3)
    return graph.add("Add", first, graph.conv(first, 8, 3))


def _shuffled_to_the_output(graph: Graph) -> str:
    return graph.shuffle(graph.conv("input", 12, 3))


@pytest.mark.parametrize(
    "build",
    [
        _constant_added,
        _grouped,
        _shared_weights,
        _shared_bias,
        _not_homogeneous,
        _read_by_another,
        _added_to_the_input,
        _added_to_the_output,
        _shuffled_to_the_output,
    ],
)
def test_what_cannot_be_scaled_is_left_alone(build: Callable[[Graph], str]) -> None:
    graph = Graph(0)
    model = graph.model(build(graph))

    assert _chosen(model) == {}


def test_a_network_keeps_the_weights_of_what_cannot_be_scaled() -> None:
    """The first group may be scaled, the second is the output's."""
    graph = Graph(0)
    last = graph.conv(_uneven_conv(graph, "input", 8), 8, 3)
    model = graph.model(graph.add("Add", last, graph.conv(last, 8, 3)))
    before = _weights(model)

    equalize(model.graph, _chosen(model))

    after = _weights(model)
    assert [name for name in before if (before[name] != after[name]).any()] == ["constant0", "constant1"]


def test_a_tensor_that_was_not_measured_has_no_say() -> None:
    graph = Graph(0)
    first = _uneven_conv(graph, "input", 8)
    hidden = graph.add("Relu", first)
    model = graph.model(graph.conv(hidden, 3, 3))
    measured: Mapping[str, NDArray[np.float64]] = {hidden: np.array([4.0, 1.0, 4.0, 4.0, 4.0, 4.0, 4.0, 0.25])}

    assert choose_scales(model.graph, measured) == {first: (1.0, 2.82843, 1.0, 1.0, 1.0, 1.0, 1.0, 8.0)}


def test_scales_of_another_graph_are_refused() -> None:
    graph = Graph(0)
    model = graph.model(graph.conv(graph.conv("input", 8, 3), 3, 3))

    with pytest.raises(KeyError, match="elsewhere"):
        equalize(model.graph, {"elsewhere": (1.0,) * 8})
