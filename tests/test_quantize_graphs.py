"""The int8 and fp16 graphs of the real network: what their nodes say, and what the backends make of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from calibration.ranges import Method
from calibration.shipped_tables import SHIPPED_TABLES
from calibration.table import read_table
from quantize.int8 import quantize_int8
from quantize.options import STEPS, Int8Options
from quantize.stage import load_fp32
from runtime.backends import BACKENDS, open_backend
from runtime.bundle import Bundle, Contract
from runtime.images import Picture, to_network
from runtime.targets import TARGETS, find_target
from tests.processor import skip_where_products_overflow

EACH_BACKEND = pytest.mark.parametrize(
    "backend", [entry.name for entry in BACKENDS if entry.opens_graphs and "int8" in entry.precisions]
)
STEP = 1 / 255
Array = NDArray[np.number[Any]]


@dataclass(frozen=True)
class Graph:
    """A graph whose nodes are looked up by what they write."""

    model: onnx.ModelProto

    @cached_property
    def constants(self) -> dict[str, Array]:
        return {weight.name: onnx.numpy_helper.to_array(weight) for weight in self.model.graph.initializer}

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        return {name: node for node in self.model.graph.node for name in node.output}

    def nodes(self, *op_types: str) -> Iterator[onnx.NodeProto]:
        return (node for node in self.model.graph.node if node.op_type in op_types)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self.model.graph.node if name in node.input]

    def parameters(self, node: onnx.NodeProto) -> tuple[Array, ...]:
        """Scale and, where there is one, zero point of a QuantizeLinear or DequantizeLinear."""
        return tuple(self.constants[name] for name in node.input[1:])


@pytest.fixture(scope="session")
def int8(quantized: Bundle) -> Graph:
    return Graph(onnx.load_model(quantized.path(quantized.variant("int8"))))


@pytest.fixture(scope="session")
def fp32(quantized: Bundle) -> Graph:
    return Graph(onnx.load_model(quantized.path(quantized.variant("fp32"))))


@pytest.fixture(scope="session")
def plain(exported: Bundle) -> Graph:
    """The int8 graph with every step left out that changes weights or biases."""
    options = Int8Options(target=find_target("cpu"), method=Method.PERCENTILE, without=frozenset(STEPS))
    table = read_table(SHIPPED_TABLES / "lesrcnn_x2.json")
    return Graph(quantize_int8(load_fp32(exported), table, options).model)


def is_activation_quantizer(graph: Graph, node: onnx.NodeProto) -> bool:
    return node.input[0] not in graph.constants


def test_weights_are_int8_with_a_scale_for_each_output_channel(int8: Graph) -> None:
    for layer in int8.nodes("Conv"):
        dequantize = int8.producers[layer.input[1]]
        weight = int8.constants[dequantize.input[0]]
        scale, zero_point = int8.parameters(dequantize)

        assert (dequantize.op_type, [attribute.i for attribute in dequantize.attribute]) == ("DequantizeLinear", [0])
        assert [array.dtype.name for array in (weight, scale, zero_point)] == ["int8", "float32", "int8"]
        assert scale.shape == zero_point.shape == weight.shape[:1]
        assert not zero_point.any()


def test_integer_weights_are_steps_next_to_the_fp32_weights_and_add_up_to_what_those_do(plain: Graph, fp32: Graph) -> None:
    exact = {node.name: fp32.constants[node.input[1]] for node in fp32.nodes("Conv")}

    for layer in plain.nodes("Conv"):
        dequantize = plain.producers[layer.input[1]]
        steps = plain.parameters(dequantize)[0].astype(np.float64).reshape(-1, 1, 1, 1)
        restored = plain.constants[dequantize.input[0]] * steps
        errors = (restored - exact[layer.name]) / steps
        assert np.abs(errors).max() <= 1.0001, layer.name
        assert np.abs(errors.sum(axis=(1, 2, 3))).max() <= 0.5001, layer.name


def test_biases_are_int32_at_the_scale_of_input_times_weight(plain: Graph, fp32: Graph) -> None:
    exact = {node.name: fp32.constants[node.input[2]] for node in fp32.nodes("Conv") if len(node.input) == 3}
    biased = [node for node in plain.nodes("Conv") if len(node.input) == 3]

    assert {node.name for node in biased} == exact.keys()
    for layer in biased:
        (input_scale, _), (weight_scale, _), (scale,) = (plain.parameters(plain.producers[name]) for name in layer.input)
        bias = plain.constants[plain.producers[layer.input[2]].input[0]]
        assert bias.dtype == np.int32
        np.testing.assert_allclose(scale, input_scale * weight_scale, rtol=1e-6)
        assert (np.abs(bias * scale.astype(np.float64) - exact[layer.name]) <= 0.5001 * scale).all(), layer.name


def test_activations_are_quantized_as_a_whole_in_the_type_of_the_target(int8: Graph) -> None:
    (target,) = [target for target in TARGETS if target.name == "cpu"]
    quantizers = [node for node in int8.nodes("QuantizeLinear", "DequantizeLinear") if is_activation_quantizer(int8, node)]

    assert len(quantizers) > 2 * len(list(int8.nodes("Conv")))
    for node in quantizers:
        scale, zero_point = int8.parameters(node)
        assert (scale.shape, zero_point.shape, zero_point.dtype.name) == ((), (), target.activation_dtype)


def test_a_tensor_is_dequantized_as_it_was_quantized(int8: Graph) -> None:
    for quantize in int8.nodes("QuantizeLinear"):
        (dequantize,) = int8.readers(quantize.output[0])
        if dequantize.op_type in ("DepthToSpace", "Pad"):
            continue  # has a test of its own
        assert (dequantize.op_type, dequantize.input[1:]) == ("DequantizeLinear", quantize.input[1:])


def test_every_depth_to_space_moves_integers_of_one_scale_and_zero_point(int8: Graph) -> None:
    moving = list(int8.nodes("DepthToSpace"))

    assert moving
    for node in moving:
        (after,) = int8.readers(node.output[0])
        before = int8.producers[node.input[0]]
        assert (before.op_type, after.op_type) == ("QuantizeLinear", "DequantizeLinear")
        assert int8.parameters(before) == int8.parameters(after)


def test_both_sides_of_every_addition_are_quantized(int8: Graph) -> None:
    additions = list(int8.nodes("Add"))

    assert additions
    for node in additions:
        assert [int8.producers[name].op_type for name in node.input] == ["DequantizeLinear"] * 2


def test_no_float_weight_of_a_quantized_layer_is_left(int8: Graph) -> None:
    scales = {node.input[1] for node in int8.nodes("QuantizeLinear", "DequantizeLinear")}

    assert {name for name, value in int8.constants.items() if value.dtype == np.float32} == scales


def test_the_file_is_about_a_quarter_of_fp32(quantized: Bundle) -> None:
    int8_bytes, fp32_bytes = (quantized.path(quantized.variant(name)).stat().st_size for name in ("int8", "fp32"))

    assert int8_bytes < 0.3 * fp32_bytes  # a quarter, and the graph itself; a weight that two layers share is written once


def test_input_and_output_sit_on_the_pixel_grid(int8: Graph) -> None:
    (first,) = int8.readers(int8.model.graph.input[0].name)
    last = int8.producers[int8.model.graph.output[0].name]

    assert (first.op_type, last.op_type) == ("QuantizeLinear", "DequantizeLinear")
    for node in (first, last):
        assert [value.item() for value in int8.parameters(node)] == [np.float32(STEP), 0]


def as_written(path: Path, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the graph computes node by node, integers simulated in float32: ONNX Runtime with its optimiser off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    outputs: list[NDArray[np.float32]] = session.run(None, {"input": array})
    return outputs[0]


@EACH_BACKEND
def test_a_backend_computes_the_int8_graph_as_it_is_written(quantized: Bundle, picture: Picture, backend: str) -> None:
    skip_where_products_overflow(backend)
    path = quantized.path(quantized.variant("int8"))
    with open_backend(backend, path.read_bytes(), precision="int8") as opened:
        computed = opened.run(to_network(picture, Contract(), scale=2))

    steps = np.abs(computed - as_written(path, to_network(picture, Contract(), scale=2))) / STEP

    # Integer kernels round where float ones do not; through 26 layers that moves single pixels by a few steps, few of them at all.
    assert steps.max() <= 4.01
    assert steps.mean() <= 0.5


@EACH_BACKEND
def test_the_int8_output_is_close_to_fp32(quantized: Bundle, picture: Picture, backend: str) -> None:
    outputs = []
    for precision in ("int8", "fp32"):
        variant = quantized.variant(precision)
        with open_backend(backend, quantized.read(variant), precision=variant.precision) as opened:
            outputs.append(opened.run(to_network(picture, Contract(), scale=2)).clip(0, 1))

    # Rounding to 8 bits at the end alone gives 58.9 dB.
    assert 44 < -10 * np.log10(np.square(outputs[0] - outputs[1]).mean()) < 60


def test_the_fp16_graph_takes_and_gives_float32(quantized: Bundle) -> None:
    graph = onnx.load_model(quantized.path(quantized.variant("fp16"))).graph

    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}
    assert {weight.data_type for weight in graph.initializer} == {onnx.TensorProto.FLOAT16}


def test_the_fp16_output_is_fp32s_to_half_precision(quantized: Bundle, picture: Picture) -> None:
    outputs = []
    for precision in ("fp16", "fp32"):
        variant = quantized.variant(precision)
        with open_backend("onnxruntime", quantized.read(variant), precision=variant.precision) as opened:
            outputs.append(opened.run(to_network(picture, Contract(), scale=2)))

    assert outputs[0].dtype == np.float32
    assert np.abs(outputs[0] - outputs[1]).max() < 5e-3
