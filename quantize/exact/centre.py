"""Shift ReLU outputs to the middle of a symmetric scheme's 256 codes, exactly, so that they use all of them.

An fp32 graph and its ranges go in, the same graph with shifted tensors comes out. A scheme whose zero point is 0 has codes -128 to
127, and a ReLU's output would take half of them. With r = relu(z) a ReLU's output, c = 128 · scale, * a convolution,

    r - c = max(z - c, -c),    W * r = W * (r - c) + c Σ W,    (r - c) + y = (r + y) - c    for an unshifted y

The shift goes into the bias of the convolution before and comes out of the bias of the next. Where the next pads with 0 it must now
pad with -c: a Pad of integers before it is what the shift costs. Codes end at -128, which is -c, so that the quantizer saturates
where the ReLU clipped, and the ReLU itself is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.attributes import has_own_pads
from export.graph.constants import constant_input, new_constant
from quantize.graph.operators import activations
from quantize.graph.qdq import ActivationRange, storable_scale
from runtime.targets import Target

_SUFFIX = ".centred"
_LOWEST = ".lowest"  # ends the name of what a shifted ReLU clips at
_CODES = 255  # steps from the lowest code to the highest
_MIDDLE = 128  # of those below 0


@dataclass(frozen=True)
class Centred:
    """What became of a graph.

    Attributes:
        ranges: of the tensors that are shifted, by name.
        shifts: of the tensors that are new, the one each is made of and what is taken off it.
    """

    ranges: Mapping[str, ActivationRange] = field(default_factory=dict)
    shifts: Mapping[str, tuple[str, float]] = field(default_factory=dict)


def centre(graph: ir.Graph, target: Target, largest: Mapping[str, float]) -> Centred:
    """Shift what each ReLU makes whose `largest` value is given by name, in place, where what reads it can take that in."""
    offsets: dict[ir.Value, float] = {}
    added: dict[ir.Node, NDArray[np.float64] | float] = defaultdict(float)
    padded: dict[tuple[ir.Value, tuple[int, ...]], ir.Value] = {}
    for node in list(graph):
        made, offset = node.outputs[0], sum(offsets.get(value, 0.0) for value in activations(node))
        if node.op_type == "Relu" and str(made.name) in largest and _is_absorbed(made):
            writer = _shifted_by(node.inputs[0])
            if writer is not None:
                offsets[made] = _MIDDLE * float(storable_scale(largest[str(made.name)] / _CODES, target))
                added[writer] -= offsets[made]
                _clip_at(graph, node, -offsets[made])
        elif offset and node.op_type == "Conv":
            added[node] += offset * constant_input(node, 1).sum(axis=(1, 2, 3), dtype=np.float64)
            _pad_with(graph, node, -offset, padded)
        elif offset and node.op_type == "Add" and (branch := _branch(node)) is not None:
            added[branch] += offset
        elif offset:
            offsets[made] = offset
    for node, bias in added.items():
        _add_to_bias(graph, node, bias)
    ranges = {f"{value.name}{_SUFFIX}": (-offset, _highest(value, offset, largest)) for value, offset in offsets.items()}
    shifts = {f"{value.name}{_SUFFIX}": (str(value.name), offset) for value, offset in offsets.items()}
    for (value, _), copy in padded.items():
        shifts[str(copy.name)] = str(value.name), offsets[value]
    for value in offsets:
        value.name = f"{value.name}{_SUFFIX}"
    graph.sort()
    return Centred(ranges, shifts)


def leave_clips_to_quantizers(graph: ir.Graph) -> None:
    """Take out what a quantizer behind it does anyway: codes end where it clips."""
    for node in [node for node in graph if node.op_type == "Clip"]:
        readers = [use.node for use in node.outputs[0].uses()]
        if len(node.inputs) == 2 and len(readers) == 1 and readers[0].op_type == "QuantizeLinear":
            (quantizer,) = readers
            lowest = (_lowest_code(quantizer) - int(constant_input(quantizer, 2).item())) * constant_input(quantizer, 1).item()
            if lowest == constant_input(node, 1).item():
                quantizer.replace_input_with(0, node.inputs[0])
                graph.remove(node, safe=True)


def _is_absorbed(value: ir.Value) -> bool:
    """Return whether all that reads `value` can take a shift in: convolutions, additions of what one makes, and moves to such."""
    return not value.is_graph_output() and all(_absorbs(use.node, value) for use in value.uses())


def _absorbs(node: ir.Node, value: ir.Value) -> bool:
    if node.op_type == "Conv":
        return node.inputs[0] is value and _has_constants(node) and has_own_pads(node)
    if node.op_type == "Add" and len(activations(node)) == 2 and _branch(node) is not None:
        return True
    if node.op_type not in ("Add", "DepthToSpace") or len(activations(node)) != len(node.inputs):
        return False
    return _is_never_negative(node.outputs[0]) and _is_absorbed(node.outputs[0])


def _is_never_negative(value: ir.Value) -> bool:
    """Return whether ReLUs made `value`, shifted already or not, added or moved: the lowest code may then stand for its 0."""
    node = value.producer()
    if node is None or node.op_type not in ("Relu", "Clip", "Add", "DepthToSpace"):
        return False
    if node.op_type == "Clip":
        return len(node.inputs) == 2 and node.inputs[1] is not None and node.inputs[1].name == f"{node.name}{_LOWEST}"
    read = [other for other in node.inputs if other is not None]
    return node.op_type == "Relu" or all(_is_never_negative(other) for other in read)


def _branch(addition: ir.Node) -> ir.Node | None:
    """Return the convolution whose bias shifts what `addition` makes."""
    found = [_shifted_by(value) for value in activations(addition)]
    return next((node for node in found if node is not None), None)


def _shifted_by(value: ir.Value | None) -> ir.Node | None:
    """Return the convolution whose bias shifts `value` and nothing else."""
    producer = None if value is None else value.producer()
    if value is None or producer is None or len(list(value.uses())) != 1 or value.is_graph_output():
        return None
    if producer.op_type == "DepthToSpace":
        return _shifted_by(producer.inputs[0])
    if producer.op_type == "Add" and len(activations(producer)) == 2:
        return _branch(producer)
    return producer if producer.op_type == "Conv" and _has_constants(producer) else None


def _has_constants(node: ir.Node) -> bool:
    return all(value is None or value.const_value is not None for value in node.inputs[1:])


def _clip_at(graph: ir.Graph, relu: ir.Node, lowest: float) -> None:
    relu.op_type = "Clip"
    relu.resize_inputs(2)
    relu.replace_input_with(1, new_constant(graph, np.array(lowest, np.float32), name=f"{relu.name}{_LOWEST}"))


def _pad_with(graph: ir.Graph, node: ir.Node, fill: float, padded: dict[tuple[ir.Value, tuple[int, ...]], ir.Value]) -> None:
    """Let `node` read its input padded with `fill`, and pad nothing itself; convolutions that pad alike share it."""
    source = node.inputs[0]
    assert source is not None
    pads = tuple(node.attributes["pads"].as_ints()) if "pads" in node.attributes else ()
    if not any(pads):
        return
    if (source, pads) not in padded:
        alike = pads[:1] if len(set(pads)) == 1 else pads
        name = f"{source.name}.padded.{'.'.join(map(str, alike))}"
        half = len(pads) // 2
        amounts = new_constant(graph, np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64), name=f"{name}.pads")
        pad = ir.node("Pad", [source, amounts, new_constant(graph, np.array(fill, np.float32), name=f"{name}.fill")], name=name)
        pad.outputs[0].name, pad.outputs[0].type = name, source.type
        graph.append(pad)
        padded[source, pads] = pad.outputs[0]
    node.replace_input_with(0, padded[source, pads])
    node.attributes["pads"] = ir.AttrInt64s("pads", [0] * len(pads))


def _add_to_bias(graph: ir.Graph, node: ir.Node, added: NDArray[np.float64] | float) -> None:
    outputs = constant_input(node, 1).shape[0]
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    bias = (constant_input(node, 2).astype(np.float64) if has_bias else np.zeros(outputs)) + added
    node.resize_inputs(3)
    node.replace_input_with(2, new_constant(graph, bias.astype(np.float32), name=f"{node.name}.bias{_SUFFIX}"))


def _highest(value: ir.Value, offset: float, largest: Mapping[str, float]) -> float:
    """Return what the highest code stands for of a ReLU's values, or what was measured of a sum's."""
    writer = value.producer()
    is_whole = (writer is not None and writer.op_type == "Clip") or str(value.name) not in largest
    return offset * (_MIDDLE - 1) / _MIDDLE if is_whole else largest[str(value.name)] - offset


def _lowest_code(quantizer: ir.Node) -> int:
    zero_point = quantizer.inputs[2]
    assert zero_point is not None
    assert zero_point.const_value is not None
    return int(np.iinfo(zero_point.const_value.numpy().dtype.name).min)
