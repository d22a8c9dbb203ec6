"""Steps of convolutions and of what works on each value or each pixel: activations, constants, joins, pools, norms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from tests.random_graphs.body import CHANNELS, Body, Step


def _activation(operator: str, **attributes: Any) -> Step:  # noqa: ANN401 # as onnx has it
    return lambda body, x: body.graph.add(operator, body.conv(x), **attributes)


def _prelu(body: Body, x: str) -> str:
    return body.graph.add("PRelu", body.conv(x), body.values(CHANNELS, 1, 1, low=0, high=0.3))


def _clip(body: Body, x: str) -> str:
    return body.graph.add("Clip", body.conv(x), body.graph.constant(0.0), body.graph.constant(float(body.rng.choice((1, 6)))))


def _silu(body: Body, x: str) -> str:
    y = body.conv(x)
    return body.graph.add("Mul", y, body.graph.add("Sigmoid", y))


def _gelu(body: Body, x: str) -> str:
    """As exporters write it out: y (1 + erf(y / √2)) / 2."""
    graph, y = body.graph, body.conv(x)
    erf = graph.add("Erf", graph.add("Div", y, graph.constant(math.sqrt(2))))
    return graph.add("Mul", graph.add("Mul", y, graph.add("Add", erf, graph.constant(1.0))), graph.constant(0.5))


def _softmax(body: Body, x: str) -> str:
    return body.graph.add("Mul", x, body.graph.add("Softmax", body.conv(x), axis=1))


def _mish(body: Body, x: str) -> str:
    graph, y = body.graph, body.conv(x)
    return graph.add("Mul", y, graph.add("Tanh", graph.add("Softplus", y)))


def _larger_of(body: Body, x: str) -> str:
    """A leaky ReLU as somebody writes it, and what else works on each value."""
    graph, y = body.graph, body.conv(x)
    leaky = graph.add("Max", y, graph.add("Mul", y, graph.constant(0.1)))
    return graph.add("Min", graph.add("Sub", leaky, graph.add("Abs", graph.add("Neg", x))), graph.constant(2.0))


def _grouped(body: Body, x: str) -> str:
    return body.graph.add("Relu", body.conv(x, groups=int(body.rng.choice((2, 4)))))


def _depthwise(body: Body, x: str) -> str:
    return body.conv(body.graph.add("LeakyRelu", body.conv(x, kernel=5, groups=CHANNELS), alpha=0.1), kernel=1)


def _dilated(body: Body, x: str) -> str:
    return body.conv(x, dilations=[2, 2], widened=2)


def _large_kernel(body: Body, x: str) -> str:
    return body.conv(x, kernel=9)


def _one_sided(body: Body, x: str) -> str:
    return body.conv(x, pads=[2, 0, 0, 2])


def _flat_kernels(body: Body, x: str) -> str:
    graph = body.graph
    wide = graph.add("Conv", x, body.weight(CHANNELS, CHANNELS, 1, 5), channels=CHANNELS, pads=[0, 2, 0, 2])
    return graph.add("Conv", wide, body.weight(CHANNELS, CHANNELS, 5, 1), channels=CHANNELS, pads=[2, 0, 2, 0])


def _computed_weight(body: Body, x: str) -> str:
    """Weights that are half precision in the file, and scaled when the network runs."""
    graph = body.graph
    half = graph.constant((graph.random(CHANNELS, CHANNELS, 3, 3) * np.float32(0.2)).astype(np.float16))
    weight = graph.add("Mul", graph.add("Cast", half, to=onnx.TensorProto.FLOAT, channels=CHANNELS), graph.constant(0.9))
    return graph.add("Conv", graph.add("Identity", x), weight, channels=CHANNELS, pads=[1] * 4)


def _twice(body: Body, x: str) -> str:
    """One weight for two convolutions."""
    graph, weight = body.graph, body.weight(CHANNELS, CHANNELS, 3, 3)
    y = graph.add("Relu", graph.add("Conv", x, weight, pads=[1] * 4))
    return graph.add("Conv", y, weight, body.values(CHANNELS), pads=[1] * 4)


def _batch_norm(body: Body, x: str) -> str:
    scale, shift, mean = (body.values(CHANNELS) for _ in range(3))
    return body.graph.add("BatchNormalization", body.conv(x), scale, shift, mean, body.values(CHANNELS, low=0.5, high=1))


def _same(body: Body, x: str) -> str:
    return body.graph.add("Relu", body.conv(x, auto_pad=body.draw("SAME_UPPER", "SAME_LOWER")))


def _pad(mode: str) -> Step:
    def step(body: Body, x: str) -> str:
        padded = body.graph.add("Pad", x, body.graph.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1])), mode=mode)
        return body.conv(padded, pads=[0] * 4)

    return step


def _pad_and_crop(body: Body, x: str) -> str:
    graph = body.graph
    y = body.conv(graph.add("Pad", x, graph.constant(np.array([0, 0, 4, 4, 0, 0, 4, 4])), mode=body.draw("reflect", "edge")))
    begins, ends, axes = (graph.constant(np.array(two)) for two in ([4, 4], [-4, -4], [2, 3]))
    return graph.add("Slice", y, begins, ends, axes)


def _residual(operator: str) -> Step:
    """The step's input, or an earlier one, and a convolution of it."""
    return lambda body, x: body.graph.add(operator, body.conv(x), body.draw(*body.kept))


