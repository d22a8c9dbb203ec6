"""Watching a graph's tensors piece by piece, against one run that hands out all of them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from calibration.pieces import stream_tensors
from calibration.watch import watch_tensors
from quantize.tensor_ranges import observed_tensors
from runtime.bundle import Bundle
from tests.graphs import Array
from tests.small_int8 import small_network

EACH_LIMIT = pytest.mark.parametrize("most_bytes", [1, 20_000, 1 << 30])


def all_tensors(model: ir.Model) -> set[str]:
    return {str(value.name) for node in model.graph for value in node.outputs} | {"input"}


def streamed(model: ir.Model, crops: Sequence[Array], tensors: set[str], *, most_bytes: int) -> list[dict[str, Array]]:
    """What `stream_tensors` gives, put together by crop; each tensor may come once."""
    by_crop: list[dict[str, Array]] = [{} for _ in crops]
    for index, values in stream_tensors(model, iter(crops), tensors, most_bytes=most_bytes):
        assert not by_crop[index].keys() & values.keys()
        by_crop[index].update(values)
    return by_crop


def assert_same(found: list[dict[str, Array]], wanted: list[dict[str, Array]], tensors: set[str]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == tensors
        for name in tensors:
            # Of sums of a few hundred products; another layout of the same tensor may add them in another order.
            atol = 1e-5 * float(np.abs(other[name]).max())
            np.testing.assert_allclose(one[name], other[name], rtol=0, atol=atol, err_msg=name)


@EACH_LIMIT
def test_every_tensor_is_what_it_is_in_one_run(most_bytes: int) -> None:
    proto, crops, _ = small_network()
    model = ir.from_proto(proto)
    tensors = all_tensors(model)

    found = streamed(model, crops, tensors, most_bytes=most_bytes)

    assert_same(found, list(watch_tensors(model, iter(crops), tensors)), tensors)


@EACH_LIMIT
def test_what_a_real_network_is_observed_for_is_what_it_is_in_one_run(exported: Bundle, most_bytes: int) -> None:
    model = ir.load(exported.path(exported.variant("fp32")))
    crops = [np.random.default_rng(0).random((1, 3, 20, 28), np.float32)]
    tensors = {*observed_tensors(model.graph)}

    found = streamed(model, crops, tensors, most_bytes=most_bytes)

    assert_same(found, list(watch_tensors(model, iter(crops), tensors)), tensors)


@EACH_LIMIT
def test_crops_of_any_order_of_sizes_are_taken(most_bytes: int) -> None:
    proto, _, _ = small_network()
    model = ir.from_proto(proto)
    tensors = all_tensors(model)
    crops = [np.random.default_rng(0).random((1, 3, *size), np.float32) for size in ((8, 8), (40, 24), (1, 1), (24, 48))]

    found = streamed(model, crops, tensors, most_bytes=most_bytes)

    assert_same(found, list(watch_tensors(model, iter(crops), tensors)), tensors)


@pytest.mark.parametrize("tensors", [set(), {"input"}, {"relu2"}], ids=str)
def test_only_what_is_asked_for_is_given(tensors: set[str]) -> None:
    proto, crops, _ = small_network()

    assert [values.keys() for values in streamed(ir.from_proto(proto), crops, tensors, most_bytes=1)] == [tensors] * len(crops)


@EACH_LIMIT
def test_a_branch_reads_tensors_of_pieces_before_it(most_bytes: int) -> None:
    """A node's subgraph reads `negative` without it being among the node's inputs, and a shape of 64-bit integers is handed on."""
    picture = helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])
    result = helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, None)
    branches = {
        name: helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)])
        for name, node in (
            ("then", helper.make_node("Relu", ["negative"], ["then"])),
            ("else", helper.make_node("Abs", ["negative"], ["else"])),
        )
    }
    nodes = [
        helper.make_node("Shape", ["input"], ["shape"]),
        helper.make_node("Neg", ["input"], ["negative"]),
        helper.make_node("If", ["condition"], ["chosen"], then_branch=branches["then"], else_branch=branches["else"]),
        helper.make_node("Reshape", ["chosen", "shape"], ["output"]),
    ]
    condition = onnx.numpy_helper.from_array(np.array(False), "condition")
    graph = helper.make_graph(nodes, "branch", [picture], [result], [condition])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    crop = np.random.default_rng(0).random((1, 3, 40, 50), np.float32)

    (found,) = streamed(ir.from_proto(proto), [crop], {"negative", "chosen", "output"}, most_bytes=most_bytes)

    np.testing.assert_array_equal(found["negative"], -crop)
    np.testing.assert_array_equal(found["chosen"], crop)
    np.testing.assert_array_equal(found["output"], crop)


def most_held_bytes(model: ir.Model, crop: Array, *, most_bytes: int) -> int:
    """Of the tensors observed, where whoever reads them lets go of them; ONNX Runtime's memory is not tracemalloc's to see."""
    seen: list[weakref.ref[Array]] = []
    most = 0
    for _, values in stream_tensors(model, iter([crop]), observed_tensors(model.graph), most_bytes=most_bytes):
        seen += [weakref.ref(array) for array in values.values()]
        del values
        most = max(most, sum(array.nbytes for array in (reference() for reference in seen) if array is not None))
    return most


def test_in_pieces_a_deep_network_holds_a_fraction_of_its_tensors(exported: Bundle) -> None:
    model = ir.load(exported.path(exported.variant("fp32")))
    crop = np.random.default_rng(0).random((1, 3, 96, 96), np.float32)
    feature_bytes = 64 * 96 * 96 * 4

    at_once = most_held_bytes(model, crop, most_bytes=1 << 30)
    in_pieces = most_held_bytes(model, crop, most_bytes=1)

    # At once 26 tensors and six of four times their size; in pieces one such and what it was made of, and a picture or two.
    assert at_once > 48 * feature_bytes
    assert in_pieces < 9 * feature_bytes
