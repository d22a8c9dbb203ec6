"""Check a graph against TensorRT's rules for QuantizeLinear and DequantizeLinear: a graph in, an error that names the node out.

Most are conditions of its ONNX parser, which refuses the graph in other words, or takes it for something else: where a zero point
is uint8 it quantizes to int8 and says so in a warning. The rest are what a strongly typed network needs to run a layer in int8.
https://github.com/onnx/onnx-tensorrt, onnxOpImporters.cpp, QuantDequantLinearHelper
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html
It casts uint8 to floats and floats to uint8, at the network's own input and output, and does nothing else with it.
https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/FoundationalTypes/DataType.html
https://github.com/NVIDIA/TensorRT/issues/3985
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from export.graph.opset import opset_of
from runtime.errors import PipelineError

_Q, _DQ = "QuantizeLinear", "DequantizeLinear"
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_OUTPUT_CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1}
# Operators that move data, which TensorRT runs on int8 as on anything else.
_MOVES_INT8 = (_DQ, "DepthToSpace", "SpaceToDepth", "Reshape", "Transpose", "Slice", "Concat", "Pad", "Identity")
_PER_CHANNEL_OPSET = 13  # the first at which DequantizeLinear has an axis
_HALF_SCALE_OPSET = 19  # the first at which scales may be fp16
_QUANTIZE_AGAIN = "python -m quantize BUNDLE --target {target} --calib div2k makes one that it can"
_WRAP_AGAIN = "python -m export or python -m quantize, as before with --io uint8, makes one that it can"


@dataclass(frozen=True)
class Rule:
    """One condition, the nodes of a graph that break it, each with what it has instead, and what to type then.

    Attributes:
        kept_because: why it is a rule although the parser of TensorRT for RTX takes graphs that break it; empty where it takes none
            (tests/test_engine_rtx_rules.py holds every rule against that parser).
    """

    name: str
    says: str
    broken_by: Callable[[Graph], Iterator[tuple[onnx.NodeProto, str]]]
    mended_by: str = _QUANTIZE_AGAIN
    kept_because: str = ""


class Graph:
    """A graph, with what the rules look up in it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._proto = onnx.shape_inference.infer_shapes(model).graph
        self.opset = opset_of(model)

    @cached_property
    def constants(self) -> dict[str, NDArray[np.generic]]:
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in self._proto.initializer}

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        return {name: node for node in self._proto.node for name in node.output}

    @cached_property
    def types(self) -> dict[str, int]:
        """The element type of every tensor that it is known of."""
        known = (*self._proto.input, *self._proto.value_info, *self._proto.output)
        typed = {value.name: value.type.tensor_type.elem_type for value in known if value.type.tensor_type.elem_type}
        return {**typed, **{tensor.name: tensor.data_type for tensor in self._proto.initializer}}

    def nodes(self, *operators: str) -> Iterator[onnx.NodeProto]:
        return (node for node in self._proto.node if node.op_type in operators)

    def readers(self, name: str) -> Iterator[onnx.NodeProto]:
        return (node for node in self._proto.node if name in node.input)

    def is_output(self, name: str) -> bool:
        return any(value.name == name for value in self._proto.output)

    def scale(self, node: onnx.NodeProto) -> NDArray[np.generic]:
        """Empty where it is no constant, which is a rule of its own."""
        return self.constants.get(node.input[1], np.empty(0, np.float32))

    def zero_point(self, node: onnx.NodeProto) -> NDArray[np.generic] | None:
        return self.constants.get(node.input[2]) if len(node.input) > 2 else None

    def constant(self, node: onnx.NodeProto) -> NDArray[np.generic] | None:
        """Return the constant that a Q or DQ reads, or that the Q before a DQ does; None where it is an activation."""
        producer = self.producers.get(node.input[0])
        name = producer.input[0] if producer is not None and (node.op_type, producer.op_type) == (_DQ, _Q) else node.input[0]
        return self.constants.get(name)

    def pairs(self) -> Iterator[onnx.NodeProto]:
        return self.nodes(_Q, _DQ)


def _scales_not_constant(graph: Graph) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in graph.pairs():
        for name in node.input[1:]:
            if name and name not in graph.constants:
                yield node, f"{name} is computed"


def _scales_not_positive(graph: Graph) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in graph.pairs():
        scale = graph.scale(node).astype(np.float64)
        if not (np.isfinite(scale) & (scale > 0)).all():
            yield node, f"the least is {scale.min():g}"


