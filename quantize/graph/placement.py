"""Place quantizers: an fp32 graph and a target in, the tensors that get a quantizer and the layers in int8 out.

A tensor gets one where an int8 operator reads or writes it, unless its only reader is an activation or an addition that the target
fuses into the operator before. Operators that only move data tie their output to their input: one quantizer, passed through, where
either end has one. A layer that is lifted stays in float, and asks for none; nor does an addition of what it makes, nor an addition
that is lifted itself. Where layers may write floats, what is in float reads them, and not what others have rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

import onnx_ir as ir

from quantize.graph.operators import activations, fused_branch, is_activation, is_moved, is_weighted, part_of, row_of
from runtime.errors import UserError
from runtime.targets import Target
from runtime.targets.operators import Part


class Role(Enum):
    """What a tensor is to the network; ranges are chosen by it."""

    INPUT = "input"
    INNER = "inner"
    SKIP = "skip"
    """Carried over more than half of the network's depth: clipping it shows in the picture itself."""
    OUTPUT = "output"


@dataclass(frozen=True)
class Quantizer:
    """A quantizer on tensor `name`, whose range is that of `range_of` (itself, or the tensor it was moved from or into).

    `signed`: it must have zero point 0, and is int8 whatever the target's other tensors are.
    """

    name: str
    range_of: str
    role: Role
    signed: bool = False


@dataclass(frozen=True)
class Placement:
    """Where a graph has quantizers, and who reads what they make.

    Attributes:
        quantizers: by tensor name.
        int8_layers: the layers that run in int8, which have weights.
        float_readers: operators that read a tensor as it was before its quantizer.
        int8_products: operators that multiply one activation by another and run in int8.
    """

    quantizers: Mapping[str, Quantizer]
    int8_layers: tuple[str, ...]
    float_readers: frozenset[str] = frozenset()
    int8_products: tuple[str, ...] = ()


def place_quantizers(graph: ir.Graph, target: Target, *, lifted: Collection[str] = ()) -> Placement:
    """Decide where `target` wants quantizers in `graph`, an fp32 network in topological order, with the layers of `lifted` kept in
    float.
    """
    roles = tensor_roles(graph, target)
    in_float = lifted_operators(graph, target, lifted)
    parts = {node: part_of(node, target) for node in graph}
    touched = {
        node: values
        for node, part in parts.items()
        if node.name not in in_float
        for values in (_touched(node, part, target),)
        if values
    }
    sources = {moved_chain(value, target)[-1] for values in touched.values() for value in values}
    for node in reversed(graph):
        if parts[node] is Part.MOVE and _joins(node) and (node.outputs[0] in sources or target.everything_int8):
            touched[node] = [*activations(node), node.outputs[0]]
            sources.update(moved_chain(value, target)[-1] for value in touched[node])
    signed = {
        moved_chain(value, target)[-1]
        for node in touched
        if (row := row_of(node, target)) is not None and not row.zero_points
        for index, value in enumerate(activations(node))
        if index or not _is_never_negative(moved_chain(value, target)[-1])
    }
    quantizers: dict[str, Quantizer] = {}
    for node in graph:
        moves = parts[node] is Part.MOVE and not _joins(node) and moved_chain(node.outputs[0], target)[-1] in sources
        for value in [*activations(node), *_made(node)] if moves else touched.get(node, ()):
            name, source, range_of = _value_name(value), moved_chain(value, target)[-1], _range_of(value, sources, target)
            quantizers.setdefault(name, Quantizer(name, _value_name(range_of), roles[_value_name(source)], source in signed))
    layers = tuple(_name(node) for node, part in parts.items() if part is Part.LAYER and node.name not in in_float)
    products = tuple(_name(node) for node, part in parts.items() if part is Part.COMPUTE and node.op_type == "MatMul")
    return Placement(quantizers, layers, in_float if target.writes_floats else frozenset(), products)


def _touched(node: ir.Node, part: Part | None, target: Target) -> list[ir.Value]:
    """Return the tensors that `node` itself wants as integers."""
    if part in (Part.LAYER, Part.COMPUTE):
        if part is Part.COMPUTE and _has_number(node) and _is_at_an_end(node, target):
            return []
        made = _after_activation(node.outputs[0], target)
        keeps_floats = part is Part.LAYER and _goes_into_addition(node, target)
        return [*activations(node), *([] if keeps_floats or may_stay_float(made, target) else [made])]
    if part is Part.INSIDE:
        return [value for value in activations(node) if value is not fused_branch(node)]
    row = row_of(node, target)
    return [*activations(node), *_made(node)] if row is not None and row.int8_only else []


def _range_of(value: ir.Value, quantized: Collection[ir.Value], target: Target) -> ir.Value:
    """Return the tensor whose range is that of `value`.

    What it was moved from, or what it is joined into, where nothing else reads it.
    """
    chain = moved_chain(value, target)
    source = end = chain[-1]
    while not source.is_graph_input() and not end.is_graph_output() and len(readers := [use.node for use in end.uses()]) == 1:
        (reader,) = readers
        if part_of(reader, target) is not Part.MOVE or len(reader.outputs) != 1:
            break
        end = reader.outputs[0]
        if _joins(reader):
            if end not in quantized:
                break
            source = end
    return source


