"""Sample a layer: where it is fitted, drawn from the sizes of its inputs, and what it makes there in fp32.

Holding what is wanted of a layer at some thousand places in the place of all it makes bounds memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantize.graph.walk import Array
from quantize.weights.layer_parts import Indices, Part, layer_parts, outputs_at, positions_of

_SAMPLES = 24_000  # windows a part is fitted on at most, forty for each of the 577 unknowns of a 3×3 layer of 64 channels
_SAMPLES_EACH = 80  # of an unknown
_FEWEST_SAMPLES = 4_000


@dataclass(frozen=True)
class PartSample:
    """Of one part of a layer, crop by crop: places (S,), which index its outputs, and what is wanted of it there, (S, O)."""

    part: Part
    places: tuple[Indices, ...]
    wanted: list[Array]


@dataclass(frozen=True)
class LayerSample:
    """What a layer is fitted on, of each of its parts."""

    node: ir.Node
    parts: tuple[PartSample, ...]

    def note(self, made: Array) -> None:
        """Take note of what the layer makes in fp32 of the next crop."""
        for sample in self.parts:
            sample.wanted.append(outputs_at(self.node, sample.part, made, sample.places[len(sample.wanted)]))


def draw_sample(node: ir.Node, shapes: Sequence[tuple[int, ...]], rng: np.random.Generator) -> LayerSample | None:
    """Draw places for a layer that reads an input of each of `shapes`, crop by crop; None where it has no parts."""
    parts = layer_parts(node)
    if not parts:
        return None
    samples = []
    for part in parts:
        most = min(_SAMPLES, max(_FEWEST_SAMPLES, _SAMPLES_EACH * (len(part.index) + 1)))
        each = -(-most // len(shapes))
        sizes = [positions_of(node, part, np.broadcast_to(np.float32(0), shape)) for shape in shapes]
        picked = [rng.choice(places, size=min(each, len(places)), replace=False) for places in sizes]
        samples.append(PartSample(part, tuple(picked), []))
    return LayerSample(node, tuple(samples))
