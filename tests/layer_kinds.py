"""One layer of each kind that can be rounded, as a graph of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.graphs import Graph

CHANNELS = 6
SIDES = (18, 14)
OUTPUTS = 4


def _convolution(*shape: int, transposed: bool = False, **attributes: Any) -> Callable[[Graph], str]:  # noqa: ANN401 # as onnx has it
    def add(graph: Graph) -> str:
        outputs = shape[1] * attributes.get("group", 1) if transposed else shape[0]
        given = "input", graph.constant(graph.random(*shape)), graph.constant(graph.random(outputs))
        return graph.add("ConvTranspose" if transposed else "Conv", *given, channels=outputs, **attributes)

    return add


def _product(operator: str, **attributes: Any) -> Callable[[Graph], str]:  # noqa: ANN401 # likewise
    """Of each pixel's channels, as a row; Gemm wants all of them in one matrix."""

    def add(graph: Graph) -> str:
        shape = (OUTPUTS, CHANNELS) if attributes.get("transB") else (CHANNELS, OUTPUTS)
        weight = graph.constant(graph.random(*shape))
        last = graph.add("Transpose", "input", perm=[0, 2, 3, 1])
        if operator == "MatMul":
            return graph.add("MatMul", last, weight)
        rows = graph.add("Reshape", last, graph.constant(np.array([-1, CHANNELS])))
        return graph.add("Gemm", rows, weight, graph.constant(graph.random(OUTPUTS)), **attributes)

    return add


LAYER_KINDS: Mapping[str, Callable[[Graph], str]] = {
    "convolution": _convolution(OUTPUTS, CHANNELS, 3, 3, pads=[1, 1, 1, 1]),
    "1x1": _convolution(OUTPUTS, CHANNELS, 1, 1),
    "groups": _convolution(4, 3, 3, 3, group=2, pads=[1, 1, 1, 1]),
    "depthwise": _convolution(CHANNELS, 1, 3, 3, group=CHANNELS, pads=[1, 1, 1, 1]),
    "depthwise, two outputs each": _convolution(2 * CHANNELS, 1, 3, 3, group=CHANNELS, pads=[1, 1, 1, 1]),
    "strides": _convolution(OUTPUTS, CHANNELS, 3, 3, strides=[2, 3], pads=[1, 1, 1, 1]),
    "dilations": _convolution(OUTPUTS, CHANNELS, 3, 3, dilations=[2, 1], pads=[2, 1, 2, 1]),
    "asymmetric": _convolution(OUTPUTS, CHANNELS, 3, 2, pads=[0, 2, 1, 3]),
    "same, upper": _convolution(OUTPUTS, CHANNELS, 4, 3, strides=[2, 2], auto_pad="SAME_UPPER"),
    "same, lower": _convolution(OUTPUTS, CHANNELS, 4, 3, auto_pad="SAME_LOWER"),
    "valid": _convolution(OUTPUTS, CHANNELS, 3, 3, auto_pad="VALID"),
    "transposed": _convolution(CHANNELS, OUTPUTS, 4, 4, transposed=True, strides=[2, 2], pads=[1, 1, 1, 1]),
    "transposed, 9x9 by 3": _convolution(
        CHANNELS, OUTPUTS, 9, 9, transposed=True, strides=[3, 3], pads=[4, 4, 4, 4], output_padding=[2, 1]
    ),
    "transposed, taps fewer than strides": _convolution(CHANNELS, OUTPUTS, 2, 3, transposed=True, strides=[3, 2], dilations=[1, 2]),
    "MatMul": _product("MatMul"),
    "Gemm": _product("Gemm", alpha=0.5, beta=2.0),
    "Gemm, transposed": _product("Gemm", transB=1),
}
NOT_FITTED: Mapping[str, Callable[[Graph], str]] = {
    "transposed in groups": _convolution(CHANNELS, 2, 4, 4, transposed=True, strides=[2, 2], pads=[1, 1, 1, 1], group=2),
    "transposed, same": _convolution(CHANNELS, OUTPUTS, 4, 4, transposed=True, strides=[2, 2], auto_pad="SAME_UPPER"),
}
"""Rounded to the nearest, with their biases corrected."""
