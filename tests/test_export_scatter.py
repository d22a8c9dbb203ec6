"""Assignments to some channels, as torch's exporters write them, become a Concat; others stay what they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.passes.scatter_to_concat import replace_scatters
from export.reach import receptive_halo
from tests.graphs import CHANNELS, Graph
from tests.test_export_foreign import _run

Build = Callable[[Graph, str, str], str]


def _channels(first: int, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.arange(first, first + count)


def _constant(first: int, count: int) -> Build:
    """Of a fixed file: the index of each picture and channel."""

    def build(graph: Graph, data: str, updates: str) -> str:
        indices = np.stack(np.meshgrid([0], _channels(first, count), indexing="ij"), axis=-1)
        return graph.add("ScatterND", data, graph.constant(indices), updates)

    return build


def _computed(first: int, count: int) -> Build:
    """Of torch's tracing exporter: pictures are counted as the graph runs."""

    def build(graph: Graph, data: str, updates: str) -> str:
        batch = graph.add("Gather", graph.add("Shape", data), graph.constant(np.array(0)), axis=0)
        pictures = graph.add("Range", graph.constant(np.array(0)), batch, graph.constant(np.array(1)))
        wide = graph.add("Reshape", pictures, graph.constant(np.array([-1, 1])))
        ones, channels = graph.constant(np.ones((1, count), np.int64)), graph.constant(_channels(first, count))
        both = [graph.add("Mul", wide, ones), graph.add("Add", graph.add("Mul", wide, graph.constant(np.array(0))), channels)]
        last = graph.constant(np.array([-1]))
        indices = graph.add("Concat", *(graph.add("Unsqueeze", one, last) for one in both), axis=-1)
        return graph.add("ScatterND", data, indices, updates)

    return build


def _turned(first: int, count: int) -> Build:
    """Of torch's newer exporter: channels first, and back."""

    def build(graph: Graph, data: str, updates: str) -> str:
        turned = [graph.add("Transpose", one, perm=[1, 0, 2, 3]) for one in (data, updates)]
        made = graph.add("ScatterND", turned[0], graph.constant(_channels(first, count)[:, np.newaxis]), turned[1])
        return graph.add("Transpose", made, perm=[1, 0, 2, 3])

    return build


def _model(build: Build, count: int, batch: int | str) -> tuple[ir.Model, Graph]:
    graph = Graph(0)
    data = graph.conv("input", CHANNELS, 1)
    made = build(graph, data, graph.conv("input", count, 3))
    proto = graph.proto(graph.add("Relu", made, channels=CHANNELS))
    if isinstance(batch, int):
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch

    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True)), graph


@pytest.mark.parametrize(("first", "count"), [(0, 2), (1, 2), (2, 2), (0, 4)])
@pytest.mark.parametrize(
    ("kind", "batch"), [(_constant, 1), (_computed, "n"), (_turned, "n")], ids=["constant", "computed", "turned"]
)
def test_an_assignment_to_neighbouring_channels_is_a_concat(
    kind: Callable[[int, int], Build], batch: int | str, first: int, count: int
) -> None:
    model, graph = _model(kind(first, count), count, batch)
    array = graph.random(1 if batch == 1 else 2, CHANNELS, 7, 9)
    expected = _run(ir.to_proto(model), array)
    changed, said = replace_scatters(model)
    assert said.startswith("1 assignment")
    assert "ScatterND" not in {node.op_type for node in changed.graph}
    np.testing.assert_array_equal(_run(ir.to_proto(changed), array), expected)
    assert receptive_halo(changed.graph) == (1, "")


@pytest.mark.parametrize(
    "indices",
    [np.array([[[0, 0], [0, 2]]]), np.array([[[0, 1], [0, 0]]]), np.array([[[0, 0], [0, 0]]]), np.zeros((1, 0, 2), np.int64)],
    ids=["apart", "turned round", "twice", "nowhere"],
)
def test_other_assignments_stay(indices: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> None:
    model, _ = _model(
        lambda graph, data, updates: graph.add("ScatterND", data, graph.constant(indices), updates), indices.shape[1], 1
    )
    changed, _ = replace_scatters(model)
    assert "ScatterND" in {node.op_type for node in changed.graph}


def test_one_that_names_its_pictures_stays_where_the_batch_is_free() -> None:
    changed, _ = replace_scatters(_model(_constant(0, 2), 2, "n")[0])
    assert "ScatterND" in {node.op_type for node in changed.graph}
