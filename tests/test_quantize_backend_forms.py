"""Other forms of a graph, for backends that compute the plain one wrongly: the same graph, and still needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibration.ranges import Method
from quantize.exact.backend_forms import (
    OF_THE_INT8_GRAPH,
    Form,
    batch_of_shapes,
    number_of_each_channel,
    padded_average,
    shape_of_convolution,
)
from quantize.int8 import quantize_int8
from quantize.options import Effort, Int8Options
from runtime.backends import open_backend
from runtime.backends.onnxruntime import run_as_written
from runtime.pictures.pixels import to_floats
from runtime.targets import find_target
from runtime.verify.value_check import TOLERANCE_DB, check_picture, psnr_db
from tests.graphs import Graph
from tests.processor import skip_where_products_overflow
from tests.small_int8 import measured_on

PICTURE = to_floats(check_picture((16, 24)))


def average_of_negatives() -> onnx.ModelProto:
    """An average over a border that counts, of values far below zero: their zero point is near the last code."""
    graph = Graph(0, channels=3)
    weight = graph.constant(-np.abs(graph.random(8, 3, 3, 3)))
    low = graph.add("Conv", "input", weight, channels=8, pads=[1] * 4)
    mean = graph.add("AveragePool", low, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)
    return graph.proto(graph.conv(mean, 3, 3))


def openvino_db(model: onnx.ModelProto) -> float:
    """Of the int8 graph for `cpu` on openvino, against the same graph simulated."""
    skip_where_products_overflow("openvino")
    options = Int8Options(target=find_target("cpu"), method=Method.MINMAX, effort=Effort.FAST)
    data = quantize_int8(model, measured_on(model, [PICTURE]), options).model.SerializeToString()
    with open_backend("openvino", data, precision="int8") as backend:
        return psnr_db(backend.run(PICTURE).astype(float), run_as_written(data, PICTURE).astype(float))


def test_openvino_averages_over_a_padded_border_right_in_another_form(monkeypatch: pytest.MonkeyPatch) -> None:
    model = average_of_negatives()
    assert openvino_db(model) > TOLERANCE_DB
    monkeypatch.setattr("quantize.prepare.BEFORE_QUANTIZERS", ())
    assert openvino_db(model) < TOLERANCE_DB, "openvino computes the plain form right by now: padded_average can go"


def test_a_padded_average_is_the_same_average() -> None:
    model = average_of_negatives()
    padded = ir.from_proto(model)
    padded_average(padded.graph)
    assert [node.op_type for node in padded.graph] == ["Conv", "Pad", "AveragePool", "Conv"]
    exact, made = (run_as_written(one.SerializeToString(), PICTURE) for one in (model, ir.to_proto(padded)))
    np.testing.assert_allclose(made, exact, rtol=1e-5, atol=1e-5)


def channels_behind_a_computed_pad(operator: str) -> onnx.ModelProto:
    """SwinIR's: filled up to multiples of eight, by amounts that it computes, and a mean for each channel subtracted."""
    graph = Graph(0, channels=3)
    eight = graph.constant(np.array(8))
    sides = graph.add("Slice", graph.add("Shape", "input"), graph.constant(np.array([2])), graph.constant(np.array([4])))
    missing = graph.add("Mod", graph.add("Sub", eight, graph.add("Mod", sides, eight)), eight)
    none = graph.constant(np.array([0] * 6))
    padded = graph.add("Pad", "input", graph.add("Concat", none, missing, axis=0), mode="reflect", channels=3)
    mean = graph.constant(np.array([0.45, 0.3, 0.6], np.float32).reshape(1, 3, 1, 1))
    return graph.proto(graph.conv(graph.add(operator, padded, mean), 3, 3))


def test_what_is_made_of_sizes_alone_keeps_its_shape_unpooled() -> None:
    """Torch's dynamo exporter asks for the shape of the pieces of a mask, some of them empty (Swin2SR), which no MaxPool takes."""
    graph = Graph(0, channels=3)
    made = graph.conv("input", 3, 3)
    mask = graph.add("ConstantOfShape", graph.add("Shape", made))
    bounds = [graph.constant(np.array([number])) for number in (0, 0, 2)]
    empty = graph.add("Shape", graph.add("Slice", mask, *bounds))
    none = graph.add("Cast", graph.add("ReduceMin", empty, keepdims=0), to=onnx.TensorProto.FLOAT)
    model = ir.from_proto(graph.proto(graph.add("Add", "input", none)))
    shape_of_convolution(model.graph)
    pooled = [value.name for node in model.graph if node.op_type == "MaxPool" for value in node.inputs if value is not None]
    assert pooled == [made]
    np.testing.assert_array_equal(run_as_written(ir.to_proto(model).SerializeToString(), PICTURE), PICTURE)


def shuffle_to_computed_sizes() -> onnx.ModelProto:
    """A pixel shuffle written as Reshape, Transpose, Reshape, behind two convolutions."""
    graph = Graph(0, channels=3)
    wide = graph.conv(graph.conv("input", 8, 3), 12, 3)
    shape = graph.add("Shape", wide)
    batch, height, width = (graph.add("Gather", shape, graph.constant(np.array([at]))) for at in (0, 2, 3))
    two, three = graph.constant(np.array([2])), graph.constant(np.array([3]))
    apart = graph.add("Reshape", wide, graph.add("Concat", batch, three, two, two, height, width, axis=0))
    turned = graph.add("Transpose", apart, perm=[0, 1, 4, 2, 5, 3])
    large = graph.add("Concat", batch, three, graph.add("Mul", height, two), graph.add("Mul", width, two), axis=0)
    return graph.proto(graph.add("Reshape", turned, large))


@pytest.mark.parametrize(
    ("network", "form"),
    [
        (partial(channels_behind_a_computed_pad, "Sub"), number_of_each_channel),
        (partial(channels_behind_a_computed_pad, "Mul"), number_of_each_channel),
        (shuffle_to_computed_sizes, batch_of_shapes),
    ],
    ids=["mean", "product", "shuffle"],
)
def test_openvino_computes_the_written_form_right(
    network: Callable[[], onnx.ModelProto], form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    assert openvino_db(model) > TOLERANCE_DB
    monkeypatch.setattr("quantize.int8.OF_THE_INT8_GRAPH", tuple(taken for taken in OF_THE_INT8_GRAPH if taken[1] is not form))
    assert openvino_db(model) < TOLERANCE_DB, f"openvino computes the plain form right by now: {form.__name__} can go"
    if form is not batch_of_shapes:  # the others look at quantizers
        return
    changed = ir.from_proto(model)
    form(changed.graph)
    assert len(changed.graph) > len(model.graph.node)
    made, exact = (run_as_written(one.SerializeToString(), PICTURE) for one in (ir.to_proto(changed), model))
    np.testing.assert_array_equal(made, exact)
