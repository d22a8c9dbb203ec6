"""Graphs with QuantizeLinear and DequantizeLinear, each made to break one rule of `export/engine/tensorrt/qdq_rules.py`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.graph.pixel_io import with_pixel_io

CHANNELS = 4
Edit = Callable[[onnx.ModelProto], None]


def qdq_model(opset: int = 18) -> onnx.ModelProto:
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


def replace_constant(model: onnx.ModelProto, name: str, array: NDArray[np.generic]) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def find_node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(node for node in model.graph.node if node.name == name)
    return found


def _computed_scale(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Abs", ["scale"], ["computed"], name="abs"))
    find_node(model, "quantize").input[1] = "computed"


def _negative_scale(model: onnx.ModelProto) -> None:
    replace_constant(model, "scale", np.array(-0.02, np.float32))


def _no_scale(model: onnx.ModelProto) -> None:
    replace_constant(model, "scale", np.array(0, np.float32))


def _scale_that_is_no_number(model: onnx.ModelProto) -> None:
    replace_constant(model, "scale", np.array(np.nan, np.float32))


def _infinite_scale(model: onnx.ModelProto) -> None:
    replace_constant(model, "scale", np.array(np.inf, np.float32))


def _integer_scale(model: onnx.ModelProto) -> None:
    replace_constant(model, "weight_scale", np.ones(CHANNELS, np.int32))


def _zero_point_of_3(model: onnx.ModelProto) -> None:
    replace_constant(model, "zero", np.array(3, np.int8))


def _unsigned_activations(model: onnx.ModelProto) -> None:
    replace_constant(model, "zero", np.array(0, np.uint8))


def _integer_bias(model: onnx.ModelProto) -> None:
    replace_constant(model, "bias", np.arange(CHANNELS, dtype=np.int32))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["bias", "weight_scale"], ["b"], name="integer_bias", axis=0))
    find_node(model, "conv").input[2] = "b"


def _unsigned_weights(model: onnx.ModelProto) -> None:
    replace_constant(model, "weight", np.full((CHANNELS, 3, 3, 3), 130, np.uint8))
    replace_constant(model, "weight_zero", np.zeros(CHANNELS, np.uint8))


def _wide_activations(model: onnx.ModelProto) -> None:
    replace_constant(model, "zero", np.array(0, np.int16))


def _scales_of_rank_2(model: onnx.ModelProto) -> None:
    replace_constant(model, "weight_scale", np.full((CHANNELS, 1), 0.01, np.float32))
    replace_constant(model, "weight_zero", np.zeros((CHANNELS, 1), np.int8))


def _half_addend(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float16), "half"))
    model.graph.node.insert(4, helper.make_node("Add", ["y", "half"], ["sum"], name="add"))
    find_node(model, "quantize_again").input[0] = "sum"


def _int8_added(model: onnx.ModelProto) -> None:
    model.graph.node.insert(5, helper.make_node("Add", ["yq", "yq"], ["doubled"], name="add"))
    find_node(model, "shuffle").input[0] = "doubled"


def _one_zero_point(model: onnx.ModelProto) -> None:
    replace_constant(model, "weight_zero", np.zeros(1, np.int8))


def _scales_along_inputs(model: onnx.ModelProto) -> None:
    find_node(model, "weights").attribute[0].i = 1


def _scales_of_square_weights_along_inputs(model: onnx.ModelProto) -> None:
    replace_constant(model, "weight", np.ones((CHANNELS, CHANNELS, 3, 3), np.int8))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = CHANNELS
    find_node(model, "weights").attribute[0].i = 1


def _activations_a_channel(model: onnx.ModelProto) -> None:
    find_node(model, "quantize_again").input[1:] = ["weight_scale", "weight_zero"]


def _half_scales(model: onnx.ModelProto) -> None:
    replace_constant(model, "scale", np.array(0.02, np.float16))


def _half_scales_on_floats(model: onnx.ModelProto) -> None:
    _half_scales(model)
    model.opset_import[0].version = 19


def _half_bias(model: onnx.ModelProto) -> None:
    replace_constant(model, "bias", np.zeros(CHANNELS, np.float16))


def _float_weight(model: onnx.ModelProto) -> None:
    replace_constant(model, "weight", np.ones((CHANNELS, 3, 3, 3), np.float32))
    find_node(model, "conv").input[1] = "weight"
    model.graph.node.remove(find_node(model, "weights"))


def _relu_on_int8(model: onnx.ModelProto) -> None:
    model.graph.node.insert(5, helper.make_node("Relu", ["yq"], ["rectified"], name="relu"))
    find_node(model, "shuffle").input[0] = "rectified"


def _padded_int8(model: onnx.ModelProto) -> None:
    constants: dict[str, NDArray[np.generic]] = {"pads": np.array([0, 0, 1, 1] * 2), "fill": np.array(0, np.int8)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    model.graph.node.insert(5, helper.make_node("Pad", ["yq", "pads", "fill"], ["padded"], name="pad"))
    find_node(model, "shuffle").input[0] = "padded"


def _as_it_is(model: onnx.ModelProto) -> None:
    pass


def bytes_transposed(model: onnx.ModelProto) -> None:
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
    find_node(model, "pixels_out.cast").output[0] = "bytes"
    model.graph.node.append(helper.make_node("Identity", ["bytes"], ["pixels_out"], name="identity"))


def _bytes_from_integers(model: onnx.ModelProto) -> None:
    model.CopyFrom(with_pixel_io(model))
    last = find_node(model, "pixels_out.cast")
    integers = helper.make_node("Cast", [last.input[0]], ["integers"], name="to_integers", to=TensorProto.INT32)
    model.graph.node.insert(len(model.graph.node) - 1, integers)
    find_node(model, "pixels_out.cast").input[0] = "integers"


BROKEN: tuple[tuple[str, Edit, int], ...] = (
    ("constant-scales", _computed_scale, 18),
    ("positive-scales", _negative_scale, 18),
    ("positive-scales", _no_scale, 18),
    ("positive-scales", _scale_that_is_no_number, 18),
    ("positive-scales", _infinite_scale, 18),
    ("float-scales", _integer_scale, 18),
    ("symmetric", _zero_point_of_3, 18),
    ("int8", _unsigned_activations, 18),
    ("int8", _unsigned_weights, 18),
    ("int8", _wide_activations, 21),
    ("int8", _integer_bias, 18),
    ("zero-point-size", _one_zero_point, 18),
    ("scale-count", _scales_along_inputs, 18),
    ("scale-count", _scales_of_rank_2, 18),
    ("activations-per-tensor", _activations_a_channel, 18),
    ("weights-per-output-channel", _scales_of_square_weights_along_inputs, 18),
    ("opset", _half_scales, 18),
    ("opset", _as_it_is, 12),
    ("same-types", _half_scales_on_floats, 19),
    ("same-types", _half_bias, 18),
    ("same-types", _half_addend, 18),
    ("both-operands", _float_weight, 18),
    ("int8-is-moved-alone", _relu_on_int8, 18),
    ("int8-is-moved-alone", _int8_added, 18),
    ("int8-is-moved-alone", _padded_int8, 19),
    ("pixels-are-cast", bytes_transposed, 18),
    ("pixels-are-cast", _bytes_clipped, 18),
    ("pixels-are-cast", _bytes_from_integers, 18),
)