def _scales_not_float(graph: Graph) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in graph.pairs():
        if graph.types.get(node.input[1]) not in _FLOATS:
            yield node, f"they are {_type_name(graph, node.input[1])}"


def _not_symmetric(graph: Graph) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in graph.pairs():
        zero_point = graph.zero_point(node)
        if zero_point is not None and zero_point.any():
            yield node, f"it is {np.ravel(zero_point)[0]}"


def _not_int8(graph: Graph) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in graph.nodes(_Q):
        if graph.types.get(node.output[0]) != TensorProto.INT8:
            yield node, f"it gives {_type_name(graph, node.output[0])}"
    for node in graph.nodes(_DQ):
        if graph.types.get(node.input[0]) != TensorProto.INT8:
            yield node, f"it reads {_type_name(graph, node.input[0])}"


def _zero_points_of_another_size(graph: Graph) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in graph.pairs():
        zero_point, scale = graph.zero_point(node), graph.scale(node)
        if zero_point is not None and scale.size and zero_point.size != scale.size:
            yield node, f"{zero_point.size} zero points, {scale.size} scales"


def _scales_not_one_a_channel(graph: Graph) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in graph.pairs():
        data, scale = graph.constant(node), graph.scale(node)
        if data is None or scale.size == 1:
            continue
        axis = _axis(node)
        if scale.ndim != 1 or not -data.ndim <= axis < data.ndim or data.shape[axis] != scale.size:
            yield node, f"{scale.size} scales of rank {scale.ndim} on axis {axis} of {data.shape}"


def _activations_per_channel(graph: Graph) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in graph.pairs():
        if graph.constant(node) is None and graph.scale(node).size > 1:
            yield node, f"{graph.scale(node).size} scales"


def _weights_on_another_axis(graph: Graph) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in graph.nodes(*_OUTPUT_CHANNEL_AXIS):
        weight = graph.producers.get(node.input[1])
        expected = _OUTPUT_CHANNEL_AXIS[node.op_type]
        if weight is None or weight.op_type != _DQ or graph.scale(weight).size == 1:
            continue
        data, axis = graph.constant(weight), _axis(weight)
        if (axis if data is None or axis >= 0 else axis + data.ndim) != expected:
            yield node, f"axis {axis}, expected {expected}"


def _opset_too_low(graph: Graph) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in graph.pairs():
        if graph.opset < _PER_CHANNEL_OPSET and graph.scale(node).size > 1:
            yield node, f"a scale per channel at opset {graph.opset}"
        if graph.opset < _HALF_SCALE_OPSET and graph.types.get(node.input[1]) in _FLOATS[1:]:
            yield node, f"{_type_name(graph, node.input[1])} scales at opset {graph.opset}"


def _types_that_do_not_match(graph: Graph) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in graph.nodes(_Q):
        data, scale = (graph.types.get(name) for name in node.input[:2])
        if graph.opset >= _HALF_SCALE_OPSET and data != scale:
            yield node, f"it reads {_type_name(graph, node.input[0])} at {_type_name(graph, node.input[1])} scales"
    for node in graph.nodes(*_OUTPUT_CHANNEL_AXIS, "Add", "Mul", "Concat"):
        found = [_type_name(graph, name) for name in node.input]
        if len(set(found)) > 1:
            yield node, f"it reads {', '.join(found)}"


def _half_quantized_layers(graph: Graph) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in graph.nodes(*_OUTPUT_CHANNEL_AXIS):
        data, weight = (graph.producers[name].op_type == _DQ if name in graph.producers else False for name in node.input[:2])
        if data != weight:
            yield node, "its input is int8 and its weight is not" if data else "its weight is int8 and its input is not"


def _int8_read_by_others(graph: Graph) -> Iterator[tuple[onnx.NodeProto, str]]:
    for name in (name for name, kind in graph.types.items() if kind == TensorProto.INT8):
        for node in graph.readers(name):
            taken = (_DQ,) if name in graph.constants else _MOVES_INT8  # what a Pad of int8 fills up with is refused
            if node.op_type not in taken and not (node.op_type == _Q and name == node.input[-1]):
                yield node, f"{node.op_type} reads {name}"
        producer = graph.producers.get(name)
        if producer is not None and graph.is_output(name):
            yield producer, f"{name} is an output of the graph"


