"""Steps that networks are told apart by: gates, attention, windows, shuffles of channels, levels of other sizes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from tests.random_graphs.body import CHANNELS, Body, Step
from tests.random_graphs.enlarging import resized, transposed


def _gate(body: Body, x: str) -> str:
    return body.graph.add("Mul", x, body.graph.add("Sigmoid", body.conv(x, kernel=1)))


def _span_gate(body: Body, x: str) -> str:
    graph, y = body.graph, body.conv(x)
    return graph.add("Mul", graph.add("Add", y, x), graph.add("Sub", graph.add("Sigmoid", y), graph.constant(0.5)))


def _channel_attention(body: Body, x: str) -> str:
    graph = body.graph
    narrow = graph.add("Relu", body.conv(graph.add("GlobalAveragePool", x), 4, 1))
    return graph.add("Mul", x, graph.add("Sigmoid", body.conv(narrow, kernel=1)))


def _dense_attention(body: Body, x: str) -> str:
    """The same by matrices: Flatten, Gemm, and back."""
    graph = body.graph
    flat = graph.add("Flatten", graph.add("GlobalMaxPool", x))
    weights = graph.add("Gemm", flat, body.weight(CHANNELS, CHANNELS), body.values(CHANNELS), transB=1)
    weighed = graph.add("HardSigmoid", weights)
    return graph.add("Mul", x, graph.add("Unsqueeze", weighed, graph.constant(np.array([2, 3])), channels=CHANNELS))


def _contrast(body: Body, x: str) -> str:
    """IMDN's: standard deviation and mean over the picture, of sums and sizes."""
    graph, axes = body.graph, body.graph.constant(np.array([2, 3]))
    mean = graph.add("ReduceMean", x, axes)
    centred = graph.add("Sub", x, mean)
    deviation = graph.add("Sqrt", graph.add("ReduceMean", graph.add("Mul", centred, centred), axes))
    return graph.add("Mul", x, graph.add("Sigmoid", body.conv(graph.add("Add", deviation, mean), kernel=1)))


def _contrast_by_sums(body: Body, x: str) -> str:
    """The mean as a sum over the number of pixels, a constant where the graph's size is fixed."""
    graph, axes = body.graph, body.graph.constant(np.array([2, 3]))
    if body.fixed is not None:
        count = graph.constant(float(body.fixed[0] * body.fixed[1]))
    else:
        _, height, width = body.sizes(x)
        count = graph.add("Cast", graph.add("Mul", height, width), to=onnx.TensorProto.FLOAT)
    mean = graph.add("Div", graph.add("ReduceSum", x, axes), count)
    return graph.add("Mul", x, graph.add("Sigmoid", body.conv(mean, kernel=1)))


def _mask_of_channels(body: Body, x: str) -> str:
    """CBAM's: mean and largest of the channels, a convolution of the two, a mask."""
    graph, axis = body.graph, body.graph.constant(np.array([1]))
    two = graph.add("Concat", graph.add("ReduceMean", x, axis), graph.add("ReduceMax", x, axis), axis=1, channels=2)
    return graph.add("Mul", x, graph.add("Sigmoid", body.conv(two, 1, 7)), channels=CHANNELS)


def _attention_of_channels(body: Body, x: str) -> str:
    """Restormer's: channels attend to one another, each a vector of all pixels."""
    graph = body.graph
    q, k, v = (body.reshape(body.conv(x, kernel=1), x, "n", CHANNELS, -1, channels=CHANNELS) for _ in range(3))
    q, k = (graph.add("Div", y, graph.add("ReduceL2", y, graph.constant(np.array([2])))) for y in (q, k))
    weights = graph.add("Softmax", graph.add("MatMul", q, graph.add("Transpose", k, perm=[0, 2, 1])), axis=-1)
    return graph.add("Add", x, body.reshape(graph.add("MatMul", weights, v), x, "n", CHANNELS, "h", "w", channels=CHANNELS))


def _window_attention(body: Body, x: str) -> str:
    """Attention among the sixteen pixels of each window of 4×4: multiples of 4."""
    graph, side, count = body.graph, 4, CHANNELS
    qkv = [_as_windows(body, body.conv(x, kernel=1), side) for _ in range(3)]
    turned = graph.add("Transpose", qkv[1], perm=[0, 2, 1])
    scores = graph.add("Mul", graph.add("MatMul", qkv[0], turned), graph.constant(count**-0.5))
    mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), qkv[2])
    return graph.add("Add", x, _from_windows(body, mixed, side, like=x))


def _as_windows(body: Body, x: str, side: int) -> str:
    """(N, C, H, W) -> (windows, side², C), by way of a space-to-depth that keeps the order of pixels."""
    graph = body.graph
    small = graph.add("SpaceToDepth", x, blocksize=side, channels=CHANNELS * side**2)
    last = graph.add("Transpose", small, perm=[0, 2, 3, 1])
    return graph.add("Reshape", last, graph.constant(np.array([-1, side**2, CHANNELS])))


