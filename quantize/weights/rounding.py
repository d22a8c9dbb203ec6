"""Round a network's weights layer by layer, from input to output, each layer for the inputs that the int8 network then gives it.

Every layer is fitted so that it makes of that what it makes in fp32 (`quantize/weights/fit_layer.py`), and makes up for what
rounding did to the layers before.

Memory: of the fp32 network what each layer makes is held at the places where the layer is sampled. Of the int8 network is held,
crop by crop, what the layers to come read, as codes of 8 bits; all else is made for one crop at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from quantize.graph.layers import along, bias_gain, output_axis
from quantize.graph.operators import computed_inputs
from quantize.graph.placement import Placement
from quantize.graph.qdq import QuantizationParameters, RoundedWeight, dequantize, fake_quantize, quantize
from quantize.graph.walk import Array, RunNode, Walk, open_node
from quantize.weights.fit_layer import fit_layer
from quantize.weights.layer_sample import LayerSample, draw_sample
from runtime.targets import Target

Codes = np.ndarray[tuple[int, ...], np.dtype[np.integer]]


def round_layers(
    model: ir.Model,
    placement: Placement,
    parameters: Mapping[str, QuantizationParameters],
    crops: Sequence[Array],
    *,
    target: Target,
    rng: np.random.Generator,
    on_step: Callable[[int, int], None],
    float_readers: Collection[str] = (),
) -> dict[str, RoundedWeight]:
    """Round every layer of `model` in int8 that has parts (`quantize/weights/layer_parts.py`), on `crops`, (1, C, H, W) each.

    `float_readers`, operators by name, read no tensor rounded.
    """
    graph = model.graph
    samples = _sample_layers(graph, placement.int8_layers, crops, rng)
    held = _Held(str(graph.inputs[0].name), crops, parameters, frozenset(float_readers))
    stages = _stages(graph, samples)
    rounded: dict[str, RoundedWeight] = {}
    for index, stage in enumerate(stages):
        on_step(index, len(stages))
        first, changed = stage[0], stage[0]
        if first.name in samples:
            name, read = str(first.name), str(computed_inputs(first)[0].name)
            given = (held.read(first, read, crop) for crop in range(len(crops)))
            input_scale = parameters[read].scale
            rounded[name] = fit_layer(first, given, samples.pop(name), target=target, input_scale=input_scale)
            changed = _with_rounded(first, rounded[name])
        if index + 1 < len(stages):
            later = [node for nodes in stages[index + 1 :] for node in nodes]
            held.advance([(first, changed), *((node, node) for node in stage[1:])], later, opsets=graph.opset_imports)
    return rounded


def _sample_layers(
    graph: ir.Graph, layers: Collection[str], crops: Sequence[Array], rng: np.random.Generator
) -> dict[str, LayerSample]:
    """Draw where each of `layers` that has parts is sampled, and run the fp32 `graph` for what it makes there."""
    walk = Walk(graph)
    shapes: dict[tuple[int, ...], dict[str, tuple[int, ...]]] = {}
    for crop in crops:
        if crop.shape not in shapes:
            shapes[crop.shape] = {str(node.name): given[0].shape for node, given, _ in walk(crop) if node.name in layers}
    drawn = {
        str(node.name): draw_sample(node, [shapes[crop.shape][str(node.name)] for crop in crops], rng)
        for node in graph
        if node.name in layers
    }
    samples = {name: sample for name, sample in drawn.items() if sample is not None}
    for crop in crops:
        for node, _, made in walk(crop):
            if node.name in samples and made[0] is not None:
                samples[str(node.name)].note(made[0])
            del made  # not held while the next is made
    return samples


def _stages(graph: ir.Graph, starts: Collection[str]) -> list[list[ir.Node]]:
    """Return consecutive nodes of `graph`, a new list from each of `starts`, nodes by name."""
    stages: list[list[ir.Node]] = [[]]
    for node in graph:
        if node.name in starts and stages[-1]:
            stages.append([])
        stages[-1].append(node)
    return stages


@dataclass
class _Held:
    """What the int8 network made so far that is still to be read, by tensor, crop by crop: as codes where no one reads floats."""

    picture: str
    crops: Sequence[Array]
    parameters: Mapping[str, QuantizationParameters]
    float_readers: frozenset[str]
    _floats: dict[tuple[str, int], Array] = field(default_factory=dict)
    _codes: dict[tuple[str, int], Codes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._floats = {(self.picture, index): crop for index, crop in enumerate(self.crops)}

    def read(self, node: ir.Node, name: str, crop: int) -> Array:
        """Return the tensor as `node` reads it."""
        if (name, crop) in self._codes:
            return dequantize(self._codes[name, crop], self.parameters[name])
        array = self._floats[name, crop]
        return fake_quantize(array, self.parameters[name]) if self._is_rounded(node, name) else array

    def advance(self, stage: Sequence[tuple[ir.Node, ir.Node]], later: Sequence[ir.Node], *, opsets: Mapping[str, int]) -> None:
        """Run a stage, nodes and what is run in the place of each, and let go of all that `later` nodes do not read."""
        last = {name: node for node, _ in stage for name in _reads(node)}
        runs: dict[ir.Node, RunNode] = {}
        for crop in range(len(self.crops)):
            for node, changed in stage:
                given = [self.read(node, name, crop) for name in _reads(node)]
                if node not in runs:
                    runs[node] = open_node(changed, given, opsets=opsets)
                made = dict(zip((str(output.name) for output in node.outputs), runs[node](given), strict=True))
                self._floats |= {(name, crop): one for name, one in made.items() if one is not None}
                del given
                for name in {*_reads(node), *made}:
                    if last.get(name, node) is node:
                        self._settle(name, crop, [reader for reader in later if name in _reads(reader)])

    def _settle(self, name: str, crop: int, readers: Sequence[ir.Node]) -> None:
        """Hold a tensor as its `readers` to come need it."""
        if not readers:
            self._codes.pop((name, crop), None)
        if readers and not all(self._is_rounded(reader, name) for reader in readers):
            return
        array = self._floats.pop((name, crop), None)
        if readers and array is not None:
            self._codes[name, crop] = quantize(array, self.parameters[name])

    def _is_rounded(self, node: ir.Node, name: str) -> bool:
        return name in self.parameters and node.name not in self.float_readers


def _reads(node: ir.Node) -> list[str]:
    return [str(value.name) for value in computed_inputs(node)]


def _with_rounded(node: ir.Node, layer: RoundedWeight) -> ir.Node:
    """Return a node like `node`, with the weight and the bias that its rounded ones stand for."""
    axis = output_axis(node)
    parts = {"weight": (layer.weight * along(layer.scale, layer.weight.ndim, axis)).astype(np.float32)}
    if bias_gain(node):
        parts["bias"] = layer.bias.astype(np.float32)
    constants = [ir.val(f"{node.name}.{part}", const_value=ir.tensor(array)) for part, array in parts.items()]
    return ir.Node("", node.op_type, [node.inputs[0], *constants], list(node.attributes.values()), outputs=[ir.val("made")])