def _bytes_not_cast(graph: Graph) -> Iterator[tuple[onnx.NodeProto, str]]:
    for name in (name for name, kind in graph.types.items() if kind == TensorProto.UINT8 and name not in graph.constants):
        for node in graph.readers(name):
            if node.op_type not in ("Cast", _DQ) or graph.types.get(node.output[0]) not in _FLOATS:
                yield node, f"{node.op_type} reads {name}"
        producer = graph.producers.get(name)
        if producer is not None and (producer.op_type not in ("Cast", _Q) or graph.types.get(producer.input[0]) not in _FLOATS):
            yield producer, f"{producer.op_type} gives {name}"


RULES: tuple[Rule, ...] = (
    Rule(
        "constant-scales",
        "scales and zero points are constants of the graph",
        _scales_not_constant,
        kept_because="it folds what is computed of constants first, which TensorRT is not known to do",
    ),
    Rule(
        "positive-scales",
        "scales are finite and above 0",
        _scales_not_positive,
        kept_because="it takes an infinite scale, with which nothing is left of a picture",
    ),
    Rule("float-scales", "scales are fp32, fp16 or bf16", _scales_not_float),
    Rule("symmetric", "zero points are 0", _not_symmetric),
    Rule(
        "int8",
        "what is quantized is int8: no uint8, no int32 biases",
        _not_int8,
        kept_because="it takes uint8 activations for int8 with a warning, and every code above 127 is lost",
    ),
    Rule("zero-point-size", "there are as many zero points as scales", _zero_points_of_another_size),
    Rule("scale-count", "a constant has one scale, or one for each channel of its axis", _scales_not_one_a_channel),
    Rule(
        "activations-per-tensor",
        "an activation has one scale",
        _activations_per_channel,
        kept_because="a convolution sums over its input's channels, and takes one scale out of the sum",
    ),
    Rule(
        "weights-per-output-channel",
        "weights have their scales along the output channels",
        _weights_on_another_axis,
        kept_because="it runs such a convolution in float without a word",
    ),
    Rule(
        "opset",
        "a scale per channel takes opset 13, fp16 scales take 19",
        _opset_too_low,
        kept_because="ONNX has no axis of DequantizeLinear below opset 13: no other runtime takes the graph",
    ),
    Rule("same-types", "an operator reads one type, and QuantizeLinear that of its scale", _types_that_do_not_match),
    Rule(
        "both-operands",
        "a convolution has both its input and its weight in int8, or neither",
        _half_quantized_layers,
        kept_because="it runs such a convolution in float without a word",
    ),
    Rule(
        "int8-is-moved-alone",
        "int8 is dequantized before anything but data movement",
        _int8_read_by_others,
        kept_because="it computes on int8 as on floats, which TensorRT does not: its layers that compute take no int8 tensor",
    ),
    Rule(
        "pixels-are-cast",
        "uint8 is cast from and to floats, and nothing else",
        _bytes_not_cast,
        _WRAP_AGAIN,
        kept_because="TensorRT casts uint8 from floats alone",
    ),
)


def broken_rules(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return a line for each rule that `model` breaks: which, what it says, and the first node that breaks it."""
    return tuple(line for _, line in _broken(model))


def check_graph(graph: bytes, *, what: str, target: str = "tensorrt") -> None:
    """Raise PipelineError where TensorRT would refuse the serialized graph's Q/DQ, or run it otherwise than it says.

    `target` is whose graph the hint says to make.
    """
    broken = list(_broken(onnx.load_model_from_string(graph)))
    if broken:
        raise PipelineError(
            f"TensorRT cannot run {what} as it is:\n  " + "\n  ".join(line for _, line in broken),
            hint=broken[0][0].mended_by.format(target=target),
        )


def _broken(model: onnx.ModelProto) -> Iterator[tuple[Rule, str]]:
    graph = Graph(model)
    for rule in RULES:
        found = list(rule.broken_by(graph))
        if found:
            node, instead = found[0]
            further = f" and {len(found) - 1} more" if len(found) > 1 else ""
            yield rule, f"{rule.name}: {rule.says}; {node.name or node.op_type}: {instead}{further}"


def _axis(node: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 1)


def _type_name(graph: Graph, tensor: str) -> str:
    return str(TensorProto.DataType.Name(graph.types.get(tensor, TensorProto.UNDEFINED))).lower()
