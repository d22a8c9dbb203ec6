"""Exact rewrites, each on random graphs: what they compute stays, borders included, and what they promise to save goes.

Networks are walked in test_export_graph.py; here are the graphs no network happens to have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.arithmetic import total_macs
from export.onnx_export import OPSET_RANGE, convert_opset
from export.passes import EXTRA_PASSES, PASSES, run_passes, select_passes
from export.passes.depth_to_space import with_shuffles
from export.reach import receptive_halo
from runtime.backends import BACKENDS, open_backend
from runtime.errors import UnknownNameError
from tests.graphs import CHANNELS, Graph

SIDES = (9, 11)
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=30)
Array = NDArray[np.float32]


def _run(model: ir.Model, sides: tuple[int, int] = SIDES) -> Array:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    channels = session.get_inputs()[0].shape[1]
    (output,) = session.run(None, {"input": np.random.default_rng(1).uniform(-1, 1, (2, channels, *sides)).astype(np.float32)})
    result: Array = output
    return result


def _rewrite(model: ir.Model, *names: str) -> Counter[str]:
    """Runs those passes on `model`, checks that it computes what it did, and counts its operators."""
    before, macs = _run(model), total_macs(ir.to_proto(with_shuffles(model)))
    steps = tuple(step for step in (*PASSES, *EXTRA_PASSES) if step.name in names)
    assert len(steps) == len(names)
    rewritten, _ = run_passes(model, passes=steps)
    # float32 sums in another order: a few hundred products of numbers up to 1.
    np.testing.assert_allclose(_run(rewritten), before, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(before).max())))
    assert total_macs(ir.to_proto(with_shuffles(rewritten))) <= macs
    return Counter(node.op_type for node in rewritten.graph)


# Branches


@quick
@given(
    seed=seeds,
    branches=st.integers(2, 4),
    chain=st.lists(st.sampled_from(["conv1", "conv3", "bare3", "shuffle"]), min_size=1, max_size=4),
    own_biases=st.booleans(),
)
def test_branches_of_one_affine_chain_become_one(seed: int, branches: int, chain: list[str], own_biases: bool) -> None:
    graph = Graph(seed)
    ends = [graph.add("Relu", graph.conv("input", 16, 3)) for _ in range(branches)]
    width = 16
    for kind in (*chain, "conv3"):
        if kind == "shuffle":
            wide = graph.constant(graph.random(16, width, 1, 1))
            ends = [graph.shuffle(graph.conv(end, 16, 1, bias=False, weight=wide)) for end in ends]
            width = 4
            continue
        kernel = int(kind[-1])
        weight, bias = graph.constant(graph.random(16, width, kernel, kernel)), graph.constant(graph.random(16))
        biases = [() if kind.startswith("bare") else (graph.constant(graph.random(16)) if own_biases else bias,) for _ in ends]
        ends = [
            graph.add("Conv", end, weight, *given, channels=16, pads=[kernel // 2] * 4)
            for end, given in zip(ends, biases, strict=True)
        ]
        width = 16
    total = ends[0]
    for end in ends[1:]:
        total = graph.add("Add", total, end)
    operators = _rewrite(graph.model(total), "merge-branches")
    assert operators["Conv"] == branches + len(chain) + 1
    assert operators["Add"] == branches - 1


@quick
@given(seed=seeds, difference=st.sampled_from(["weights", "padding", "an activation", "another reader"]))
def test_branches_that_differ_are_left_alone(seed: int, difference: str) -> None:
    graph = Graph(seed)
    left, right = (graph.add("Relu", graph.conv("input", 8, 3)) for _ in range(2))
    weight = graph.constant(graph.random(8, 8, 3, 3))
    one = graph.conv(left, 8, 3, weight=weight)
    if difference == "weights":
        other = graph.conv(right, 8, 3)
    elif difference == "padding":
        other = graph.add("Conv", right, weight, pads=[2, 2, 0, 0])
    else:
        other = graph.conv(right, 8, 3, weight=weight)
    if difference == "an activation":
        one, other = graph.add("Relu", one), graph.add("Relu", other)
    total = graph.add("Add", one, other)
    if difference == "another reader":
        total = graph.add("Add", total, graph.add("Tanh", one))
    assert _rewrite(graph.model(total), "merge-branches")["Conv"] == 4


def test_branches_whose_shapes_broadcast_are_left_alone() -> None:
    graph = Graph(0)
    weight = graph.constant(graph.random(4, 4, 3, 3))
    small = graph.add("GlobalAveragePool", graph.conv("input", 4, 3))
    total = graph.add("Add", graph.conv("input", 4, 3, weight=weight), graph.conv(small, 4, 3, weight=weight))
    assert _rewrite(graph.model(total), "merge-branches")["Conv"] == 3


# Pairs of convolutions


@quick
@given(
    seed=seeds,
    kernels=st.tuples(st.sampled_from([1, 3]), st.sampled_from([1, 3])),
    widths=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    pad=st.integers(0, 1),
    bias=st.booleans(),
)
def test_a_pair_of_convolutions_merges_where_that_is_exact_and_cheaper(
    seed: int, kernels: tuple[int, int], widths: tuple[int, int], pad: int, bias: bool
) -> None:
    graph = Graph(seed)
    middle, last = widths
    pads = [pad if kernel == 3 else 0 for kernel in kernels]
    first = graph.conv("input", middle, kernels[0], bias=bias, pad=pads[0])
    second = graph.conv(first, last, kernels[1], pad=pads[1])
    exact = kernels[1] == 1 or (kernels[0] == 1 and (pads[1] == 0 or not bias))
    separate = CHANNELS * middle * kernels[0] ** 2 + middle * last * kernels[1] ** 2
    cheaper = CHANNELS * last * max(kernels) ** 2 < separate
    operators = _rewrite(graph.model(second), "merge-convolutions")
    assert operators["Conv"] == (1 if exact and cheaper else 2)


@pytest.mark.parametrize("attributes", [{"strides": [2, 2]}, {"group": 4}], ids=["strided", "grouped"])
def test_a_convolution_with_strides_or_groups_is_left_alone(attributes: dict[str, Any]) -> None:
    graph = Graph(0)
    wide = graph.constant(graph.random(8, CHANNELS // attributes.get("group", 1), 3, 3))
    first = graph.add("Conv", "input", wide, channels=8, pads=[1] * 4, **attributes)
    assert _rewrite(graph.model(graph.conv(first, 2, 1)), "merge-convolutions")["Conv"] == 2


def test_a_mean_shift_before_a_padded_convolution_stays() -> None:
    graph = Graph(0, channels=3)
    shift = graph.add("Conv", "input", graph.constant(np.eye(3).reshape(3, 3, 1, 1)), graph.constant(graph.random(3)))
    operators = _rewrite(graph.model(graph.conv(shift, 8, 3)), "merge-convolutions", "fold-affine")
    assert operators["Conv"] == 2


# Scales and offsets


@quick
@given(
    seed=seeds,
    operators=st.lists(st.sampled_from(["Mul", "Div", "Add", "Sub"]), min_size=1, max_size=4),
    per_channel=st.booleans(),
    constant_first=st.booleans(),
    bias=st.booleans(),
)
def test_scales_and_offsets_behind_a_convolution_fold_into_it(
    seed: int, operators: list[str], per_channel: bool, constant_first: bool, bias: bool
) -> None:
    graph = Graph(seed)
    value = graph.conv("input", 6, 3, bias=bias)
    for operator in operators:
        numbers = graph.rng.uniform(0.5, 2, (6, 1, 1) if per_channel else ()).astype(np.float32)
        inputs = [value, graph.constant(numbers)]
        value = graph.add(operator, *(inputs[::-1] if constant_first and operator != "Div" else inputs), channels=6)
    assert _rewrite(graph.model(value), "fold-affine") == {"Conv": 1}


@quick
@given(seed=seeds, mode=st.sampled_from(["CRD", "DCR"]), per_channel=st.booleans())
def test_one_number_folds_through_a_shuffle_and_one_a_channel_does_not(seed: int, mode: str, per_channel: bool) -> None:
    graph = Graph(seed)
    value = graph.shuffle(graph.conv("input", 8, 3), 2, mode)
    value = graph.add("Mul", value, graph.constant(graph.rng.uniform(0.5, 2, (2, 1, 1) if per_channel else ()).astype(np.float32)))
    assert _rewrite(graph.model(value), "fold-affine")["Mul"] == per_channel


@quick
@given(seed=seeds, pad=st.integers(0, 1), offset=st.booleans(), per_channel=st.booleans())
def test_ahead_of_a_convolution_an_offset_folds_only_where_nothing_is_padded(
    seed: int, pad: int, offset: bool, per_channel: bool
) -> None:
    graph = Graph(seed)
    shape = (1, CHANNELS, 1, 1) if per_channel else ()
    value = graph.add("Mul", "input", graph.constant(graph.rng.uniform(0.5, 2, shape)))
    if offset:
        value = graph.add("Add", value, graph.constant(graph.rng.uniform(0.5, 2, shape).astype(np.float32)))
    operators = _rewrite(graph.model(graph.conv(value, 5, 3, pad=pad)), "fold-affine")
    assert operators["Add"] == (offset and pad == 1)
    assert operators["Mul"] == (offset and pad == 1)


def test_a_constant_that_varies_over_the_picture_is_not_folded() -> None:
    graph = Graph(0, sides=SIDES)
    value = graph.add("Mul", graph.conv("input", 4, 3), graph.constant(graph.random(1, 1, *SIDES)))
    assert _rewrite(graph.model(value), "fold-affine")["Mul"] == 1


def test_a_convolution_that_others_read_too_is_not_changed() -> None:
    graph = Graph(0)
    value = graph.conv("input", 4, 3)
    total = graph.add("Add", graph.add("Mul", value, graph.constant(2.0)), value)
    assert _rewrite(graph.model(total), "fold-affine")["Mul"] == 1


@quick
@given(seed=seeds, bias=st.booleans())
def test_batch_normalization_folds_into_the_convolution_before_it(seed: int, bias: bool) -> None:
    graph = Graph(seed)
    value = graph.conv("input", 6, 3, bias=bias)
    parameters: list[Array] = [graph.random(6), graph.random(6), graph.random(6), np.abs(graph.random(6)) + np.float32(0.5)]
    value = graph.add("BatchNormalization", value, *(graph.constant(array) for array in parameters))
    assert _rewrite(graph.model(value), "fold-batch-norm") == {"Conv": 1}


@quick
@given(seed=seeds, order=st.permutations(["features", "channels", "places"]), number=st.floats(-2, 2))
def test_a_number_scales_the_smallest_factor_of_a_product(seed: int, order: list[str], number: float) -> None:
    graph = Graph(seed)
    features = graph.conv("input", 6, 3)
    places = graph.add("Sigmoid", graph.conv(features, 1, 3))
    channels = graph.add("Sigmoid", graph.add("GlobalAveragePool", features))
    one, two, three = ({"features": features, "channels": channels, "places": places}[name] for name in order)
    product = graph.add("Mul", graph.add("Mul", one, two, channels=6), three, channels=6)
    model = graph.model(graph.add("Mul", product, graph.constant(number)))
    assert _rewrite(model, "shrink-scales")["Mul"] == 3
    (scaling,) = [node for node in model.graph if node.op_type == "Mul" and node.inputs[1].is_initializer()]  # type: ignore[union-attr]
    assert scaling.inputs[0].name == channels  # type: ignore[union-attr]


def test_a_number_stays_where_no_factor_is_smaller() -> None:
    graph = Graph(0)
    product = graph.add("Mul", graph.conv("input", 6, 3), graph.add("Tanh", graph.conv("input", 6, 3)))
    model = graph.model(graph.add("Mul", product, graph.constant(0.1)))
    _rewrite(model, "shrink-scales")
    assert [node.op_type for node in model.graph][-2:] == ["Mul", "Mul"]


# Activations and shuffles


@quick
@given(
    seed=seeds,
    activation=st.sampled_from(["Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "PRelu of one slope", "PRelu"]),
    mode=st.sampled_from(["CRD", "DCR"]),
    factor=st.integers(2, 3),
)
def test_an_activation_moves_ahead_of_the_shuffle_to_its_convolution(seed: int, activation: str, mode: str, factor: int) -> None:
    graph = Graph(seed)
    value = graph.shuffle(graph.conv("input", 3 * factor**2, 3), factor, mode)
    slopes: tuple[int, ...] | None = {"PRelu": (3, 1, 1), "PRelu of one slope": (1,)}.get(activation)
    parameters = [] if slopes is None else [graph.constant(graph.random(*slopes))]
    model = graph.model(graph.add(activation.partition(" ")[0], value, *parameters))
    assert _rewrite(model, "move-activations")
    assert [node.op_type for node in model.graph] == ["Conv", activation.partition(" ")[0], "DepthToSpace"]


def test_an_activation_stays_where_the_shuffle_has_another_reader() -> None:
    graph = Graph(0)
    value = graph.shuffle(graph.conv("input", 16, 3))
    model = graph.model(graph.add("Add", graph.add("Relu", value), value))
    _rewrite(model, "move-activations")
    assert [node.op_type for node in model.graph][:2] == ["Conv", "DepthToSpace"]


def _reshaped_shuffle(graph: Graph, factor: int, permutation: Sequence[int], order: Sequence[str]) -> str:
    """Reshape, Transpose, Reshape as exporters write PixelShuffle with sizes burnt in."""
    channels = graph.channels["input"] // factor**2
    sizes = {"c": channels, "r": factor, "h": SIDES[0], "w": SIDES[1]}
    wide = graph.add("Reshape", "input", graph.constant(np.array([-1, *(sizes[axis] for axis in order)])), channels=channels)
    turned = graph.add("Transpose", wide, perm=list(permutation))
    final = np.array([-1, channels, SIDES[0] * factor, SIDES[1] * factor])
    return graph.add("Reshape", turned, graph.constant(final), channels=channels)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize(
    ("permutation", "order"), [((0, 1, 4, 2, 5, 3), "crrhw"), ((0, 3, 4, 1, 5, 2), "rrchw")], ids=["CRD", "DCR"]
)
def test_a_shuffle_written_as_reshapes_is_recognised_and_then_takes_any_size(
    factor: int, permutation: tuple[int, ...], order: str
) -> None:
    graph = Graph(0, channels=5 * factor**2, sides=SIDES)
    model = graph.model(_reshaped_shuffle(graph, factor, permutation, order))
    assert _rewrite(model, "depth-to-space") == {"DepthToSpace": 1}


@pytest.mark.parametrize("permutation", [(0, 1, 5, 3, 4, 2), (0, 1, 4, 3, 5, 2)], ids=["turned", "another order"])
def test_reshapes_that_are_no_shuffle_are_left_alone(permutation: tuple[int, ...]) -> None:
    graph = Graph(0, channels=8, sides=SIDES)
    model = graph.model(_reshaped_shuffle(graph, 2, permutation, "crrhw"))
    assert _rewrite(model, "depth-to-space")["Reshape"] == 2


@quick
@given(
    seed=seeds,
    modes=st.lists(st.sampled_from(["CRD", "DCR"]), min_size=1, max_size=3),
    factor=st.integers(2, 3),
    sides=st.sampled_from([("h", "w"), SIDES, (SIDES[0], "w"), ("h", SIDES[1])]),
    ends=st.booleans(),
)
def test_shuffles_written_out_give_what_they_gave_and_are_recognised_again(
    seed: int, modes: list[str], factor: int, sides: tuple[int | str, int | str], ends: bool
) -> None:
    graph = Graph(seed, sides=sides)
    value = "input"
    for mode in modes:
        value = graph.shuffle(graph.conv(value, 2 * factor**2, 1), factor, mode)
    model = graph.model(value if ends else graph.conv(value, 3, 3))
    halo = receptive_halo(model.graph)
    operators = _rewrite(model, "lower-depth-to-space")
    assert receptive_halo(with_shuffles(model).graph) == halo
    assert (operators["Reshape"], operators["Transpose"], operators["DepthToSpace"]) == (2 * len(modes), len(modes), 0)
    assert operators["Shape"] == (0 if sides == SIDES else len(modes))
    assert _rewrite(model, "depth-to-space") == {"Conv": len(modes) + (not ends), "DepthToSpace": len(modes)}


def test_a_shuffle_of_a_size_known_to_nobody_is_written_out_too() -> None:
    graph = Graph(0)
    model = graph.model(graph.conv(graph.shuffle(graph.conv("input", 18, 1), 3), 3, 3))
    for node in list(model.graph)[:-1]:
        node.outputs[0].shape = None
    assert _rewrite(model, "lower-depth-to-space")["Transpose"] == 1


@pytest.mark.parametrize("opset", range(OPSET_RANGE[0], OPSET_RANGE[1] + 1))
@pytest.mark.parametrize("sides", [SIDES, ("h", "w")], ids=["fixed", "free"])
def test_a_shuffle_written_out_runs_at_every_opset_on_every_backend(opset: int, sides: tuple[int | str, int | str]) -> None:
    graph = Graph(0, sides=sides)
    model = graph.model(graph.conv(graph.shuffle(graph.shuffle(graph.conv("input", 72, 3), 2, "DCR"), 3, "CRD"), 3, 3))
    pictures = [graph.random(2, CHANNELS, *SIDES)] + ([] if sides == SIDES else [graph.random(1, CHANNELS, 6, 17)])
    expected = [_outputs("onnxruntime", ir.to_proto(model).SerializeToString(), picture) for picture in pictures]
    lowered, _ = run_passes(model, passes=select_passes([], extra=["lower-depth-to-space"]))
    written = convert_opset(ir.to_proto(lowered), opset)  # which onnx's checker goes over
    assert "DepthToSpace" not in {node.op_type for node in written.graph.node}
    able = [entry.name for entry in BACKENDS if entry.opens_graphs and entry.name != "ncnn"]  # which has no tensors of six axes
    for backend in able:
        for picture, wanted in zip(pictures, expected, strict=True):
            np.testing.assert_allclose(_outputs(backend, written.SerializeToString(), picture), wanted, rtol=1e-4, atol=1e-4)


def _outputs(backend: str, graph: bytes, array: Array) -> Array:
    with open_backend(backend, graph, precision="fp32") as opened:
        return opened.run(array)


@pytest.mark.parametrize("form", ["halved", "divided", "constants first"])
def test_a_shifted_tanh_becomes_a_sigmoid_whose_scale_folds_away(form: str) -> None:
    graph = Graph(0)
    one, value = graph.constant(1.0), graph.add("Tanh", graph.conv("input", 3, 3))
    value = graph.add("Add", *((one, value) if form == "constants first" else (value, one)), channels=3)
    if form == "divided":
        value = graph.add("Div", value, graph.constant(2.0))
    else:
        half = graph.constant(0.5)
        value = graph.add("Mul", *((half, value) if form == "constants first" else (value, half)), channels=3)
    assert _rewrite(graph.model(value), "tanh-to-sigmoid", "fold-affine") == {"Conv": 1, "Sigmoid": 1}


@pytest.mark.parametrize(("added", "factor"), [(1.0, 0.25), (2.0, 0.5)])
def test_another_function_of_tanh_is_left_alone(added: float, factor: float) -> None:
    graph = Graph(0)
    value = graph.add("Add", graph.add("Tanh", graph.conv("input", 3, 3)), graph.constant(added))
    assert _rewrite(graph.model(graph.add("Mul", value, graph.constant(factor))), "tanh-to-sigmoid")["Tanh"] == 1


@pytest.mark.parametrize("bounds", ["clip", "max and min", "relu"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_scale_at_the_end_passes_clips_and_moves_to_the_convolution(bounds: str, shuffled: bool) -> None:
    graph = Graph(0)
    value = graph.conv("input", 12, 3)
    if bounds == "clip":
        value = graph.add("Clip", value, graph.constant(-0.1), graph.constant(0.2))
    elif bounds == "max and min":
        value = graph.add("Max", graph.constant(-0.1), graph.add("Min", value, graph.constant(0.2)))
    else:
        value = graph.add("Relu", value)
    if shuffled:
        value = graph.add("DepthToSpace", value, blocksize=2, channels=3)
    if bounds != "relu":
        value = graph.add("Add", value, graph.constant(0.3))
    left = _rewrite(graph.model(graph.add("Div", value, graph.constant(2.55))), "fold-affine")
    kept = {"clip": {"Clip": 1}, "max and min": {"Max": 1, "Min": 1}, "relu": {"Relu": 1}}[bounds]
    assert left == {"Conv": 1, **kept, **({"DepthToSpace": 1} if shuffled else {})}


@pytest.mark.parametrize("reason", ["offset behind a relu", "turned round", "read twice"])
def test_a_scale_that_cannot_pass_a_clip_exactly_stays(reason: str) -> None:
    graph = Graph(0)
    convolved = graph.conv("input", 3, 3)
    value = graph.add("Relu", convolved)
    if reason == "offset behind a relu":
        value = graph.add("Add", value, graph.constant(0.5))
    elif reason == "turned round":
        value = graph.add("Mul", value, graph.constant(-0.5))
    else:
        value = graph.add("Mul", graph.add("Mul", value, graph.constant(0.5)), convolved)
    left = _rewrite(graph.model(value), "fold-affine")
    assert left["Conv"] == left["Relu"] == 1
    assert sum(left.values()) == (4 if reason == "read twice" else 3)


# All of them


def test_what_is_computed_twice_is_computed_once() -> None:
    graph = Graph(0)
    weight, bias = graph.constant(graph.random(4, 4, 3, 3)), graph.constant(graph.random(4))
    twins = [graph.add("Relu", graph.add("Conv", "input", weight, bias, pads=[1] * 4)) for _ in range(2)]
    assert _rewrite(graph.model(graph.add("Mul", *twins)), "fold-affine") == {"Conv": 1, "Relu": 1, "Mul": 1}


def test_every_pass_but_those_that_are_needed_can_be_left_out() -> None:
    for step in PASSES:
        if step.required:
            with pytest.raises(UnknownNameError, match="pass to leave out"):
                select_passes([step.name])
        else:
            assert step not in select_passes([step.name])
            assert len(select_passes([step.name])) == len(PASSES) - 1


def test_an_extra_pass_runs_where_it_is_asked_for_and_before_nodes_are_named() -> None:
    assert not {*EXTRA_PASSES} & {*PASSES, *select_passes([])}
    for step in EXTRA_PASSES:
        assert select_passes([], extra=[step.name]) == (*PASSES[:-1], step, PASSES[-1])
    with pytest.raises(UnknownNameError, match="pass to ask for 'names'; known: lower-depth-to-space"):
        select_passes([], extra=["names"])


def test_the_first_record_is_of_the_graph_as_it_came() -> None:
    graph = Graph(0)
    model = graph.model(graph.add("Mul", graph.conv("input", 3, 3), graph.constant(2.0)))
    macs = total_macs(ir.to_proto(model))
    _, records = run_passes(model, passes=select_passes([]))
    assert (records[0].nodes, records[0].macs) == (2, macs)
    assert records[-1].nodes == 1
    assert [record.name for record in records[1:]] == [step.name for step in PASSES]
