"""A tiny graph around each operator that a target's table may name: a layer, the operator, a layer.

What comes after the operator tells whether the operator's result is right; that both layers are there tells what it does to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.graphs import Graph

COLOURS, CHANNELS, SIDE = 3, 8, 12  # Gemm takes one pixel's channels at a time: a picture of one size

Build = Callable[[Graph, str], str]
"""Adds the operator, behind a tensor (N, 8, H, W), and gives what it makes, (N, C, H, W)."""


def operator_graph(build: Build) -> onnx.ModelProto:
    """Layer, operator, layer, from a picture to one: (1, 3, 12, 12) -> (1, 3, …), names of nodes that are theirs alone."""
    graph = Graph(0, channels=COLOURS, sides=(SIDE, SIDE))
    made = build(graph, scaled_conv(graph, "input", CHANNELS))
    return graph.proto(scaled_conv(graph, made, COLOURS, gain=0.15, offset=0.5), opset=20)


def scaled_conv(
    graph: Graph,
    source: str,
    outputs: int,
    kernel: int = 3,
    *,
    gain: float = 1.0,
    offset: float = 0.0,
    **attributes: Any,  # noqa: ANN401 # as onnx has it
) -> str:
    """Of weights that keep the size of what they are given, nearly."""
    groups = attributes.get("group", 1)
    assert isinstance(groups, int)
    inputs = graph.channels[source] // groups
    weight = graph.random(outputs, inputs, kernel, kernel) * np.float32(gain * 1.7 / (np.sqrt(inputs) * kernel))
    bias = graph.constant((graph.random(outputs) * 0.1 + offset).astype(np.float32))
    pads = attributes.pop("pads", [kernel // 2] * 4)
    return graph.add("Conv", source, graph.constant(weight), bias, channels=outputs, pads=pads, **attributes)


def _scale(channels: int) -> np.float32:
    return np.float32(np.sqrt(channels) / 1.7)


def _transposed(graph: Graph, source: str, groups: int = 1) -> str:
    weight = graph.random(CHANNELS, CHANNELS // groups, 4, 4) / (_scale(CHANNELS // groups) * 2)
    bias = graph.constant(graph.random(CHANNELS))
    return graph.add(
        "ConvTranspose", source, graph.constant(weight), bias, strides=[2, 2], pads=[1] * 4, kernel_shape=[4, 4], group=groups
    )


def _pixels(graph: Graph, source: str) -> str:
    """(1, C, H, W) -> (1, H·W, C)."""
    flat = graph.add("Reshape", source, graph.constant(np.array([1, CHANNELS, -1])))
    return graph.add("Transpose", flat, perm=[0, 2, 1])


def _picture(graph: Graph, source: str) -> str:
    turned = graph.add("Transpose", source, perm=[0, 2, 1])
    return graph.add("Reshape", turned, graph.constant(np.array([1, CHANNELS, SIDE, SIDE])), channels=CHANNELS)


def _matmul(graph: Graph, source: str, *, bias: bool) -> str:
    weight = graph.constant(graph.random(CHANNELS, CHANNELS) / _scale(CHANNELS))
    made = graph.add("MatMul", _pixels(graph, source), weight)
    return _picture(graph, graph.add("Add", made, graph.constant(graph.random(CHANNELS))) if bias else made)


def _product(graph: Graph, source: str) -> str:
    pixels = _pixels(graph, source)
    turned = graph.add("Transpose", _pixels(graph, scaled_conv(graph, source, CHANNELS)), perm=[0, 2, 1])
    weights = graph.add("Softmax", graph.add("MatMul", pixels, turned), axis=-1)
    return _picture(graph, graph.add("MatMul", weights, _pixels(graph, scaled_conv(graph, source, CHANNELS))))


def _gemm(graph: Graph, source: str, turned: int) -> str:
    flat = graph.add("Reshape", _pixels(graph, source), graph.constant(np.array([-1, CHANNELS])))
    weight = graph.constant(graph.random(CHANNELS, CHANNELS) / _scale(CHANNELS))
    made = graph.add("Gemm", flat, weight, graph.constant(graph.random(CHANNELS)), transB=turned)
    return _picture(graph, graph.add("Reshape", made, graph.constant(np.array([1, -1, CHANNELS]))))


def _split(graph: Graph, source: str) -> str:
    first, second = graph.split(source, [2, CHANNELS - 2])
    return graph.add("Concat", first, scaled_conv(graph, second, 4), channels=6, axis=1)


def _twice(operator: str) -> Build:
    def build(graph: Graph, source: str) -> str:
        return graph.add(operator, source, graph.add("Relu", scaled_conv(graph, source, CHANNELS)))

    return build


def _with(operator: str, *constants: NDArray[np.generic], channels: int | None = None, **attributes: Any) -> Build:  # noqa: ANN401 # as onnx has it
    def build(graph: Graph, source: str) -> str:
        return graph.add(operator, source, *(graph.constant(array) for array in constants), channels=channels, **attributes)

    return build


def _conv(**attributes: Any) -> Build:  # noqa: ANN401 # as onnx has it
    return lambda graph, source: scaled_conv(graph, source, CHANNELS, **attributes)


def _resize(mode: str, coordinates: str = "half_pixel") -> Build:
    def build(graph: Graph, source: str) -> str:
        scales = graph.constant(np.array([1, 1, 2, 2], np.float32))
        extra: dict[str, Any] = {"nearest_mode": "floor"} if mode == "nearest" else {}
        return graph.add("Resize", source, "", scales, mode=mode, coordinate_transformation_mode=coordinates, **extra)

    return build


def _gate(operator: str) -> Build:
    def build(graph: Graph, source: str) -> str:
        axes = () if operator.startswith("Global") else (graph.constant(np.array([2, 3])),)
        pooled = graph.add(operator, source, *axes)
        return graph.add("Mul", source, graph.add("Sigmoid", scaled_conv(graph, pooled, CHANNELS, 1)))

    return build


def _shuffled(graph: Graph, source: str) -> str:
    apart = graph.add("Reshape", source, graph.constant(np.array([1, 2, 2, 2, SIDE, SIDE])))
    turned = graph.add("Transpose", apart, perm=[0, 1, 4, 2, 5, 3])
    return graph.add("Reshape", turned, graph.constant(np.array([1, 2, 2 * SIDE, 2 * SIDE])), channels=2)


def _ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


_QUARTER = np.full((CHANNELS, 1, 1), 0.25, np.float32)
GRAPHS: Mapping[str, Build] = {
    "Conv": _conv(),
    "Conv depthwise": _conv(group=CHANNELS),
    "Conv groups": _conv(group=2),
    "Conv strides": _conv(strides=[2, 2]),
    "Conv dilations": _conv(dilations=[2, 2], pads=[2] * 4),
    "Conv uneven pads": _conv(pads=[0, 1, 2, 1]),
    "ConvTranspose": _transposed,
    "ConvTranspose groups": lambda graph, source: _transposed(graph, source, 2),
    "Gemm": lambda graph, source: _gemm(graph, source, 0),
    "Gemm transB": lambda graph, source: _gemm(graph, source, 1),
    "MatMul": lambda graph, source: _matmul(graph, source, bias=False),
    "MatMul bias": lambda graph, source: _matmul(graph, source, bias=True),
    "MatMul product": _product,
    "Add": _twice("Add"),
    "Sub": _twice("Sub"),
    "Mul": _twice("Mul"),
    "Div": lambda graph, source: graph.add("Div", source, graph.add("Exp", scaled_conv(graph, source, CHANNELS))),
    "Concat": lambda graph, source: graph.add("Concat", source, scaled_conv(graph, source, 4), channels=12, axis=1),
    "Split": _split,
    "Relu": _with("Relu"),
    "PRelu": _with("PRelu", _QUARTER),
    "LeakyRelu": _with("LeakyRelu", alpha=0.1),
    "Clip": _with("Clip", np.array(-0.3, np.float32), np.array(0.4, np.float32)),
    "Sigmoid": _with("Sigmoid"),
    "Tanh": _with("Tanh"),
    "HardSwish": _with("HardSwish"),
    "HardSigmoid": _with("HardSigmoid"),
    "Gelu": _with("Gelu"),
    "Elu": _with("Elu"),
    "SiLU": lambda graph, source: graph.add("Mul", source, graph.add("Sigmoid", source)),
    "Softmax": _with("Softmax", axis=1),
    "Mul by channel": _with("Mul", _QUARTER),
    "Add by channel": _with("Add", _QUARTER),
    "AveragePool": _with("AveragePool", kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1]),
    "MaxPool": _with("MaxPool", kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
    "GlobalAveragePool": _gate("GlobalAveragePool"),
    "GlobalMaxPool": _gate("GlobalMaxPool"),
    "ReduceMean": _gate("ReduceMean"),
    "ReduceMax": _gate("ReduceMax"),
    "DepthToSpace": _with("DepthToSpace", channels=2, blocksize=2, mode="CRD"),
    "DepthToSpace DCR": _with("DepthToSpace", channels=2, blocksize=2, mode="DCR"),
    "SpaceToDepth": _with("SpaceToDepth", channels=4 * CHANNELS, blocksize=2),
    "shuffle written out": _shuffled,
    "Pad": _with("Pad", _ints(0, 0, 1, 1, 0, 0, 1, 1)),
    "Pad reflect": _with("Pad", _ints(0, 0, 2, 1, 0, 0, 1, 2), mode="reflect"),
    "Slice": _with("Slice", _ints(1, 2), _ints(7, 10), _ints(1, 2), channels=6),
    "Gather": _with("Gather", _ints(3, 1, 6), channels=3, axis=1),
    "Flatten": lambda graph, source: _picture_of_flat(graph, graph.add("Flatten", source, axis=2)),
    "Squeeze": lambda graph, source: graph.add(
        "Unsqueeze", graph.add("Squeeze", source, graph.constant(_ints(0))), graph.constant(_ints(0))
    ),
    "Expand": lambda graph, source: graph.add(
        "Expand", _with("ReduceMean", _ints(3))(graph, source), graph.constant(_ints(1, 1, 1, SIDE))
    ),
    "Tile": _with("Tile", _ints(1, 1, 2, 1)),
    "Identity": _with("Identity"),
    "Resize nearest": _resize("nearest"),
    "Resize linear": _resize("linear"),
    "Resize cubic": _resize("cubic"),
}
"""By a name that begins with the operator's, or says what is built of several."""


def _picture_of_flat(graph: Graph, flat: str) -> str:
    return graph.add("Reshape", flat, graph.constant(_ints(1, CHANNELS, SIDE, SIDE)), channels=CHANNELS)
