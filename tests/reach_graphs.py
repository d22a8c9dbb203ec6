"""Steps that super-resolution networks are made of, each added to a small graph: what looks near, and what looks everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.graphs import Graph

Step = Callable[[Graph, str], str]
"""Adds operators that read a tensor, and gives the name of what they make."""


def _ints(graph: Graph, *numbers: int) -> str:
    return graph.constant(np.array(numbers, np.int64))


def _floats(graph: Graph, *numbers: float) -> str:
    return graph.constant(np.array(numbers, np.float32))


def conv(kernel: int, *, pad: int | None = None, groups: int = 1, channels: int | None = None, **attributes: Any) -> Step:  # noqa: ANN401 # as onnx has them
    def add(graph: Graph, source: str) -> str:
        inputs, dilation = graph.channels[source], int(np.ravel(attributes.get("dilations", [1]))[0])
        outputs = inputs if channels is None else channels
        weight = graph.constant(graph.random(outputs, inputs // groups, kernel, kernel))
        pads = (
            {}
            if "auto_pad" in attributes or "pads" in attributes
            else {"pads": [kernel // 2 * dilation if pad is None else pad] * 4}
        )
        return graph.add("Conv", source, weight, channels=outputs, group=groups, **pads, **attributes)

    return add


def transposed(kernel: int, stride: int, **attributes: Any) -> Step:  # noqa: ANN401 # as onnx has them
    def add(graph: Graph, source: str) -> str:
        channels = graph.channels[source]
        weight = graph.constant(graph.random(channels, channels, kernel, kernel))
        return graph.add("ConvTranspose", source, weight, strides=[stride] * 2, **attributes)

    return add


def pool(kind: str, kernel: int, **attributes: Any) -> Step:  # noqa: ANN401 # as onnx has them
    return lambda graph, source: graph.add(kind, source, kernel_shape=[kernel] * 2, **attributes)


def unary(kind: str, **attributes: Any) -> Step:  # noqa: ANN401 # as onnx has them
    return lambda graph, source: graph.add(kind, source, **attributes)


def resize(*scales: float, mode: str = "nearest", **attributes: Any) -> Step:  # noqa: ANN401 # as onnx has them
    def add(graph: Graph, source: str) -> str:
        height, width = scales if len(scales) == 2 else (scales[0], scales[0])
        return graph.add("Resize", source, "", _floats(graph, 1, 1, height, width), mode=mode, **attributes)

    return add


def resize_to_twice_its_shape(graph: Graph, source: str) -> str:
    """As torch's exporter writes interpolate(x, size=(2 * H, 2 * W))."""
    shape = graph.add("Shape", source)
    sides = [
        graph.add("Mul", graph.add("Slice", shape, _ints(graph, axis), _ints(graph, axis + 1), _ints(graph, 0)), _ints(graph, 2))
        for axis in (2, 3)
    ]
    front = graph.add("Slice", shape, _ints(graph, 0), _ints(graph, 2), _ints(graph, 0))
    sizes = graph.add("Concat", front, *sides, axis=0)
    return graph.add("Resize", source, "", "", sizes, mode="linear", coordinate_transformation_mode="pytorch_half_pixel")


def pad_then_conv(mode: str, amount: int = 1) -> Step:
    """torch's ReflectionPad2d and a convolution without padding."""

    def add(graph: Graph, source: str) -> str:
        padded = graph.add("Pad", source, _ints(graph, 0, 0, amount, amount, 0, 0, amount, amount), mode=mode)
        return conv(2 * amount + 1, pad=0)(graph, padded)

    return add


def shift(graph: Graph, source: str) -> str:
    """Rows moved down by one and columns right by two, as a spatial-shift layer does with all of its channels."""
    padded = graph.add("Pad", source, _ints(graph, 0, 0, 1, 2, 0, 0, 0, 0))
    return graph.add("Slice", padded, _ints(graph, 0, 0), _ints(graph, -1, -2), _ints(graph, 2, 3))


def unshuffle(factor: int = 2) -> Step:
    return lambda graph, source: graph.add("SpaceToDepth", source, channels=graph.channels[source] * factor**2, blocksize=factor)


