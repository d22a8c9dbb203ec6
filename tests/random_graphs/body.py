"""A random network under construction: weights and choices from a seed, the features so far, and shapes as exporters write them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from tests.graphs import Array, Graph

CHANNELS, COLOURS, SCALE = 8, 3, 2


class Body:
    """A graph under construction: what is drawn, the features so far and those before each step."""

    def __init__(self, seed: int, *, fixed: tuple[int, int] | None) -> None:
        self.graph = Graph(seed, channels=COLOURS, sides=fixed or ("h", "w"))
        self.rng = self.graph.rng
        self.manners = np.random.default_rng((seed, 1))  # apart: how sizes are read changes no weight
        self.fixed = fixed
        self.kept: list[str] = []
        self.current = "input"

    def weight(self, *shape: int) -> str:
        """Weights that keep the magnitude of what they are applied to; the first axis is that of outputs."""
        fan_in = max(math.prod(shape[1:]), 1)
        return self.graph.constant(self.graph.random(*shape) * np.float32(math.sqrt(3 / fan_in)))

    def values(self, *shape: int, low: float = -0.5, high: float = 0.5) -> str:
        drawn: Array = self.rng.uniform(low, high, shape).astype(np.float32)
        return self.graph.constant(drawn)

    def draw(self, *choices: str) -> str:
        return choices[int(self.rng.integers(len(choices)))]

    def conv(self, source: str, outputs: int = CHANNELS, kernel: int = 3, *, groups: int = 1, **attributes: object) -> str:
        weight = self.weight(outputs, self.graph.channels[source] // groups, kernel, kernel)
        biases = () if self.rng.random() < 0.2 else (self.values(outputs, low=-0.1, high=0.1),)
        if not {"pads", "auto_pad"} & attributes.keys():
            attributes["pads"] = [kernel // 2 * int(attributes.pop("widened", 1))] * 4  # type: ignore[call-overload] # a number
        return self.graph.add("Conv", source, weight, *biases, channels=outputs, group=groups, **attributes)

    def sizes(self, source: str) -> tuple[str, str, str]:
        """N, H and W of a tensor, each an int64 of one element, as exporters read them."""
        graph = self.graph
        if self.manners.random() < 0.5:
            return tuple(graph.add("Shape", source, start=axis, end=axis + 1) for axis in (0, 2, 3))  # type: ignore[return-value]
        shape = graph.add("Shape", source)
        one = graph.constant(np.array([0]))
        picked = (graph.add("Gather", shape, graph.constant(np.array(axis))) for axis in (0, 2, 3))
        return tuple(graph.add("Unsqueeze", scalar, one) for scalar in picked)  # type: ignore[return-value]

    def resized_to(self, source: str) -> str:
        """(N, C, H, W) of features, as the sizes that a Resize takes."""
        graph = self.graph
        if self.fixed is not None:
            return graph.constant(np.array([1, CHANNELS, *self.fixed]))
        batch, height, width = self.sizes(source)
        return graph.add("Concat", batch, graph.constant(np.array([CHANNELS])), height, width, axis=0)

    def reshape(self, source: str, like: str, *shape: int | Literal["n", "h", "w"], channels: int, down: int = 1) -> str:
        """`source` in that shape, letters being sizes of `like`, `down` times below the picture's; constants in a fixed graph."""
        graph = self.graph
        if self.fixed is not None:
            known = {"n": 1, "h": self.fixed[0] // down, "w": self.fixed[1] // down}
            target = graph.constant(np.array([known.get(size, size) if isinstance(size, str) else size for size in shape]))
        else:
            known_names = dict(zip("nhw", self.sizes(like), strict=True))
            parts = [known_names[size] if isinstance(size, str) else graph.constant(np.array([size])) for size in shape]
            target = graph.add("Concat", *parts, axis=0)
        return graph.add("Reshape", source, target, channels=channels)


Step = Callable[[Body, str], str]
"""Features in, features of as many channels and of the same size out, by their names."""
