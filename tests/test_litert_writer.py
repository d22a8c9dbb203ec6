"""What a .tflite file computes is what the ONNX graph says, run by LiteRT's own kernels; what it cannot hold is refused by name."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

pytest.importorskip("ai_edge_litert", reason="pip install 'sredge[litert]'")

from calibration.ranges import Method
from export.engine.litert.flatbuffer import serialize
from export.engine.litert.operators import OPERATORS
from export.engine.litert.walk import write_tflite
from export.graph.pixel_io import with_pixel_io, without_pixel_io
from quantize.int8 import quantize_int8
from quantize.options import Effort, Int8Options
from runtime.backends.litert_layers import read_layers
from runtime.backends.onnxruntime import run_as_written
from runtime.errors import UserError
from runtime.pictures.pixels import to_floats
from runtime.targets import find_target
from runtime.targets.operators import Part
from runtime.verify.value_check import check_picture
from tests.graphs import Array, Graph
from tests.random_graphs import build, draw_plan
from tests.row_graphs import COLOURS, GRAPHS, SIDE, operator_graph
from tests.small_int8 import measured_on, small_network
from tests.tflite_files import operators_of, read_tflite, run_tflite

TARGET = find_target("litert")
REFUSED = {"Elu": "Elu", "HardSigmoid": "HardSigmoid", "Gelu": "Gelu", "Div": "Exp", "Resize cubic": "Resize"}
"""What the target's table has not, and the operator that the error names."""
NOT_IN_FP32 = {"HardSigmoid", "Resize cubic", "ConvTranspose groups"}
_SIZE = (SIDE, SIDE)
_FP32 = 1e-5  # of values up to one: sums in another order
_SEEDS = range(16)
_INT8_SEEDS = (*range(2), 12, 16, 18, 21, 27, 28, 30, 31, 37)  # of the first 40, those that the target's table takes


def tflite(model: onnx.ModelProto, *, size: tuple[int, int] | None = None) -> bytes:
    return serialize(write_tflite(model, size=size), description="a test", metadata={"name": "a test"})


@cache
def int8_of(name: str) -> onnx.ModelProto:
    return quantized(operator_graph(GRAPHS[name]), side=SIDE)


def quantized(model: onnx.ModelProto, *, side: int) -> onnx.ModelProto:
    rng = np.random.default_rng(5)
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    crops = [rng.random((1, channels, side, side), np.float32) for _ in range(2)]
    options = Int8Options(target=TARGET, method=Method.MINMAX, effort=Effort.FAST)
    return quantize_int8(model, measured_on(model, crops), options).model


def picture(side: int = SIDE, channels: int = COLOURS) -> Array:
    return np.random.default_rng(5).random((1, channels, side, side), np.float32)


def last_scale(model: onnx.ModelProto) -> float:
    """Of the codes that the picture is made of."""
    (*_, last) = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    (scale,) = [tensor for tensor in model.graph.initializer if tensor.name == last.input[1]]
    return float(onnx.numpy_helper.to_array(scale))


@pytest.mark.parametrize("name", [name for name in GRAPHS if name not in REFUSED])
def test_an_int8_operator_gives_the_graph_s_codes_within_one(name: str) -> None:
    model = int8_of(name)
    wanted, made = run_as_written(model.SerializeToString(), picture()), run_tflite(tflite(model, size=_SIZE), picture())
    assert np.abs(made - wanted).max() <= 1.01 * last_scale(model)


@pytest.mark.parametrize("name", [name for name in GRAPHS if name not in NOT_IN_FP32])
def test_an_fp32_operator_gives_the_graph_s_values(name: str) -> None:
    model = operator_graph(GRAPHS[name])
    wanted, made = run_as_written(model.SerializeToString(), picture()), run_tflite(tflite(model, size=_SIZE), picture())
    assert np.abs(made - wanted).max() <= _FP32


@pytest.mark.parametrize("name", sorted(NOT_IN_FP32))
def test_what_a_file_cannot_hold_is_refused_by_the_node_s_name(name: str) -> None:
    model = operator_graph(GRAPHS[name])
    operator = name.split()[0]
    (node,) = [node for node in model.graph.node if node.op_type == operator]
    with pytest.raises(UserError, match=rf"{operator} \({node.name}\)") as caught:
        tflite(model, size=_SIZE)
    assert caught.value.hint


