"""What of a graph a refit can exchange, and what makes it another graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from export.engine.tensorrt.structure import structure_digest, weight_names
from runtime.targets import find_target
from tests.graphs import Graph
from tests.small_int8 import small_int8


def _model() -> onnx.ModelProto:
    """A convolution, a PRelu, a clipping, and the convolution's bias read once more by an addition."""
    graph = Graph(0)
    first = graph.add("PRelu", graph.conv("input", 4, 3), graph.constant(graph.random(4, 1, 1)))
    clipped = graph.add("Clip", graph.conv(first, 4, 3, bias=False), graph.constant(0.25), graph.constant(1.0))
    shared = graph.constant(graph.random(1))
    added = graph.add("Add", clipped, shared)
    return graph.proto(graph.add("PRelu", added, shared))


def _scaled(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    tensor = next(tensor for tensor in other.graph.initializer if tensor.name == name)
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((array / 2).astype(array.dtype), name))
    return other


def test_weights_are_what_layers_read_as_such_and_nothing_else_does() -> None:
    model = _model()
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    expected = {name for node in convolutions for name in node.input[1:]} | {model.graph.node[1].input[1]}
    assert weight_names(model) == expected


def test_other_weights_leave_the_structure() -> None:
    model = _model()
    for name in weight_names(model):
        assert structure_digest(_scaled(model, name)) == structure_digest(model), name


def test_what_else_is_constant_is_structure() -> None:
    model = _model()
    others = {tensor.name for tensor in model.graph.initializer} - weight_names(model)
    assert len(others) == 3
    for name in others:
        assert structure_digest(_scaled(model, name)) != structure_digest(model), name


def _another_shape(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.zeros((4, 4, 1, 1), np.float32), model.graph.initializer[0].name)
    )


def _another_type(model: onnx.ModelProto) -> None:
    array = numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array.astype(np.float16), model.graph.initializer[0].name))


def _another_operator(model: onnx.ModelProto) -> None:
    model.graph.node[-2].op_type = "Sub"


def _another_attribute(model: onnx.ModelProto) -> None:
    (pads,) = [attribute for attribute in model.graph.node[0].attribute if attribute.name == "pads"]
    pads.ints[0] = 2


def _another_size(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 64


@pytest.mark.parametrize("edit", [_another_shape, _another_type, _another_operator, _another_attribute, _another_size])
def test_another_graph_has_another_structure(edit: Callable[[onnx.ModelProto], None]) -> None:
    model, other = _model(), _model()
    edit(other)
    assert structure_digest(other) != structure_digest(model)


def test_values_are_left_out_however_they_are_stored() -> None:
    model, other = _model(), _model()
    for tensor in other.graph.initializer:
        if tensor.name in weight_names(model):
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, array.shape, array.ravel().tolist()))
    assert other != model
    assert structure_digest(other) == structure_digest(model)


def test_what_a_subgraph_reads_is_structure() -> None:
    model = _model()
    weight = model.graph.node[0].input[1]
    inner = helper.make_graph([helper.make_node("Identity", [weight], ["inner"])], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["condition"], ["chosen"], then_branch=inner, else_branch=inner))
    assert weight not in weight_names(model)


def test_int8_weights_and_scales_are_weights_and_zero_points_are_not() -> None:
    model = small_int8(find_target("tensorrt")).int8
    weights = weight_names(model)
    quantizers = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {node.input[1] for node in quantizers} <= weights
    assert not {name for node in quantizers for name in node.input[2:]} & weights
    for name in weights:
        assert structure_digest(_scaled(model, name)) == structure_digest(model), name
