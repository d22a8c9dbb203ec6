"""The builder's list of layers, of builds that these tests make, and lists that this sredge cannot read."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from calibration.ranges import Method
from calibration.steps import ignore_step
from export.engine.strongly_typed import TypedGraph
from export.engine.tensorrt_rtx.build import build_plan
from export.engine.tensorrt_rtx.builder_log import LoggedLayer, activation_bytes, layer_precisions, parse_layers
from quantize.int8 import quantize_int8
from quantize.options import Int8Options
from runtime.backends.engines import EngineInput, ShapeProfile
from runtime.backends.tensorrt_rtx_library import shared_logger
from runtime.errors import PipelineError
from runtime.targets import Precision, find_target
from tests.graphs import Graph
from tests.layer_kinds import CHANNELS as GIVEN
from tests.layer_kinds import LAYER_KINDS, SIDES
from tests.row_graphs import COLOURS, GRAPHS, operator_graph
from tests.row_graphs import SIDE as ROW_SIDE
from tests.rtx import CAPABILITIES, needs_rtx
from tests.small_int8 import measured_on, small_int8

pytestmark = needs_rtx
CHANNELS, SIDE = 8, 16
REFUSED = "transposed, taps fewer than strides"  # it has strides and dilations
BUILT = {name: build for name, build in LAYER_KINDS.items() if name != REFUSED}
TARGET = find_target("tensorrt-rtx")
IN_INT8 = (
    "Conv",
    "Conv depthwise",
    "Conv groups",
    "Conv strides",
    "Conv dilations",
    "ConvTranspose",
    "ConvTranspose groups",
    "Gemm",
    "MatMul",
    "MatMul bias",
    "MatMul product",
    "Add",
    "PRelu",
    "Concat",
    "Pad",
    "DepthToSpace",
)


def _built(model: onnx.ModelProto, precision: Precision, size: tuple[int, int] = (SIDE, SIDE)) -> tuple[LoggedLayer, ...]:
    profile = ShapeProfile(min=size, opt=size, max=size)
    typed = TypedGraph(graph=model.SerializeToString(), precision=precision, takes=EngineInput("float32", profile))
    return build_plan(typed, CAPABILITIES, on_step=ignore_step, cancelled=threading.Event()).layers


def _two_convolutions() -> onnx.ModelProto:
    graph = Graph(0, channels=CHANNELS)
    return graph.proto(graph.conv(graph.add("Relu", graph.conv("input", CHANNELS, 3)), CHANNELS, 3))


def test_the_bytes_of_convolutions_are_those_of_what_they_read_and_write() -> None:
    convolutions = [layer for layer in _built(_two_convolutions(), "fp32") if layer.kind == "correlation"]
    assert [set(layer.onnx_nodes) for layer in convolutions] == [{"conv0", "relu1"}, {"conv2"}]
    assert activation_bytes(convolutions) == 4 * CHANNELS * SIDE * SIDE * 4


@pytest.mark.parametrize("build", BUILT.values(), ids=BUILT.keys())
def test_every_kind_of_layer_is_found_by_its_name_with_what_it_multiplies_in(build: Callable[[Graph], str]) -> None:
    graph = Graph(7, channels=GIVEN)
    model = graph.proto(build(graph))
    found = {layer.name: layer.precision for layer in layer_precisions(_built(model, "fp32", SIDES))}
    assert found.get(model.graph.node[-1].name) == "fp32", found


@pytest.mark.parametrize("name", IN_INT8)
def test_what_the_target_has_in_int8_the_builder_runs_in_int8(name: str) -> None:
    model = operator_graph(GRAPHS[name])
    crops = [np.random.default_rng(1).random((1, COLOURS, ROW_SIDE, ROW_SIDE), np.float32)]
    options = Int8Options(target=TARGET, method=Method.MINMAX)
    quantized = quantize_int8(model, measured_on(model, crops), options)
    found = {layer.name: layer.precision for layer in layer_precisions(_built(quantized.model, "int8", (ROW_SIDE, ROW_SIDE)))}
    assert {name: found.get(name) for name in quantized.int8_layers} == dict.fromkeys(quantized.int8_layers, "int8")


def test_the_targets_scheme_moves_fewer_bytes_than_classic_tensorrts() -> None:
    """Which is why it has one of its own: with one scale per weight tensor convolutions write half, else fp32."""
    moved = {
        name: activation_bytes(_built(small_int8(find_target(name)).int8, "int8", (128, 128))) or 0
        for name in ("tensorrt", "tensorrt-rtx")
    }
    assert 0 < moved["tensorrt-rtx"] < 0.8 * moved["tensorrt"], moved


def test_a_convolution_that_the_builder_has_not_is_refused_in_its_words() -> None:
    graph = Graph(7, channels=GIVEN)
    with pytest.raises(PipelineError, match=r"built no fp32 engine: .*Strided & Dilated Deconv are currently not supported"):
        _built(graph.proto(LAYER_KINDS[REFUSED](graph)), "fp32", SIDES)


def test_where_sizes_are_free_the_bytes_are_not_known() -> None:
    profile = ShapeProfile(min=(8, 8), opt=(16, 16), max=(16, 24))
    typed = TypedGraph(graph=_two_convolutions().SerializeToString(), precision="fp32", takes=EngineInput("float32", profile))
    layers = build_plan(typed, CAPABILITIES, on_step=ignore_step, cancelled=threading.Event()).layers
    assert activation_bytes(layers) is None
    assert {layer.precision for layer in layer_precisions(layers)} == {"fp32"}


def test_a_list_that_reads_otherwise_is_an_error_and_not_an_empty_account() -> None:
    _built(_two_convolutions(), "fp32")
    (text,) = shared_logger().layer_lists
    assert parse_layers([text])
    for other in (
        text.replace("LayerType", "Kind"),
        text.replace("Datatype: Float", "Type: Float"),
        "Layers:\n\nI/O Tensors:",
    ):
        with pytest.raises(PipelineError, match="cannot tell what the engine's layers run in"):
            parse_layers([other])
    for lists in ([], [text, text]):
        with pytest.raises(PipelineError, match=f"{len(lists)} lists of layers"):
            parse_layers(lists)


def test_weights_in_int8_that_are_multiplied_by_floats_are_no_int8_layer() -> None:
    """As for capability 7.5: the type of the weights alone does not tell."""
    _built(_two_convolutions(), "fp32")
    (text,) = shared_logger().layer_lists
    start = text.index("Constants: [ {")
    typed = parse_layers([text[:start] + text[start:].replace("Datatype: Float", "Datatype: Int8", 1)])
    assert "Int8" in {constant.type for layer in typed for constant in layer.constants}
    assert {layer.precision for layer in layer_precisions(typed)} == {"fp32"}
