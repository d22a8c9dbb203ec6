"""Compile one graph that runs any part of a network in int8: each quantizer and each layer's rounded weights has a switch.

    x' = s ? dequantize(quantize(x)) : x,    W' = s ? W_q : W

Which layers are worth lifting out of int8 is found by trying, and with a graph for each trial every one would be compiled.
Integers are simulated in float32, as the QDQ graph is written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.watch import session_with_outputs
from export.graph.constants import new_constant
from quantize.graph.input_correction import is_correctable, readings_of_input
from quantize.graph.kernel_layouts import undo_layouts
from quantize.graph.operators import activations, is_moved, part_of
from quantize.graph.placement import liftable_additions, may_stay_float, moved_chain
from quantize.graph.qdq import QuantizationParameters
from quantize.graph.read_qdq import Constants, rounded_layers, stored_end, stored_tensors
from runtime.quality import psnr_of
from runtime.targets import Target
from runtime.targets.operators import Part

Array = NDArray[np.float32]


class SwitchedGraph:
    """A network of which any operators can be in int8; a tensor is while one that reads or writes it is, or one is at all.

    The latter are tensors between operators that are never in int8 themselves, as those that are fused into a layer. Where layers
    may write floats, it is so for the operators in int8 that read it, and the others read it as it was.

    Attributes:
        layers: those with weights, in the order they run.
        operators: all that can be in int8: the layers, and operators without weights that the target runs in int8, or inside them.
    """

    def __init__(self, reference: onnx.ModelProto, int8: onnx.ModelProto, crops: Sequence[Array], *, target: Target) -> None:
        """`reference` is the fp32 graph that `int8` was made of, of the same tensors and layers; `crops` as it takes them."""
        model, quantized = ir.from_proto(reference), ir.from_proto(int8)
        undo_layouts(quantized.graph, model.graph)
        stored, rounded = stored_tensors(quantized.graph), rounded_layers(quantized.graph)
        additions = liftable_additions(model.graph, target)
        self._inputs = {str(node.name): _readings_of_input(node, target) for node in model.graph if node.name in rounded}
        nodes = {
            str(node.name): node
            for node in model.graph
            if node.name in rounded
            or (part_of(node, target) in (Part.LAYER, Part.COMPUTE) and stored_end(node.outputs[0], stored, rounded).name in stored)
            or node.name in additions
        }
        self.layers = tuple(name for name in nodes if name in rounded)
        self.operators = frozenset(nodes)
        self._touched = {
            name: {
                str(value.name)
                for touched in (*activations(node), *_written(node, stored, rounded, target))
                for value in moved_chain(touched, target)
                if value.name in stored
            }
            for name, node in nodes.items()
        }
        self._untouched = set(stored).difference(*self._touched.values())
        values = {str(value.name): value for node in model.graph for value in (*model.graph.inputs, *node.outputs)}
        self._pads = {reader for readings in self._inputs.values() for _, reader in readings if reader and reader not in nodes}
        apart = {*nodes, *self._pads}
        self._tensors = [
            reading
            for name, tensor in stored.items()
            for reading in _switch_tensor(model.graph, values[name], tensor.parameters, apart, target)
        ]
        self._weights = {name: _switch_constants(model.graph, nodes[name], rounded[name]) for name in self.layers}
        model.graph.sort()
        self._session = session_with_outputs(model, ())
        self._input = str(model.graph.inputs[0].name)
        self._crops = crops
        self._exact = list(self._run(()))

    def psnr_db(self, quantized: Collection[str], *, corrected: Collection[str] = ()) -> float | None:
        """PSNR of the output, clipped to [0, 1], against fp32's, over all crops, with those operators in int8; None: equal.

        `corrected` layers read their inputs as they were, which is a little better than what they do.
        """
        squares, count = 0.0, 0
        for exact, output in zip(self._exact, self._run(quantized, corrected), strict=True):
            squares += float(np.square(output - exact, dtype=np.float64).sum())
            count += exact.size
        return None if squares == 0 else psnr_of(squares / count)

    def _run(self, quantized: Collection[str], corrected: Collection[str] = ()) -> Iterator[Array]:
        touched = {tensor for name in quantized for tensor in self._touched[name]}
        touched |= self._untouched if quantized else set()
        read_rounded = {None, *quantized, *self._pads}
        exact = {reading for layer in corrected for reading in self._inputs[layer]}
        switches = {
            reading.switch: np.array(
                reading.tensor in touched and reading.reader in read_rounded and (reading.tensor, reading.reader) not in exact
            )
            for reading in self._tensors
        }
        switches |= {switch: np.array(name in quantized) for name, switch in self._weights.items()}
        for crop in self._crops:
            (output,) = self._session.run(None, {self._input: crop, **switches})
            yield output.clip(0, 1)


@dataclass(frozen=True)
class _Reading:
    """A switch for what reads a tensor: one operator that could read it as it was, or all that could not."""

    switch: str
    tensor: str
    reader: str | None


def _readings_of_input(layer: ir.Node, target: Target) -> frozenset[tuple[str, str | None]]:
    """Return the tensors, and who reads them, that are not rounded where `layer` is corrected; none where it cannot be."""
    if not is_correctable(layer, target):
        return frozenset()
    source, *moved = readings_of_input(layer, target)
    return frozenset({(str(source.tensor.name), str(source.reader.name)), *((str(reading.tensor.name), None) for reading in moved)})


def _written(layer: ir.Node, stored: Collection[str], layers: Collection[str], target: Target) -> list[ir.Value]:
    end = stored_end(layer.outputs[0], stored, layers)
    return [] if may_stay_float(end, target) else [end]


def _switch_tensor(
    graph: ir.Graph, value: ir.Value, parameters: QuantizationParameters, operators: Collection[str], target: Target
) -> list[_Reading]:
    """Put a quantizer with switches between `value` and all that read it."""
    name, uses = str(value.name), list(value.uses())
    scale = new_constant(graph, np.array(parameters.scale, np.float32), name=f"{name}.scale")
    zero_point = new_constant(graph, np.array(parameters.zero_point, parameters.dtype), name=f"{name}.zero_point")
    quantize = ir.node("QuantizeLinear", [value, scale, zero_point])
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero_point])
    graph.extend([quantize, dequantize])
    is_free = target.writes_floats and not is_moved(value, target)
    readings, switched = {}, {}
    for reader in [None, *(str(use.node.name) for use in uses if is_free and use.node.name in operators)]:
        switch = _add_switch(graph, f"{name}.quantized{'' if reader is None else f'.{reader}'}")
        readings[reader] = _Reading(str(switch.name), name, reader)
        switched[reader] = _choose(graph, switch, on=dequantize.outputs[0], off=value)
    for use in uses:
        use.node.replace_input_with(use.idx, switched.get(use.node.name, switched[None]))
    if value.is_graph_output():
        graph.outputs[graph.outputs.index(value)] = switched[None]
        switched[None].type, switched[None].shape = value.type, value.shape
    return list(readings.values())


def _switch_constants(graph: ir.Graph, layer: ir.Node, rounded: Constants) -> str:
    """Give `layer` its rounded weight and bias while a switch is on; the switch's name."""
    switch = _add_switch(graph, f"{layer.name}.rounded")
    layer.resize_inputs(max(len(layer.inputs), 1 + len(rounded)))
    for index, array in enumerate(rounded, start=1):
        if array is not None:
            on = new_constant(graph, array, name=f"{switch.name}.{index}")
            off = layer.inputs[index] or new_constant(graph, np.zeros_like(array), name=f"{switch.name}.{index}.without")
            layer.replace_input_with(index, _choose(graph, switch, on=on, off=off))
    return str(switch.name)


def _add_switch(graph: ir.Graph, name: str) -> ir.Value:
    switch = ir.val(name, dtype=ir.DataType.BOOL, shape=[])
    graph.inputs.append(switch)
    return switch


def _choose(graph: ir.Graph, switch: ir.Value, *, on: ir.Value, off: ir.Value) -> ir.Value:
    where = ir.node("Where", [switch, on, off])
    graph.append(where)
    return where.outputs[0]
