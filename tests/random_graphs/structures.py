"""Steps that networks are told apart by: gates, attention, windows, shuffles of channels, levels of other sizes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

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
    "window attention": _window_attention,
    "channel shuffle": _channel_shuffle,
    "u strided": _u_strided,
    "u pooled": _u_pooled,
    "u unshuffled": _u_unshuffled,
    "spatial attention": _spatial_attention,
}
GLOBAL = frozenset(("channel attention", "dense attention", "contrast", "spatial attention"))
"""Those that look at the whole picture, or whose places depend on its size."""
MULTIPLES: Mapping[str, int] = {"u strided": 2, "u pooled": 2, "u unshuffled": 2, "window attention": 4}
"""What the picture's sides must be multiples of."""
