"""Other forms of a graph, for backends that compute the plain one wrongly: the same graph, and still needed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibration.ranges import Method
from quantize.backend_forms import padded_average
from quantize.int8 import quantize_int8
from quantize.options import Effort, Int8Options
from runtime.backends import open_backend
from runtime.backends.onnxruntime import run_as_written
from runtime.pixels import to_floats
from runtime.targets import find_target
from runtime.value_check import TOLERANCE_DB, check_picture, psnr_db
from tests.graphs import Graph
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