def _from_windows(body: Body, windows: str, side: int, *, like: str) -> str:
    graph = body.graph
    small = graph.add("SpaceToDepth", like, blocksize=side)
    rows = body.reshape(windows, small, "n", "h", "w", CHANNELS * side**2, channels=CHANNELS * side**2, down=side)
    first = graph.add("Transpose", rows, perm=[0, 3, 1, 2], channels=CHANNELS * side**2)
    return graph.add("DepthToSpace", first, blocksize=side, mode="DCR", channels=CHANNELS)


def _channel_shuffle(body: Body, x: str) -> str:
    graph, y = body.graph, body.conv(x, groups=2)
    wide = body.reshape(y, y, "n", 2, CHANNELS // 2, "h", "w", channels=CHANNELS)
    return body.reshape(graph.add("Transpose", wide, perm=[0, 2, 1, 3, 4]), y, "n", CHANNELS, "h", "w", channels=CHANNELS)


def _halved(body: Body, x: str, down: Step, up: Step) -> str:
    """A level of a U-Net."""
    small = body.graph.add("Relu", body.conv(down(body, x)))
    return body.conv(body.graph.add("Concat", x, up(body, small), axis=1, channels=2 * CHANNELS), kernel=1)


def _strided(body: Body, x: str) -> str:
    return body.conv(x, kernel=2, strides=[2, 2], pads=[0] * 4)


def _u_strided(body: Body, x: str) -> str:
    return _halved(body, x, _strided, transposed)


def _u_pooled(body: Body, x: str) -> str:
    pool: Step = lambda body, x: body.graph.add(body.draw("MaxPool", "AveragePool"), x, kernel_shape=[2, 2], strides=[2, 2])  # noqa: E731
    return _halved(body, x, pool, lambda body, x: resized(body, x, mode="nearest", coordinates="asymmetric", nearest_mode="floor"))


def _u_resized(body: Body, x: str) -> str:
    """Down by linear interpolation, up by a deconvolution of each channel."""

    def down(body: Body, x: str) -> str:
        scales = body.graph.constant(np.array([1, 1, 0.5, 0.5], np.float32))
        return body.graph.add("Resize", x, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")

    def up(body: Body, x: str) -> str:
        weight = body.values(CHANNELS, 1, 4, 4, low=0.1, high=0.4)
        return body.graph.add("ConvTranspose", x, weight, group=CHANNELS, strides=[2, 2], pads=[1] * 4)

    return _halved(body, x, down, up)


def _u_unshuffled(body: Body, x: str) -> str:
    """A pixel-unshuffle, and a shuffle behind it."""
    graph = body.graph
    small = graph.add("SpaceToDepth", x, blocksize=2, channels=4 * CHANNELS)
    return graph.add("DepthToSpace", body.conv(small, 4 * CHANNELS), blocksize=2, mode=body.draw("CRD", "DCR"), channels=CHANNELS)


def _spatial_attention(body: Body, x: str) -> str:
    """RFDN's: a mask made at a smaller size, resized to the size of what it weighs, whatever that is."""
    graph = body.graph
    small = graph.add("MaxPool", body.conv(x, kernel=3, strides=[2, 2], pads=[0] * 4), kernel_shape=[3, 3], strides=[2, 2])
    large = graph.add(
        "Resize",
        body.conv(small),
        "",
        "",
        body.resized_to(x),
        mode="linear",
        coordinate_transformation_mode=body.draw("half_pixel", "pytorch_half_pixel"),
    )
    return graph.add("Mul", x, graph.add("Sigmoid", body.conv(graph.add("Add", large, body.conv(x, kernel=1)), kernel=1)))


STRUCTURES: Mapping[str, Step] = {
    "gate": _gate,
    "span gate": _span_gate,
    "channel attention": _channel_attention,
    "dense attention": _dense_attention,
    "contrast": _contrast,
    "contrast by sums": _contrast_by_sums,
    "mask of channels": _mask_of_channels,
    "attention of channels": _attention_of_channels,
    "window attention": _window_attention,
    "channel shuffle": _channel_shuffle,
    "u strided": _u_strided,
    "u pooled": _u_pooled,
    "u resized": _u_resized,
    "u unshuffled": _u_unshuffled,
    "spatial attention": _spatial_attention,
}
GLOBAL = frozenset(
    ("channel attention", "dense attention", "contrast", "contrast by sums", "attention of channels", "spatial attention")
)
"""Those that look at the whole picture, or whose places depend on its size."""
MULTIPLES: Mapping[str, int] = {"u strided": 2, "u pooled": 2, "u resized": 2, "u unshuffled": 2, "window attention": 4}
"""What the picture's sides must be multiples of."""
