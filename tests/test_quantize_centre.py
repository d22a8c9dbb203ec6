"""Centring: a ReLU's values take all codes of a symmetric scheme, and the network computes what it did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.ranges import Method
from quantize.exact.centre import centre
from quantize.int8 import quantize_int8
from quantize.options import Int8Options, Step
from quantize.prepare import prepare
from runtime.targets import TARGETS, Target, find_target
from tests.graphs import Array, Graph
from tests.small_int8 import small_int8, small_network, values_as_written

NPU = find_target("npu")
SYMMETRIC_TARGETS = [target for target in TARGETS if target.activation_symmetric and not target.has_wide_codes]


def run(model: onnx.ModelProto, picture: Array) -> Array:
    (output,) = ort.InferenceSession(model.SerializeToString()).run(None, {"input": picture})
    return np.asarray(output)


def random_network(seed: int, blocks: list[str]) -> Graph:
    """A chain of blocks that read a ReLU, each in its own way; its last value is `graph.last`."""
    graph = Graph(seed, channels=3)
    value = graph.add("Relu", graph.conv("input", 8, 3))
    for block in blocks:
        if block == "plain":
            value = graph.add("Relu", graph.conv(value, 8, 3, bias=bool(seed % 2)))
        elif block == "pointwise":
            value = graph.add("Relu", graph.conv(value, 8, 1))
        elif block == "residual":
            inner = graph.add("Relu", graph.conv(value, 8, 3))
            value = graph.add("Relu", graph.add("Add", value, graph.conv(inner, 8, 3)))
        elif block == "sum":
            other = graph.add("Relu", graph.conv(value, 8, 3))
            value = graph.add("Relu", graph.conv(graph.add("Add", value, other), 8, 3))
        elif block == "shuffle":
            value = graph.add("Relu", graph.conv(graph.shuffle(graph.add("Relu", graph.conv(value, 16, 3))), 8, 3))
        elif block == "shuffle first":
            value = graph.add("Relu", graph.shuffle(graph.conv(value, 32, 3)))
        elif block == "sigmoid":
            value = graph.add("Relu", graph.conv(graph.add("Sigmoid", value), 8, 3))
    graph.conv(value, 3, 3)
    return graph


BLOCKS = st.lists(
    st.sampled_from(["plain", "pointwise", "residual", "sum", "shuffle", "shuffle first", "sigmoid"]), min_size=1, max_size=4
)


@given(seed=st.integers(0, 1000), blocks=BLOCKS)
@settings(max_examples=40)
def test_a_centred_network_computes_what_it_did_also_at_the_borders(seed: int, blocks: list[str]) -> None:
    graph = random_network(seed, blocks)
    model = graph.proto(list(graph.channels)[-1])
    centred = ir.from_proto(model)
    relus = {str(node.outputs[0].name): 8.0 for node in centred.graph if node.op_type == "Relu"}
    centre(centred.graph, NPU, relus)
    picture = np.random.default_rng(seed).random((1, 3, 9, 7), np.float32)
    expected = run(model, picture)
    # A shift of 8 rounds to 8 · 2^-24 per product; what a few layers gather of that is beyond 1e-5 of the output now and then.
    np.testing.assert_allclose(run(ir.to_proto(centred), picture), expected, atol=5e-5 * max(1, float(np.abs(expected).max())))


def test_convolutions_that_pad_by_the_same_numbers_elsewhere_are_told_apart() -> None:
    graph = Graph(0, channels=3)
    value = graph.add("Relu", graph.conv("input", 8, 3))
    branches = [
        graph.add("Conv", value, graph.constant(graph.random(8, 8, 3, 3)), pads=pads, channels=8)
        for pads in ([2, 0, 0, 2], [0, 2, 2, 0])
    ]
    model = graph.proto(graph.add("Add", *branches))
    centred = ir.from_proto(model)
    assert centre(centred.graph, NPU, {value: 8.0}).ranges
    picture = np.random.default_rng(0).random((1, 3, 9, 7), np.float32)
    expected = run(model, picture)
    np.testing.assert_allclose(run(ir.to_proto(centred), picture), expected, atol=1e-5 * max(1, float(np.abs(expected).max())))


def test_a_relu_whose_values_are_needed_as_they_are_is_left_alone() -> None:
    graph = Graph(0, channels=3)
    value = graph.add("Relu", graph.conv("input", 8, 3))
    model = ir.from_proto(graph.proto(graph.add("Sigmoid", value)))
    made = centre(model.graph, NPU, {value: 1.0})
    assert not made.ranges
    assert [node.op_type for node in model.graph] == ["Conv", "Relu", "Sigmoid"]


@pytest.mark.parametrize("target", SYMMETRIC_TARGETS, ids=lambda target: target.name)
def test_a_symmetric_target_stores_a_relu_in_all_of_its_codes(target: Target) -> None:
    small = small_int8(target)
    nodes = {node.output[0]: node for node in small.int8.graph.node}
    stored = [name for name in nodes if name.endswith(".centred.quantized")]
    assert len(stored) == 2, "both ReLUs of the network"
    for values in values_as_written(small.int8, small.crops, *stored):
        for name in stored:
            codes = values[name].astype(int)
            assert codes.min() == -128, name
            assert codes.max() > 0, f"{name}: more than half of them"


@pytest.mark.parametrize("target", SYMMETRIC_TARGETS, ids=lambda target: target.name)
def test_the_quantizer_is_the_relu_and_no_operator_is_left_of_it(target: Target) -> None:
    assert not {"Relu", "Clip"} & {node.op_type for node in small_int8(target).int8.graph.node}


@pytest.mark.parametrize("target", SYMMETRIC_TARGETS, ids=lambda target: target.name)
def test_what_is_prepared_computes_what_the_network_did(target: Target) -> None:
    model, crops, table = small_network()
    prepared = prepare(model, table, Int8Options(target=target, method=Method.MINMAX))
    for crop in crops:
        np.testing.assert_allclose(run(ir.to_proto(prepared.model), crop), run(model, crop), atol=2e-6)


def test_centring_brings_the_output_closer_to_fp32() -> None:
    model, crops, table = small_network()
    options = Int8Options(target=NPU, method=Method.MINMAX)
    pictures = [run(model, crop).clip(0, 1) for crop in crops]  # what is beyond is clipped in fp32 as well
    errors = []
    left_out: tuple[frozenset[Step], ...] = (frozenset(), frozenset({"centre"}))
    for without in left_out:
        int8 = quantize_int8(model, table, replace(options, without=without)).model
        made = [values[""].clip(0, 1) for values in values_as_written(int8, crops)]
        errors.append([np.square(one - other).mean() for one, other in zip(made, pictures, strict=True)])
    centred, plain = np.mean(errors, axis=1)
    assert centred < 0.7 * plain, (centred, plain)