@pytest.mark.parametrize("seed", _SEEDS)
def test_a_random_network_is_right_or_refused_by_name(seed: int) -> None:
    plan = replace(draw_plan(seed), form="free")
    model = build(plan)
    names = {node.name for node in model.graph.node}
    array = np.random.default_rng(seed).random((1, COLOURS, 32, 48), np.float32)
    file, refusal = b"", ""
    try:
        file = tflite(model, size=(32, 48))
    except UserError as error:
        refusal = str(error)
    if refusal:
        assert any(f"({name})" in refusal for name in names), refusal
        return
    wanted = run_as_written(model.SerializeToString(), array)
    assert np.abs(run_tflite(file, array) - wanted).max() <= 2e-4 * max(1, np.abs(wanted).max()), plan


@pytest.mark.parametrize("seed", _INT8_SEEDS)
def test_a_random_network_that_the_target_takes_is_written_and_right_in_int8(seed: int) -> None:
    model = build(replace(draw_plan(seed), form="free"))
    try:
        int8 = quantized(model, side=24)
    except UserError as error:
        pytest.skip(str(error)[:100])
    array = picture(24)
    codes = np.abs(run_tflite(tflite(int8, size=(24, 24)), array) - run_as_written(int8.SerializeToString(), array)) / last_scale(
        int8
    )
    assert codes.max() <= 1.01
    assert (codes > 0.5).mean() <= 0.25


def test_every_operator_of_the_target_s_table_can_be_written() -> None:
    named = {row.operator for row in TARGET.operators if row.part not in (Part.BIAS, Part.INSIDE)}
    assert named <= OPERATORS.keys()


@pytest.mark.parametrize("size", [(16, 24), (20, 16), (9, 31)])
def test_a_free_size_stays_free(size: tuple[int, int]) -> None:
    model, _, table = small_network()
    int8 = quantize_int8(model, table, Int8Options(target=TARGET, method=Method.MINMAX, effort=Effort.FAST)).model
    array = to_floats(check_picture(size))
    file = tflite(int8)
    assert read_tflite(file).subgraphs[0].tensors[0].shapeSignature.tolist() == [-1, -1, -1, COLOURS]
    wanted = run_as_written(int8.SerializeToString(), array)
    codes = np.abs(run_tflite(file, array) - wanted) / last_scale(int8)
    assert codes.max() <= 1.01
    assert (codes > 0.5).mean() <= 0.02


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_raw_pixels_in_and_out_are_what_the_graph_of_raw_pixels_gives(precision: str) -> None:
    model = small_network()[0]
    graph = with_pixel_io(model if precision == "fp32" else quantized(model, side=16))
    pixels = check_picture((16, 24))[np.newaxis]
    wanted, made = run_as_written(graph.SerializeToString(), pixels), run_tflite(tflite(graph), pixels)
    assert made.dtype == np.uint8
    assert np.abs(made.astype(int) - wanted).max() <= 1
    assert (made != wanted).mean() <= 0.02


def test_ends_for_pixels_come_off_as_they_went_on() -> None:
    model = small_network()[0]
    off = without_pixel_io(with_pixel_io(model))
    assert off.graph == onnx.ModelProto.FromString(model.SerializeToString()).graph


def in_halves(model: onnx.ModelProto) -> onnx.ModelProto:
    halves: onnx.ModelProto = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in halves.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), tensor.name))
    for value in (*halves.graph.value_info, *halves.graph.output, *halves.graph.input):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return halves


def test_half_precision_is_stored_and_computed_from() -> None:
    model = small_network()[0]
    halves = in_halves(model)
    file, array = tflite(halves), to_floats(check_picture((16, 24)))
    assert len(file) < 0.75 * len(tflite(model))
    assert np.abs(run_tflite(file, array) - run_as_written(model.SerializeToString(), array)).max() <= 5e-3


@pytest.mark.parametrize("name", ["Sigmoid", "Softmax", "Tanh"])
def test_what_a_kernel_writes_in_codes_of_its_own_the_target_quantizes_to(name: str) -> None:
    operators = operators_of(tflite(int8_of(name), size=_SIZE))
    assert operators["QUANTIZE"] == 1  # the picture's, and none behind the kernel