def _is_never_negative(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type in ("Softmax", "Relu", "Sigmoid")


def _joins(node: ir.Node) -> bool:
    return len(set(activations(node))) > 1


def _made(node: ir.Node) -> list[ir.Value]:
    """Return what a node writes, but for outputs that it leaves out."""
    return [value for value in node.outputs if value.name]


def liftable_additions(graph: ir.Graph, target: Target) -> tuple[str, ...]:
    """Additions inside a layer that can read floats, without multiply-accumulates: those that `lifted` may name beside layers."""
    return tuple(_name(node) for node in graph if target.writes_floats and part_of(node, target) is Part.INSIDE)


def lifted_operators(graph: ir.Graph, target: Target, layers: Collection[str]) -> frozenset[str]:
    """Return `layers`, and the operators without weights that would be in int8 but read what one of those makes."""
    if not layers:
        return frozenset()
    made = {_after_activation(node.outputs[0], target) for node in graph if node.name in layers}
    made |= {node.outputs[0] for node in graph if node.name in layers}
    following = [node for node in graph if made & {*activations(node)} and part_of(node, target) not in (Part.LAYER, Part.MOVE)]
    return frozenset(layers) | {_name(node) for node in following if not is_weighted(node)}


def check_operators(graph: ir.Graph, target: Target) -> None:
    """Raise UserError where `target` runs everything in int8 and `graph` has an operator that it has not."""
    if not target.everything_int8:
        return
    for node in graph:
        if any(is_activation(value) for value in node.outputs) and part_of(node, target) is None:
            known = dict.fromkeys(row.operator for row in target.operators)
            so = " of this kind" if node.op_type in known else ""
            raise UserError(
                f"target {target.name} runs everything in int8, and has no {node.op_type} ({node.name}){so}; "
                f"it has: {', '.join(known)}",
                hint="choose another target",
            )


def tensor_roles(graph: ir.Graph, target: Target) -> dict[str, Role]:
    """Return the role of every activation of `graph`, by name; what is only moved has the role of what it is moved to.

    A global skip is the shallower side of an Add (and that Add's result) where the two sides differ by more than half of the
    network's depth, depth being the largest number of convolutions on a path from the input.
    """
    depth: dict[str, int] = {_value_name(value): 0 for value in graph.inputs}
    adds: list[ir.Node] = []
    for node in graph:
        inputs = activations(node)
        reached = max((depth[_value_name(value)] for value in inputs), default=0) + is_weighted(node)
        depth.update({_value_name(output): reached for output in _made(node)})
        if node.op_type == "Add" and len(inputs) == 2:
            adds.append(node)
    roles = dict.fromkeys(depth, Role.INNER)
    total = max(depth.values())
    for node in adds:
        left, right = sorted(activations(node), key=lambda value: depth[_value_name(value)])
        if 2 * (depth[_value_name(right)] - depth[_value_name(left)]) > total:
            skip = (*moved_chain(left, target), node.outputs[0], _after_activation(node.outputs[0], target))
            roles.update({_value_name(value): Role.SKIP for value in skip})
    roles.update({_value_name(value): Role.INPUT for value in graph.inputs})
    roles.update({_value_name(value): Role.OUTPUT for end in graph.outputs for value in moved_chain(end, target)})
    return roles


def moved_chain(value: ir.Value, target: Target) -> list[ir.Value]:
    """Return `value`, what an operator that only moves data moved it from, and so on back."""
    chain = [value]
    while is_moved(chain[-1], target):
        producer = chain[-1].producer()
        assert producer is not None
        chain.append(activations(producer)[0])
    return chain


def may_stay_float(value: ir.Value, target: Target) -> bool:
    """Return whether the layer in int8 that makes `value` may write it as floats: all but what becomes the picture."""
    return target.writes_floats and not _becomes_output(value, target)


def _becomes_output(value: ir.Value, target: Target) -> bool:
    """Return whether `value` is an output of its graph, or moved, scaled or shifted to become one and nothing else."""
    while not value.is_graph_output():
        readers = [use.node for use in value.uses()]
        if len(readers) != 1 or len(activations(readers[0])) != 1:
            return False
        if part_of(readers[0], target) is not Part.MOVE and readers[0].op_type not in _OF_NUMBERS:
            return False
        value = readers[0].outputs[0]
    return True


_OF_NUMBERS = ("Add", "Sub", "Mul")


def _has_number(node: ir.Node) -> bool:
    return node.op_type in _OF_NUMBERS and len(activations(node)) == 1


def _is_at_an_end(node: ir.Node, target: Target) -> bool:
    """Return whether `node`, with a constant, only brings the picture to the codes that the network reads, or back from them."""
    value = activations(node)[0]
    while (producer := value.producer()) is not None and (_has_number(producer) or is_moved(value, target)):
        value = activations(producer)[0]
    return value.is_graph_input() or _becomes_output(node.outputs[0], target)


def _goes_into_addition(node: ir.Node, target: Target) -> bool:
    """Return whether all that reads what `node` writes is an addition that the target fuses into it."""
    readers = [use.node for use in node.outputs[0].uses()]
    return len(readers) == 1 and part_of(readers[0], target) is Part.INSIDE and fused_branch(readers[0]) is node.outputs[0]


def _after_activation(value: ir.Value, target: Target) -> ir.Value:
    """Return `value`, or what the bias and the activation make of it that are its only readers and computed inside its operator."""
    for part in (Part.BIAS, Part.FUSED):
        readers = list(value.uses())
        if len(readers) == 1 and not value.is_graph_output() and part_of(readers[0].node, target) is part:
            value = readers[0].node.outputs[0]
    return value


def _name(node: ir.Node) -> str:
    assert node.name, "export names every node"
    return node.name


def _value_name(value: ir.Value) -> str:
    assert value.name, "export names every tensor"
    return value.name
