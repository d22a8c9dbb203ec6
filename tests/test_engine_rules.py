"""Each rule for Q/DQ finds what it is there for, and nothing in a graph as it should be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.engine.tensorrt.qdq_rules import RULES, broken_rules, check_graph
from export.graph.pixel_io import with_pixel_io
from runtime.bundle import Bundle
from runtime.errors import PipelineError
from runtime.images import Picture, to_network
from runtime.targets import Precision, find_target
from tests.small_int8 import small_int8
from tests.stand_ins.libraries import ROOT, modelopt

CHANNELS = 4
Edit = Callable[[onnx.ModelProto], None]
MODELOPT = """
import sys
import numpy as np
from modelopt.onnx.quantization import quantize

calibration = np.random.default_rng(0).random((2, 3, 24, 24), np.float32)
given = dict(calibration_data={"input": calibration}, calibration_method="max", calibration_eps=["cpu"])
quantize(sys.argv[1], quantize_mode="int8", high_precision_dtype=sys.argv[3], output_path=sys.argv[2], **given)
"""


def _model(opset: int = 18) -> onnx.ModelProto:
    """Input -> Q -> DQ -> Conv (int8 weight, a scale an output channel) -> Q -> DepthToSpace -> DQ -> output."""
    rng = np.random.default_rng(0)
    constants: dict[str, NDArray[np.generic]] = {
        "scale": np.array(0.02, np.float32),
        "zero": np.array(0, np.int8),
        "weight": rng.integers(-127, 128, (CHANNELS, 3, 3, 3), dtype=np.int8),
        "weight_scale": rng.uniform(0.01, 0.02, CHANNELS).astype(np.float32),
        "weight_zero": np.zeros(CHANNELS, np.int8),
        "bias": rng.standard_normal(CHANNELS).astype(np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["w"], name="weights", axis=0),
        helper.make_node("Conv", ["x", "w", "bias"], ["y"], name="conv", pads=[1] * 4),
        helper.make_node("QuantizeLinear", ["y", "scale", "zero"], ["yq"], name="quantize_again"),
        helper.make_node("DepthToSpace", ["yq"], ["moved"], name="shuffle", blocksize=2, mode="CRD"),
        helper.make_node("DequantizeLinear", ["moved", "scale", "zero"], ["output"], name="dequantize_again"),
    ]
    graph = helper.make_graph(
        nodes,
        "qdq",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1, 16, 16])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _replace(model: onnx.ModelProto, name: str, array: NDArray[np.generic]) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def _node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(node for node in model.graph.node if node.name == name)
    return found


def _computed_scale(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Abs", ["scale"], ["computed"], name="abs"))
    _node(model, "quantize").input[1] = "computed"


def _negative_scale(model: onnx.ModelProto) -> None:
    _replace(model, "scale", np.array(-0.02, np.float32))


def _integer_scale(model: onnx.ModelProto) -> None:
    _replace(model, "weight_scale", np.ones(CHANNELS, np.int32))


def _zero_point_of_3(model: onnx.ModelProto) -> None:
    _replace(model, "zero", np.array(3, np.int8))


def _unsigned_activations(model: onnx.ModelProto) -> None:
    _replace(model, "zero", np.array(0, np.uint8))


def _integer_bias(model: onnx.ModelProto) -> None:
    _replace(model, "bias", np.arange(CHANNELS, dtype=np.int32))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["bias", "weight_scale"], ["b"], name="bias", axis=0))
    _node(model, "conv").input[2] = "b"


def _one_zero_point(model: onnx.ModelProto) -> None:
    _replace(model, "weight_zero", np.zeros(1, np.int8))


def _scales_along_inputs(model: onnx.ModelProto) -> None:
    _node(model, "weights").attribute[0].i = 1


def _scales_of_square_weights_along_inputs(model: onnx.ModelProto) -> None:
    _replace(model, "weight", np.ones((CHANNELS, CHANNELS, 3, 3), np.int8))
    _node(model, "weights").attribute[0].i = 1


def _activations_a_channel(model: onnx.ModelProto) -> None:
    _node(model, "quantize_again").input[1:] = ["weight_scale", "weight_zero"]


def _half_scales(model: onnx.ModelProto) -> None:
    _replace(model, "scale", np.array(0.02, np.float16))


def _half_scales_on_floats(model: onnx.ModelProto) -> None:
    _half_scales(model)
    model.opset_import[0].version = 19


def _half_bias(model: onnx.ModelProto) -> None:
    _replace(model, "bias", np.zeros(CHANNELS, np.float16))


def _float_weight(model: onnx.ModelProto) -> None:
    _replace(model, "weight", np.ones((CHANNELS, 3, 3, 3), np.float32))
    _node(model, "conv").input[1] = "weight"


def _relu_on_int8(model: onnx.ModelProto) -> None:
    model.graph.node.insert(5, helper.make_node("Relu", ["yq"], ["rectified"], name="relu"))
    _node(model, "shuffle").input[0] = "rectified"


def _as_it_is(model: onnx.ModelProto) -> None:
    pass


def _bytes_transposed(model: onnx.ModelProto) -> None:
    """As graphs of raw pixels were before: the bytes to planes first, then the cast."""
    wrapped = with_pixel_io(model)
    cast, transposition = wrapped.graph.node[:2]
    cast.input[0], cast.output[0] = "moved_bytes", transposition.output[0]
    transposition.input[0], transposition.output[0] = "pixels_in", "moved_bytes"
    del wrapped.graph.node[:2]
    for node in (cast, transposition):
        wrapped.graph.node.insert(0, node)
    model.CopyFrom(wrapped)


def _bytes_clipped(model: onnx.ModelProto) -> None:
    model.CopyFrom(with_pixel_io(model))
    _node(model, "pixels_out.cast").output[0] = "bytes"
    model.graph.node.append(helper.make_node("Identity", ["bytes"], ["pixels_out"], name="identity"))


def _bytes_from_integers(model: onnx.ModelProto) -> None:
    model.CopyFrom(with_pixel_io(model))
    last = _node(model, "pixels_out.cast")
    integers = helper.make_node("Cast", [last.input[0]], ["integers"], name="to_integers", to=TensorProto.INT32)
    model.graph.node.insert(len(model.graph.node) - 1, integers)
    _node(model, "pixels_out.cast").input[0] = "integers"


BROKEN: tuple[tuple[str, Edit, int], ...] = (
    ("constant-scales", _computed_scale, 18),
    ("positive-scales", _negative_scale, 18),
    ("float-scales", _integer_scale, 18),
    ("symmetric", _zero_point_of_3, 18),
    ("int8", _unsigned_activations, 18),
    ("int8", _integer_bias, 18),
    ("zero-point-size", _one_zero_point, 18),
    ("scale-count", _scales_along_inputs, 18),
    ("activations-per-tensor", _activations_a_channel, 18),
    ("weights-per-output-channel", _scales_of_square_weights_along_inputs, 18),
    ("opset", _half_scales, 18),
    ("opset", _as_it_is, 12),
    ("same-types", _half_scales_on_floats, 19),
    ("same-types", _half_bias, 18),
    ("both-operands", _float_weight, 18),
    ("int8-is-moved-alone", _relu_on_int8, 18),
    ("pixels-are-cast", _bytes_transposed, 18),
    ("pixels-are-cast", _bytes_clipped, 18),
    ("pixels-are-cast", _bytes_from_integers, 18),
)


def test_a_graph_as_it_should_be_breaks_no_rule() -> None:
    assert broken_rules(_model()) == ()


def test_weights_that_are_quantized_in_the_graph_break_none() -> None:
    model = _model()
    _replace(model, "weight", np.random.default_rng(1).standard_normal((CHANNELS, 3, 3, 3)).astype(np.float32))
    quantizer = helper.make_node(
        "QuantizeLinear", ["weight", "weight_scale", "weight_zero"], ["wq"], name="quantize_weights", axis=0
    )
    model.graph.node.insert(0, quantizer)
    _node(model, "weights").input[0] = "wq"
    assert broken_rules(model) == ()
    _node(model, "quantize_weights").attribute[0].i = 1
    assert [line.partition(":")[0] for line in broken_rules(model)] == ["scale-count"]


@pytest.mark.parametrize(("rule", "edit", "opset"), BROKEN, ids=[f"{rule}{edit.__name__}" for rule, edit, _ in BROKEN])
def test_a_rule_finds_what_breaks_it(rule: str, edit: Edit, opset: int) -> None:
    model = _model(opset)
    edit(model)
    found = [line.partition(":")[0] for line in broken_rules(model)]
    assert rule in found, found


def test_there_is_a_test_for_every_rule() -> None:
    assert {rule.name for rule in RULES} == {rule for rule, _, _ in BROKEN}


def test_the_cpus_graph_is_refused_with_the_rules_it_breaks(quantized: Bundle) -> None:
    int8 = quantized.variant("int8")
    with pytest.raises(PipelineError, match="symmetric: zero points are 0") as caught:
        check_graph(quantized.read(int8), what=int8.file)
    assert "int8: what is quantized is int8" in str(caught.value)
    assert "--target tensorrt" in caught.value.hint


def test_the_graph_for_tensorrt_breaks_none(for_tensorrt: Bundle) -> None:
    int8 = for_tensorrt.variant("int8", target="tensorrt")
    model = onnx.load_model_from_string(for_tensorrt.read(int8))
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) > len(int8.int8_layers)
    assert broken_rules(model) == ()


def test_the_graph_for_tensorrt_gives_the_fp32_picture_with_the_tables_that_ship(for_tensorrt: Bundle, picture: Picture) -> None:
    array = to_network(picture, for_tensorrt.manifest.contract, scale=2)
    variants = (for_tensorrt.variant("fp32"), for_tensorrt.variant("int8", target="tensorrt"))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # the graph as it is written
    fp32, int8 = (
        ort.InferenceSession(for_tensorrt.read(variant), options, providers=["CPUExecutionProvider"]).run(None, {"input": array})[0]
        for variant in variants
    )
    assert -10 * np.log10(np.square(int8 - fp32).mean()) > 35  # with another target's biases it is 13


@pytest.mark.parametrize("outside", ["fp32", "fp16"])
def test_what_modelopt_writes_for_tensorrt_breaks_none(exported: Bundle, tmp_path: Path, outside: str) -> None:
    written = tmp_path / "modelopt.onnx"
    done = subprocess.run(
        [sys.executable, "-c", MODELOPT, str(exported.path(exported.variant("fp32"))), str(written), outside],
        env={**os.environ, **modelopt()},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    model = onnx.load(written)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) > len(exported.manifest.layers)
    assert broken_rules(model) == ()


def test_a_small_graph_of_everything_for_tensorrt_breaks_none() -> None:
    assert broken_rules(small_int8(find_target("tensorrt")).int8) == ()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_graph_of_raw_pixels_breaks_none(for_tensorrt: Bundle, precision: Precision) -> None:
    variant = for_tensorrt.variant(precision, target="tensorrt")
    model = with_pixel_io(onnx.load_model_from_string(for_tensorrt.read(variant)))
    check_graph(model.SerializeToString(), what=variant.file)


def test_bytes_that_are_not_cast_first_say_how_to_write_that_graph_anew() -> None:
    model = _model()
    _bytes_transposed(model)
    with pytest.raises(PipelineError, match=r"pixels-are-cast: .*Transpose reads pixels_in") as caught:
        check_graph(model.SerializeToString(), what="a graph")
    assert "--io uint8" in caught.value.hint


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_graph_without_quantizers_breaks_none(quantized: Bundle, precision: str) -> None:
    variant = next(variant for variant in quantized.manifest.variants if variant.precision == precision)
    check_graph(quantized.read(variant), what=variant.file)
