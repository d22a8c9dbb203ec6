"""What a calibration table is bound to: it must outlive a change of opset, and no change of the network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibration.fingerprint import graph_fingerprint
from export.models import find_network
from export.onnx_export import NATIVE_OPSET, OPSET_RANGE, convert_opset
from export.passes import select_passes
from export.stage import export_network
from export.weights import find_weights
from runtime.bundle import Bundle

Change = Callable[[onnx.GraphProto], None]


@pytest.fixture(scope="module")
def two_branches(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """LESRCNN with its branches apart, so that its nodes have more than one order."""
    network = find_network("lesrcnn", scale=2)
    weights = find_weights(network, scale=2, choice="shipped")
    directory = tmp_path_factory.mktemp("branches") / "lesrcnn_x2"
    return export_network(network, scale=2, weights=weights, directory=directory, passes=select_passes(["merge-branches"]))


@pytest.fixture
def model(two_branches: Bundle) -> onnx.ModelProto:
    return onnx.load_model(two_branches.path(two_branches.variant("fp32")))


def fingerprint(model: onnx.ModelProto) -> str:
    return graph_fingerprint(ir.from_proto(model).graph)


def node_of(graph: onnx.GraphProto, op_type: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(node for node in graph.node if node.op_type == op_type)
    return found


def reorder_nodes(graph: onnx.GraphProto) -> None:
    """Another topological order: each node as late as its readers allow."""
    waiting, late = list(graph.node), list[onnx.NodeProto]()
    while waiting:
        ready = next(node for node in waiting if not any(name in other.input for other in waiting for name in node.output))
        waiting.remove(ready)
        late.insert(0, ready)
    assert [node.name for node in late] != [node.name for node in graph.node]
    del graph.node[:]
    graph.node.extend(late)


def reorder_weights(graph: onnx.GraphProto) -> None:
    reversed_weights = list(graph.initializer)[::-1]
    del graph.initializer[:]
    graph.initializer.extend(reversed_weights)


def fix_shape(graph: onnx.GraphProto) -> None:
    for dimension, size in zip(graph.input[0].type.tensor_type.shape.dim, (1, 3, 32, 48), strict=True):
        dimension.dim_value = size


def describe(graph: onnx.GraphProto) -> None:
    graph.doc_string = "written by another version"
    graph.node[0].doc_string = "the first"


def flip_one_weight_bit(graph: onnx.GraphProto) -> None:
    weight = next(weight for weight in graph.initializer if weight.name == "conv1.0.weight")
    bits = onnx.numpy_helper.to_array(weight).copy().view(np.uint32)
    bits.flat[7] ^= 1
    weight.CopyFrom(onnx.numpy_helper.from_array(bits.view(np.float32), weight.name))


def change_attribute(graph: onnx.GraphProto) -> None:
    (mode,) = [attribute for attribute in node_of(graph, "DepthToSpace").attribute if attribute.name == "mode"]
    mode.s = b"DCR"


def change_operator(graph: onnx.GraphProto) -> None:
    node_of(graph, "Relu").op_type = "Sigmoid"


def rename_tensor(graph: onnx.GraphProto) -> None:
    (old,) = node_of(graph, "Relu").output
    for node in graph.node:
        for names in (node.input, node.output):
            renamed = ["renamed" if name == old else name for name in names]
            del names[:]
            names.extend(renamed)


def swap_inputs(graph: onnx.GraphProto) -> None:
    inputs = node_of(graph, "Add").input
    inputs[0], inputs[1] = inputs[1], inputs[0]


@pytest.mark.parametrize("opset", [opset for opset in range(OPSET_RANGE[0], OPSET_RANGE[1] + 1) if opset != NATIVE_OPSET])
def test_the_opset_leaves_the_fingerprint_as_it_is(model: onnx.ModelProto, opset: int) -> None:
    assert fingerprint(convert_opset(model, opset)) == fingerprint(model)


@pytest.mark.parametrize("change", [reorder_nodes, reorder_weights, fix_shape, describe])
def test_what_changes_no_activation_leaves_the_fingerprint_as_it_is(model: onnx.ModelProto, change: Change) -> None:
    before = fingerprint(model)

    change(model.graph)

    assert fingerprint(model) == before


@pytest.mark.parametrize("change", [flip_one_weight_bit, change_attribute, change_operator, rename_tensor, swap_inputs])
def test_any_change_of_the_network_changes_the_fingerprint(model: onnx.ModelProto, change: Change) -> None:
    before = fingerprint(model)

    change(model.graph)

    assert fingerprint(model) != before