def shuffle(factor: int = 2) -> Step:
    return lambda graph, source: graph.shuffle(source, factor)


def unshuffle_written_out(graph: Graph, source: str) -> str:
    """torch's pixel_unshuffle by 2 as the exporters write it, its sizes computed from the shape."""
    channels = graph.channels[source]
    shape = graph.add("Shape", source)
    halves = [graph.add("Div", graph.add("Gather", shape, _ints(graph, axis)), _ints(graph, 2)) for axis in (2, 3)]
    two, four = _ints(graph, 2), _ints(graph, 4 * channels)
    front = graph.add("Gather", shape, _ints(graph, 0))
    blocks = graph.add("Concat", front, _ints(graph, channels), halves[0], two, halves[1], two, axis=0)
    turned = graph.add("Transpose", graph.add("Reshape", source, blocks), perm=[0, 1, 3, 5, 2, 4])
    return graph.add("Reshape", turned, graph.add("Concat", front, four, *halves, axis=0), channels=4 * channels)


def channel_shuffle(graph: Graph, source: str) -> str:
    channels = graph.channels[source]
    shape = graph.add("Shape", source)
    front, sides = (
        graph.add("Slice", shape, _ints(graph, 0), _ints(graph, 1)),
        graph.add("Slice", shape, _ints(graph, 2), _ints(graph, 4)),
    )
    split = graph.add("Concat", front, _ints(graph, 2, channels // 2), sides, axis=0)
    turned = graph.add("Transpose", graph.add("Reshape", source, split), perm=[0, 2, 1, 3, 4])
    return graph.add("Reshape", turned, shape)


def over_channels(kind: str) -> Step:
    """LayerNormalization, Softmax or a product with a matrix, in NHWC."""

    def add(graph: Graph, source: str) -> str:
        channels = graph.channels[source]
        last = graph.add("Transpose", source, perm=[0, 2, 3, 1])
        sides = {"LayerNormalization": 1, "MatMul": 2, "Softmax": 0}[kind]
        given = [graph.constant(graph.random(*[channels] * sides))] * (sides > 0)
        return graph.add("Transpose", graph.add(kind, last, *given), perm=[0, 3, 1, 2])

    return add


def gate_over_channels(graph: Graph, source: str) -> str:
    mean = graph.add("ReduceMean", source, _ints(graph, 1))
    return graph.add("Mul", source, graph.add("Sigmoid", mean))


def halves_swapped(graph: Graph, source: str) -> str:
    channels = graph.channels[source]
    first = graph.add("Slice", source, _ints(graph, 0), _ints(graph, channels // 2), _ints(graph, 1), channels=channels // 2)
    second = graph.add("Slice", source, _ints(graph, channels // 2), _ints(graph, 1 << 40), _ints(graph, 1), channels=channels // 2)
    return graph.add("Concat", second, graph.add("Relu", first), axis=1, channels=channels)


def window_attention(graph: Graph, source: str, *, side: int = 4) -> str:
    """Attention within windows that do not overlap, with a bias per pair of places."""
    channels = graph.channels[source]
    shape = graph.add("Shape", source)
    counts = [graph.add("Div", graph.add("Gather", shape, _ints(graph, axis)), _ints(graph, side)) for axis in (2, 3)]
    front, own = graph.add("Gather", shape, _ints(graph, 0)), _ints(graph, side)
    blocks = graph.add("Concat", front, _ints(graph, channels), counts[0], own, counts[1], own, axis=0)
    windows = graph.add("Transpose", graph.add("Reshape", source, blocks), perm=[0, 2, 4, 3, 5, 1])
    tokens = graph.add("Reshape", windows, _ints(graph, -1, side**2, channels))
    scores = graph.add("MatMul", tokens, graph.add("Transpose", tokens, perm=[0, 2, 1]))
    weights = graph.add("Softmax", graph.add("Add", scores, graph.constant(graph.random(1, side**2, side**2))))
    mixed = graph.add("MatMul", weights, tokens)
    back = graph.add("Concat", front, *counts, own, own, _ints(graph, channels), axis=0)
    turned = graph.add("Transpose", graph.add("Reshape", mixed, back), perm=[0, 5, 1, 3, 2, 4])
    return graph.add("Reshape", turned, shape)


def pad_to_multiple_and_crop(multiple: int) -> Step:
    """What networks of windows do for themselves: a reflected border up to a multiple, unshuffled, shuffled, cropped."""

    def add(graph: Graph, source: str) -> str:
        shape = graph.add("Shape", source)
        sides = [graph.add("Gather", shape, _ints(graph, axis)) for axis in (2, 3)]
        whole, none = _ints(graph, multiple), _ints(graph, 0)
        more = [graph.add("Mod", graph.add("Sub", whole, graph.add("Mod", side, whole)), whole) for side in sides]
        pads = graph.add("Concat", none, none, none, none, none, none, *more, axis=0)
        inside = conv(1)(graph, unshuffle(multiple)(graph, graph.add("Pad", source, pads, mode="reflect")))
        sizes = graph.add("Concat", *sides, axis=0)
        return graph.add("Slice", shuffle(multiple)(graph, inside), _ints(graph, 0, 0), sizes, _ints(graph, 2, 3))

    return add


def residual(*steps: Step) -> Step:
    def add(graph: Graph, source: str) -> str:
        value = source
        for step in steps:
            value = step(graph, value)
        return graph.add("Add", source, value)

    return add


def chain(*steps: Step) -> Step:
    def add(graph: Graph, source: str) -> str:
        for step in steps:
            source = step(graph, source)
        return source

    return add


# What looks at the whole picture.


def squeeze_and_excite(graph: Graph, source: str) -> str:
    return graph.add("Mul", source, graph.add("Sigmoid", conv(1)(graph, graph.add("GlobalAveragePool", source))))


def with_positions(graph: Graph, source: str) -> str:
    """A ramp over the rows, made from the size and added."""
    height = graph.add("Squeeze", graph.add("Gather", graph.add("Shape", source), _ints(graph, 2)))
    zero, one = graph.constant(np.array(0, np.int64)), graph.constant(np.array(1, np.int64))
    ramp = graph.add("Cast", graph.add("Range", zero, height, one), to=1)
    ramp = graph.add("Mul", ramp, graph.constant(0.01))
    return graph.add("Add", source, graph.add("Unsqueeze", ramp, _ints(graph, 0, 1, 3)))


def divided_by_its_height(graph: Graph, source: str) -> str:
    height = graph.add("Cast", graph.add("Gather", graph.add("Shape", source), _ints(graph, 2)), to=1)
    return graph.add("Div", source, height)


def of_each_row(kind: str, axis: int) -> Step:
    return lambda graph, source: graph.add(kind, source, axis=axis)


def summed_up(graph: Graph, source: str) -> str:
    return graph.add("CumSum", source, graph.constant(np.array(2, np.int64)))


def rolled(graph: Graph, source: str) -> str:
    """torch.roll by one row."""
    first = graph.add("Slice", source, _ints(graph, -1), _ints(graph, 1 << 40), _ints(graph, 2))
    return graph.add("Concat", first, graph.add("Slice", source, _ints(graph, 0), _ints(graph, -1), _ints(graph, 2)), axis=2)


def flipped(graph: Graph, source: str) -> str:
    return graph.add("Slice", source, _ints(graph, -1), _ints(graph, -(1 << 40)), _ints(graph, 3), _ints(graph, -1))


def turned(graph: Graph, source: str) -> str:
    return graph.add("Transpose", source, perm=[0, 1, 3, 2])


def to_a_branch_of_odd_size(graph: Graph, source: str) -> str:
    """RFDN's attention: a branch of about a third of the size, enlarged to the size of its input."""
    small = graph.add("MaxPool", source, kernel_shape=[7, 7], strides=[3, 3])
    sizes = graph.add("Shape", source)
    large = graph.add("Resize", small, "", "", sizes, mode="linear", coordinate_transformation_mode="pytorch_half_pixel")
    return graph.add("Mul", source, large)
