"""Which tensors of a graph get a quantizer, for a target.

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

from quantize.qdq import activations, is_moved
from runtime.errors import UserError
from runtime.targets import Target


class Role(Enum):
    """What a tensor is to the network; ranges are chosen by it."""

    INPUT = "input"
    INNER = "inner"
    SKIP = "skip"
    """Carried over more than half of the network's depth: clipping it shows in the picture itself."""
    OUTPUT = "output"


@dataclass(frozen=True)
class Quantizer:
    """A quantizer on tensor `name`, whose range is that of `range_of` (itself, or the tensor it was moved from)."""

    name: str
    range_of: str
    role: Role


@dataclass(frozen=True)
class Placement:
    """Where a graph has quantizers, and who reads what they make.

    Attributes:
        quantizers: by tensor name.
        int8_layers: the operators with multiply-accumulates that run in int8.
        float_readers: operators that read a tensor as it was before its quantizer.
    """

    quantizers: Mapping[str, Quantizer]
    int8_layers: tuple[str, ...]
    float_readers: frozenset[str] = frozenset()


def place_quantizers(graph: ir.Graph, target: Target, *, lifted: Collection[str] = ()) -> Placement:
    """Decides where `target` wants quantizers in `graph`, an fp32 network in topological order, with `lifted` layers in float."""
    roles = tensor_roles(graph, target)
    in_float = lifted_operators(graph, target, lifted)
    touched: dict[ir.Node, list[ir.Value]] = {}
    int8_layers = []
    for node in graph:
        if node.name in in_float:
            continue
        if node.op_type in target.int8_ops and _is_quantizable(node):
            if node.op_type in _WEIGHTED:
                int8_layers.append(_name(node))
            made = _after_activation(node.outputs[0], target)
            keeps_floats = _goes_into_addition(node, target) or may_stay_float(made, target)
            touched[node] = [*activations(node), *([] if keeps_floats else [made])]
        elif node.op_type in target.int8_only_ops:
            touched[node] = [*activations(node), node.outputs[0]]
        elif target.fuses_addition and (fused := _fused_branch(node)) is not None:
            touched[node] = [value for value in activations(node) if value is not fused]
    sources = {moved_chain(value, target)[-1] for values in touched.values() for value in values}
    quantizers: dict[str, Quantizer] = {}
    for node in graph:
        moves = node.op_type in target.moving_ops and moved_chain(node.outputs[0], target)[-1] in sources
        for value in [*activations(node), node.outputs[0]] if moves else touched.get(node, ()):
            name, source = _value_name(value), _value_name(moved_chain(value, target)[-1])
            quantizers.setdefault(name, Quantizer(name, source, roles[source]))
    return Placement(quantizers, tuple(int8_layers), in_float if target.writes_floats else frozenset())


def liftable_additions(graph: ir.Graph, target: Target) -> tuple[str, ...]:
    """Additions inside a layer that can read floats, without multiply-accumulates: those that `lifted` may name beside layers."""
    return tuple(
        _name(node) for node in graph if target.writes_floats and target.fuses_addition and _fused_branch(node) is not None
    )


def lifted_operators(graph: ir.Graph, target: Target, layers: Collection[str]) -> frozenset[str]:
    """`layers`, and the operators without weights that would be in int8 but read what one of those makes."""
    made = {_after_activation(node.outputs[0], target) for node in graph if node.name in layers}
    made |= {node.outputs[0] for node in graph if node.name in layers}
    following = [node for node in graph if node.op_type not in (*_WEIGHTED, *target.moving_ops) and made & {*activations(node)}]
    return frozenset(layers) | {_name(node) for node in following}


def check_operators(graph: ir.Graph, target: Target) -> None:
    """UserError where `target` runs everything in int8 and `graph` has an operator that it has not."""
    known = (*target.int8_ops, *target.moving_ops, *target.fused_activations)
    strange = [node for node in graph if target.everything_int8 and node.op_type not in known]
    if strange:
        raise UserError(
            f"target {target.name} runs everything in int8, and has no {strange[0].op_type} ({strange[0].name}); "
            f"it has: {', '.join(known)}",
            hint="choose another target",
        )


def tensor_roles(graph: ir.Graph, target: Target) -> dict[str, Role]:
    """The role of every activation of `graph`, by name; what is only moved has the role of what it is moved to.

    A global skip is the shallower side of an Add (and that Add's result) where the two sides differ by more than half of the
    network's depth, depth being the largest number of convolutions on a path from the input.
    """
    depth: dict[str, int] = {_value_name(value): 0 for value in graph.inputs}
    adds: list[ir.Node] = []
    for node in graph:
        inputs = activations(node)
        reached = max((depth[_value_name(value)] for value in inputs), default=0) + (node.op_type in _WEIGHTED)
        depth.update({_value_name(output): reached for output in node.outputs})
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
    """`value`, what an operator that only moves data moved it from, and so on back."""
    chain = [value]
    while is_moved(chain[-1], target):
        producer = chain[-1].producer()
        assert producer is not None
        chain.append(activations(producer)[0])
    return chain


def may_stay_float(value: ir.Value, target: Target) -> bool:
    """Whether the layer in int8 that makes `value` may write it as floats: all but what becomes the picture."""
    return target.writes_floats and not _becomes_output(value, target)


_WEIGHTED = ("Conv",)


def _becomes_output(value: ir.Value, target: Target) -> bool:
    """Whether `value` is an output of its graph, or moved, scaled or shifted to become one and nothing else."""
    while not value.is_graph_output():
        readers = [use.node for use in value.uses()]
        if len(readers) != 1 or readers[0].op_type not in (*target.moving_ops, "Add", "Mul") or len(activations(readers[0])) != 1:
            return False
        value = readers[0].outputs[0]
    return True


def _is_quantizable(node: ir.Node) -> bool:
    if node.op_type in _WEIGHTED:
        weight = node.inputs[1]
        return weight is not None and weight.const_value is not None
    return len(activations(node)) == len(node.inputs)


def _goes_into_addition(node: ir.Node, target: Target) -> bool:
    """Whether all that reads what `node` writes is an addition that the target fuses into it."""
    readers = [use.node for use in node.outputs[0].uses()]
    return target.fuses_addition and len(readers) == 1 and _fused_branch(readers[0]) is node.outputs[0]


def _fused_branch(node: ir.Node) -> ir.Value | None:
    """The side of an addition that a convolution writes for it alone; of two, the first."""
    if node.op_type != "Add" or len(activations(node)) != 2:
        return None
    for value in activations(node):
        producer = value.producer()
        if producer is not None and producer.op_type in _WEIGHTED and len(list(value.uses())) == 1 and not value.is_graph_output():
            return value
    return None


def _after_activation(value: ir.Value, target: Target) -> ir.Value:
    """`value`, or the output of the fused activation that is its only reader."""
    readers = list(value.uses())
    if len(readers) == 1 and readers[0].node.op_type in target.fused_activations and not value.is_graph_output():
        return readers[0].node.outputs[0]
    return value


def _name(node: ir.Node) -> str:
    assert node.name, "export names every node"
    return node.name


def _value_name(value: ir.Value) -> str:
    assert value.name, "export names every tensor"
    return value.name
