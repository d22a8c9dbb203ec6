"""Layouts that kernels are fast at: the same pixels, and taken only where they are exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibration.ranges import Method
from export.graph.channel_blocks import blocks_of_channels
from quantize.graph.kernel_layouts import pixels_as_channels, plane_of_luma, undo_layouts
from quantize.int8 import quantize_int8
from quantize.options import Effort, Int8Options
from runtime.backends import open_backend
from runtime.pictures.pixels import to_floats
from runtime.targets import TARGETS, Target, find_target
from runtime.verify.value_check import check_picture
from tests.graphs import Graph
from tests.small_int8 import measured_on

LAYOUTS: tuple[Callable[[ir.Graph], None], ...] = (pixels_as_channels, blocks_of_channels, plane_of_luma)
PICTURES = [to_floats(check_picture(size)) for size in ((16, 24), (15, 23))]


def upscaler(
    *, scale: int = 2, outputs: int = 3, kernel: int = 3, activation: str = "Relu", end: str | None = None, channels: int = 3
) -> onnx.ModelProto:
    """A network that ends in a layer at the larger size, or, without a `kernel`, in the shuffle itself."""
    graph = Graph(0, channels=channels)
    wide = graph.conv("input", (8 if kernel else outputs) * scale**2, 3)
    if activation == "PRelu":
        wide = graph.add("PRelu", wide, graph.constant(np.array(0.25, np.float32).reshape(1, 1, 1)))
    elif activation:
        wide = graph.add(activation, wide)
    large = graph.add("DepthToSpace", wide, blocksize=scale, mode="CRD", channels=8 if kernel else outputs)
    made = graph.conv(large, outputs, kernel) if kernel else large
    return graph.proto(graph.add(end, made) if end else made)


def int8_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph for `openvino` as it is written without layouts."""
    options = Int8Options(
        target=find_target("openvino"), method=Method.MINMAX, effort=Effort.FAST, without=frozenset({"kernel-layouts"})
    )
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    pictures = [picture[:, :channels] for picture in PICTURES]
    return quantize_int8(model, measured_on(model, pictures), options).model


def assert_same_pixels(plain: onnx.ModelProto, written: onnx.ModelProto) -> None:
    """ONNX Runtime's integer kernels give the same codes."""
    channels = plain.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    for picture in PICTURES:
        outputs = []
        for model in (plain, written):
            with open_backend("onnxruntime", model.SerializeToString(), precision="int8") as backend:
                outputs.append(backend.run(picture[:, :channels]))
        np.testing.assert_array_equal(outputs[1], outputs[0])


def laid_out(model: onnx.ModelProto) -> onnx.ModelProto:
    changed = ir.from_proto(model)
    for layout in LAYOUTS:
        layout(changed.graph)
    written = ir.to_proto(changed)
    onnx.checker.check_model(written, full_check=True)
    return written


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("kernel", [0, 1, 3, 9])
@pytest.mark.parametrize("activation", ["", "Relu", "PRelu"])
def test_no_pixel_changes(scale: int, kernel: int, activation: str) -> None:
    plain = int8_graph(upscaler(scale=scale, kernel=kernel, activation=activation))
    written = laid_out(plain)
    modes = [node.attribute for node in written.graph.node if node.op_type == "DepthToSpace"]
    assert all(attribute.s == b"DCR" for node in modes for attribute in node if attribute.name == "mode")
    assert len(modes) == (2 if kernel >= 3 and scale % 2 == 0 else 1)
    assert_same_pixels(plain, written)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_target_whose_own_backend_is_another_keeps_the_plain_form(target: Target) -> None:
    model = upscaler()
    table = measured_on(model, PICTURES)
    options = Int8Options(target=target, method=Method.MINMAX, effort=Effort.FAST)
    left_out = replace(options, without=frozenset({"kernel-layouts"}))
    plain, written = (quantize_int8(model, table, one).model for one in (left_out, options))
    assert (plain == written) == (target.default_backend != "openvino")


@pytest.mark.parametrize("scale", [2, 3])
def test_layouts_are_undone_for_whoever_reads_layers_beside_the_fp32_graph(scale: int) -> None:
    fp32 = upscaler(scale=scale)
    plain = int8_graph(fp32)
    restored = ir.from_proto(laid_out(plain))
    undo_layouts(restored.graph, ir.from_proto(fp32).graph)
    expected = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in plain.graph.initializer}
    found = {
        name: value.const_value.numpy() for name, value in restored.graph.initializers.items() if value.const_value is not None
    }
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert_same_pixels(plain, ir.to_proto(restored))


def test_layers_that_share_a_weight_keep_it_apart() -> None:
    graph = Graph(0, channels=3)
    first = graph.conv("input", 12, 3)
    second = graph.conv(graph.shuffle(first), 12, 3, weight=graph.nodes[0].input[1])
    plain = int8_graph(graph.proto(graph.conv(second, 3, 3)))
    assert_same_pixels(plain, laid_out(plain))


@pytest.mark.parametrize("end", [None, "Sigmoid", "Relu"])
def test_an_activation_at_the_end_stays_inside_the_layer(end: str | None) -> None:
    plain = int8_graph(upscaler(end=end))
    written = laid_out(plain)
    assert [node.op_type for node in written.graph.node][-2:] == ["DepthToSpace", "DequantizeLinear"]
    assert_same_pixels(plain, written)


@pytest.mark.parametrize(
    "model",
    [upscaler(scale=3), upscaler(outputs=5), upscaler(kernel=1)],
    ids=["sizes that may be odd", "outputs that fill the lanes as they are", "a kernel of one weight"],
)
def test_a_layer_that_would_lose_or_err_keeps_its_form(model: onnx.ModelProto) -> None:
    plain = ir.from_proto(int8_graph(model))
    before = [node.op_type for node in plain.graph]
    pixels_as_channels(plain.graph)
    assert [node.op_type for node in plain.graph] == before


def test_luma_is_restored_as_a_plane() -> None:
    plain = int8_graph(upscaler(scale=3, outputs=1, kernel=0, channels=1))
    written = laid_out(plain)
    assert [node.op_type for node in written.graph.node][-3:] == ["Squeeze", "DequantizeLinear", "Unsqueeze"]
    assert_same_pixels(plain, written)


def test_openvino_gives_the_same_codes_but_for_ties() -> None:
    """It adds biases and scales in another order where a layer has other channels: a tie may round the other way."""
    plain = int8_graph(upscaler())
    outputs = []
    for model in (plain, laid_out(plain)):
        with open_backend("openvino", model.SerializeToString(), precision="int8") as backend:
            outputs.append(backend.run(PICTURES[0]) * 255)
    apart = np.abs(outputs[0] - outputs[1])
    assert apart.max() < 1.01
    assert (apart > 0.5).mean() < 0.01