def _by_constants(body: Body, x: str) -> str:
    """Scales and shifts, of channels and of everything, one after the other."""
    graph, shape = body.graph, (1, CHANNELS, 1, 1)
    y = graph.add("Mul", body.conv(x), body.values(*shape, low=0.5, high=1.5))
    y = graph.add("Sub", graph.add("Add", y, body.values(*shape)), graph.constant(0.1))
    return graph.add("Div", y, graph.constant(1.25))


def _from_constant(body: Body, x: str) -> str:
    return body.graph.add("Sub", body.graph.constant(1.0), body.graph.add("Sigmoid", body.conv(x)), channels=CHANNELS)


def _concat(body: Body, x: str) -> str:
    graph = body.graph
    parts = (x, body.draw(*body.kept), graph.add("Relu", body.conv(x)))
    return body.conv(graph.add("Concat", *parts, axis=1, channels=3 * CHANNELS), kernel=1)


def _split(body: Body, x: str) -> str:
    """Channels split off and joined again, in another order."""
    graph, half = body.graph, CHANNELS // 2
    y = body.conv(x)
    first, second = (
        graph.add("Slice", y, *(graph.constant(np.array([at])) for at in (begin, begin + half, 1)), channels=half)
        for begin in (0, half)
    )
    return graph.add("Concat", graph.add("Relu", body.conv(second, half)), first, axis=1, channels=CHANNELS)


def _partial(body: Body, x: str) -> str:
    """A convolution of some of the channels."""
    graph, some = body.graph, 2
    left, right = graph.split(body.conv(x), (some, CHANNELS - some))
    return graph.add("Concat", body.conv(left, some, 5), right, axis=1, channels=CHANNELS)


def _pool(operator: str, **attributes: int) -> Step:
    return lambda body, x: body.conv(body.graph.add(operator, x, kernel_shape=[3, 3], pads=[1] * 4, **attributes))


def _instance_norm(body: Body, x: str) -> str:
    return body.graph.add("InstanceNormalization", body.conv(x), body.values(CHANNELS, low=0.5, high=1), body.values(CHANNELS))


def _channels_last(body: Body, x: str, make: Step) -> str:
    last = body.graph.add("Transpose", x, perm=[0, 2, 3, 1])
    return body.graph.add("Transpose", make(body, last), perm=[0, 3, 1, 2], channels=CHANNELS)


def _layer_norm(body: Body, x: str) -> str:
    scale, shift = body.values(CHANNELS, low=0.5, high=1), body.values(CHANNELS)
    return _channels_last(body, body.conv(x), lambda body, y: body.graph.add("LayerNormalization", y, scale, shift, axis=-1))


def _channel_norm(body: Body, x: str) -> str:
    """Each pixel's channels to mean 0 and deviation 1, written out."""
    graph, axis = body.graph, body.graph.constant(np.array([1]))
    centred = graph.add("Sub", x, graph.add("ReduceMean", x, axis))
    power = graph.add("ReduceMean", graph.add("Pow", centred, graph.constant(2.0)), axis)
    return body.conv(graph.add("Div", centred, graph.add("Sqrt", graph.add("Add", power, graph.constant(1e-3)))))


def _linear(body: Body, x: str) -> str:
    """A pointwise convolution as transformers have it: MatMul over the last axis."""

    def multiply(body: Body, y: str) -> str:
        graph = body.graph
        wide = graph.add("MatMul", y, graph.constant(graph.random(CHANNELS, 2 * CHANNELS) * np.float32(0.6)))
        bent = graph.add("Relu", graph.add("Add", wide, body.values(2 * CHANNELS)))
        return graph.add("MatMul", bent, graph.constant(graph.random(2 * CHANNELS, CHANNELS) * np.float32(0.4)))

    return body.graph.add("Add", x, _channels_last(body, x, multiply))


LAYERS: Mapping[str, Step] = {
    "relu": _activation("Relu"),
    "leaky relu": _activation("LeakyRelu", alpha=0.2),
    "prelu": _prelu,
    "clip": _clip,
    "sigmoid": _activation("Sigmoid"),
    "tanh": _activation("Tanh"),
    "hard swish": _activation("HardSwish"),
    "silu": _silu,
    "gelu": _gelu,
    "mish": _mish,
    "elu": _activation("Elu", alpha=0.5),
    "larger of": _larger_of,
    "softmax": _softmax,
    "grouped": _grouped,
    "depthwise": _depthwise,
    "dilated": _dilated,
    "large kernel": _large_kernel,
    "one-sided": _one_sided,
    "flat kernels": _flat_kernels,
    "computed weight": _computed_weight,
    "twice": _twice,
    "batch norm": _batch_norm,
    "same": _same,
    "reflect": _pad("reflect"),
    "edge": _pad("edge"),
    "zeros": _pad("constant"),
    "pad and crop": _pad_and_crop,
    "add": _residual("Add"),
    "sub": _residual("Sub"),
    "mul": _residual("Mul"),
    "by constants": _by_constants,
    "from constant": _from_constant,
    "concat": _concat,
    "slice": _split,
    "split": _partial,
    "max pool": _pool("MaxPool"),
    "average pool": _pool("AveragePool"),
    "whole average": _pool("AveragePool", count_include_pad=1),
    "instance norm": _instance_norm,
    "layer norm": _layer_norm,
    "channel norm": _channel_norm,
    "linear": _linear,
}