def test_layers_say_what_they_multiply_in() -> None:
    model = small_network()[0]
    for one, precision in ((model, "fp32"), (in_halves(model), "fp16"), (quantized(model, side=16), "int8")):
        layers = {layer.name: layer for layer in read_layers(tflite(one))}
        convolutions = [node.name for node in model.graph.node if node.op_type == "Conv" and node.name in layers]
        assert len(convolutions) >= 3  # in int8 the first is merged into the one behind it
        assert {layers[name].precision for name in convolutions} == {precision}
        assert {layers[name].op for name in convolutions} == {"CONV_2D"}


def test_a_shuffle_behind_a_convolution_has_its_channels_in_order_there() -> None:
    graph = Graph(0, channels=COLOURS)
    model = graph.proto(graph.shuffle(graph.add("Relu", graph.conv("input", 12, 3))))
    assert operators_of(tflite(model)) == {"CONV_2D": 1, "DEPTH_TO_SPACE": 1}


def test_a_shuffle_that_no_convolution_writes_has_them_gathered() -> None:
    graph = Graph(0, channels=12)
    model = graph.proto(graph.shuffle("input"))
    file = tflite(model)
    assert operators_of(file) == {"GATHER": 1, "DEPTH_TO_SPACE": 1}
    np.testing.assert_array_equal(run_tflite(file, picture(4, 12)), run_as_written(model.SerializeToString(), picture(4, 12)))


@pytest.mark.parametrize(("low", "high", "form"), [(0.0, 1.0, "MAXIMUM"), (-0.5, 1.0, "ADD"), (0.5, 1.5, "ADD")])
def test_slopes_of_channels_are_written_without_prelu(low: float, high: float, form: str) -> None:
    graph = Graph(0, channels=COLOURS)
    slopes = np.linspace(low, high, 8, dtype=np.float32).reshape(8, 1, 1)
    model = graph.proto(graph.conv(graph.add("PRelu", graph.conv("input", 8, 3), graph.constant(slopes)), COLOURS, 3))
    int8 = quantized(model, side=SIDE)
    for one, tolerance in ((model, _FP32), (int8, 1.01 * last_scale(int8))):
        file = tflite(one)
        assert operators_of(file)["PRELU"] == 0
        assert operators_of(file)[form] == 1
        wanted = run_as_written(one.SerializeToString(), picture())
        assert np.abs(run_tflite(file, picture()) - wanted).max() <= tolerance * max(1, np.abs(wanted).max())


@pytest.mark.parametrize("fill", [0.0, 0.75])
def test_what_is_padded_with_another_number_than_0_is_padv2(fill: float) -> None:
    graph = Graph(0, channels=COLOURS)
    pads, number = graph.constant(np.array([0, 0, 1, 2, 0, 0, 0, 1])), graph.constant(np.array(fill, np.float32))
    model = graph.proto(graph.conv(graph.add("Pad", "input", pads, number), COLOURS, 3))
    file = tflite(model)
    assert operators_of(file)["PADV2" if fill else "PAD"] == 1
    wanted = run_as_written(model.SerializeToString(), picture())
    assert np.abs(run_tflite(file, picture()) - wanted).max() <= _FP32 * np.abs(wanted).max()


def test_weights_lie_at_multiples_of_16_and_the_same_graph_gives_the_same_bytes() -> None:
    model = quantized(small_network()[0], side=16)
    file = tflite(model)
    assert file == tflite(model)
    assert file[4:8] == b"TFL3"
    for buffer in read_tflite(file).buffers:
        if buffer.data is not None:
            assert _offset(buffer.data, file) % 16 == 0


def _offset(data: NDArray[np.uint8], file: bytes) -> int:
    """Where in the file the bytes lie that `data`, a view of it, shows."""
    return int(data.ctypes.data - np.frombuffer(file, np.uint8).ctypes.data)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_a_graph_with_other_codes_is_refused_with_what_to_type(target: str) -> None:
    model, _, table = small_network()
    int8 = quantize_int8(model, table, Int8Options(target=find_target(target), method=Method.MINMAX, effort=Effort.FAST)).model
    with pytest.raises(UserError, match="activations are uint8") as caught:
        tflite(int8)
    assert "--target litert" in caught.value.hint
