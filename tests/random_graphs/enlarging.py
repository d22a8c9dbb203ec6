"""How features are enlarged and made a picture of, and what the picture goes through before the first layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from tests.random_graphs.body import CHANNELS, COLOURS, SCALE, Body, Step


def transposed(body: Body, x: str, *, kernel: int = 2, outputs: int = CHANNELS) -> str:
    graph = body.graph
    weight = graph.constant(
        graph.random(graph.channels[x], outputs, kernel, kernel) * np.float32(2 / math.sqrt(graph.channels[x]) / kernel)
    )
    before = (kernel - 2) // 2
    return graph.add(
        "ConvTranspose",
        x,
        weight,
        body.values(outputs),
        channels=outputs,
        strides=[2, 2],
        pads=[before, before, kernel - 2 - before, kernel - 2 - before],
    )


def resized(body: Body, x: str, *, mode: str, coordinates: str, **attributes: Any) -> str:  # noqa: ANN401 # as onnx has it
    scales = body.graph.constant(np.array([1, 1, SCALE, SCALE], np.float32))
    return body.graph.add("Resize", x, "", scales, mode=mode, coordinate_transformation_mode=coordinates, **attributes)


def _resize_tail(mode: str, coordinates: str, **attributes: Any) -> Step:  # noqa: ANN401 # as onnx has it
    """Features are enlarged, and a convolution makes colours of them."""
    return lambda body, x: body.conv(resized(body, x, mode=mode, coordinates=coordinates, **attributes), COLOURS)


def _shuffle_tail(mode: str) -> Step:
    return lambda body, x: body.graph.shuffle(body.conv(x, COLOURS * SCALE**2), SCALE, mode)


def _written_out_tail(order: Literal["CRD", "DCR"]) -> Step:
    def tail(body: Body, x: str) -> str:
        graph, y = body.graph, body.conv(x, COLOURS * SCALE**2)
        inner = (COLOURS, SCALE, SCALE) if order == "CRD" else (SCALE, SCALE, COLOURS)
        wide = body.reshape(y, y, "n", *inner, "h", "w", channels=COLOURS * SCALE**2)
        turned = graph.add("Transpose", wide, perm=[0, 1, 4, 2, 5, 3] if order == "CRD" else [0, 3, 4, 1, 5, 2])
        if body.fixed is not None:
            return graph.add(
                "Reshape",
                turned,
                graph.constant(np.array([1, COLOURS, *(side * SCALE for side in body.fixed)])),
                channels=COLOURS,
            )
        batch, *sides = body.sizes(y)
        double = graph.constant(np.array([SCALE]))
        target = graph.add(
            "Concat", batch, graph.constant(np.array([COLOURS])), *(graph.add("Mul", side, double) for side in sides), axis=0
        )
        return graph.add("Reshape", turned, target, channels=COLOURS)

    return tail


def _transposed_tail(kernel: int) -> Step:
    return lambda body, x: transposed(body, x, kernel=kernel, outputs=COLOURS)


def _odd_transposed_tail(body: Body, x: str) -> str:
    """FSRCNN's: an odd kernel, and a row and a column more on one side."""
    graph = body.graph
    weight = graph.constant(graph.random(CHANNELS, COLOURS, 9, 9) * np.float32(0.1))
    return graph.add("ConvTranspose", x, weight, channels=COLOURS, strides=[2, 2], pads=[4] * 4, output_padding=[1, 1])


def _repeated_tail(body: Body, x: str) -> str:
    """The picture's channels repeated, added before the shuffle."""
    graph = body.graph
    copies = graph.add(
        "Expand", graph.add("Unsqueeze", "input", graph.constant(np.array([2]))), graph.constant(np.array([1, 1, SCALE**2, 1, 1]))
    )
    flat = body.reshape(copies, "input", "n", COLOURS * SCALE**2, "h", "w", channels=COLOURS * SCALE**2)
    return graph.shuffle(graph.add("Add", body.conv(x, COLOURS * SCALE**2), flat), SCALE)


def _plain_head(body: Body) -> str:
    return body.conv("input")


def _mean_head(body: Body) -> str:
    return body.conv(body.graph.add("Sub", "input", body.values(1, COLOURS, 1, 1, low=0.4, high=0.5)))


def _levels_head(body: Body) -> str:
    """A contract of 0 to 255 inside."""
    graph = body.graph
    centred = graph.add("Sub", graph.add("Mul", "input", graph.constant(255.0)), graph.constant(127.5))
    return graph.add("Div", body.conv(centred), graph.constant(64.0))


HEADS: Mapping[str, Callable[[Body], str]] = {"plain": _plain_head, "mean": _mean_head, "0 to 255": _levels_head}

TAILS: Mapping[str, Step] = {
    "shuffle": _shuffle_tail("CRD"),
    "shuffle by depth": _shuffle_tail("DCR"),
    "written-out shuffle": _written_out_tail("CRD"),
    "written-out shuffle by depth": _written_out_tail("DCR"),
    "repeated": _repeated_tail,
    "nearest": _resize_tail("nearest", "asymmetric", nearest_mode="floor"),
    "nearest half pixel": _resize_tail("nearest", "half_pixel", nearest_mode="round_prefer_floor"),
    "linear": _resize_tail("linear", "half_pixel"),
    "linear pytorch": _resize_tail("linear", "pytorch_half_pixel"),
    "linear asymmetric": _resize_tail("linear", "asymmetric"),
    "linear corners": _resize_tail("linear", "align_corners"),
    "cubic": _resize_tail("cubic", "half_pixel", cubic_coeff_a=-0.75),
    "transposed 2": _transposed_tail(2),
    "transposed 4": _transposed_tail(4),
    "transposed 9": _odd_transposed_tail,
}
