"""Check operators that a target runs on int8 alone, such as PixelShuffle on vacc: as written, and as a backend optimised them.

An operator that moves data has no scale of its own. It reads and writes int8 at one scale where what is moved, however often, comes
from one QuantizeLinear and goes to DequantizeLinears of that scale and zero point.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from quantize.graph.operators import activations, is_moved
from runtime.backends import open_backend
from runtime.errors import PipelineError
from runtime.targets import Precision, Target


@dataclass(frozen=True)
class BackendAccount:
    """What a backend says that the operators for int8 alone read and wrote, by their names in the graph."""

    backend: str
    ran: dict[str, str]

    @property
    def kept(self) -> int:
        """How many read and wrote int8."""
        return sum(types == _KEPT for types in self.ran.values())

    def __str__(self) -> str:
        others = sorted({types for types in self.ran.values() if types != _KEPT})
        return f"{self.kept} of {len(self.ran)} on {self.backend}" + (f" ({', '.join(others)})" if others else "")


_KEPT = "int8 to int8"


def int8_only_nodes(graph: ir.Graph, target: Target) -> list[ir.Node]:
    """Return the operators of `graph` that `target` runs on int8 alone."""
    return [node for node in graph if node.op_type in target.int8_only_ops]


def check_int8_only(model: onnx.ModelProto, target: Target, *, precision: Precision) -> int:
    """Return how many operators of `model`, a graph of `precision`, `target` runs on int8 alone.

    Raises:
        PipelineError: one of them does not read and write int8 at one scale, as the graph is written.
    """
    nodes = int8_only_nodes(ir.from_proto(model).graph, target)
    for node in nodes:
        ends = {_stored_as(end, "QuantizeLinear") for end in _sources(node, target)}
        ends |= {_stored_as(end, "DequantizeLinear") for end in _readers(node, target)}
        if len(ends) != 1 or ends.pop()[0] != target.activation_dtype:
            raise PipelineError(
                f"{node.op_type} {node.name} of the {precision} graph does not read and write {target.activation_dtype} at one "
                f"scale, and target {target.name} runs {node.op_type} on nothing else"
            )
    return len(nodes)


def ask_backend(backend: str, model: bytes, target: Target, *, precision: Precision) -> BackendAccount:
    """Return what `backend`, having optimised `model`, says its operators for int8 alone ran in; it runs the graph once.

    Raises:
        BackendError: it cannot run the graph.
    """
    nodes = int8_only_nodes(ir.from_proto(onnx.load_model_from_string(model)).graph, target)
    with open_backend(backend, model, precision=precision) as opened:
        ran = {layer.name: f"{layer.precision} to {layer.writes}" for layer in opened.precisions()}
    return BackendAccount(backend, {str(node.name): ran.get(str(node.name), "not named") for node in nodes})


def _sources(node: ir.Node, target: Target) -> Iterator[ir.Node | None]:
    """Yield what writes what `node` moves, moves before it left out; None of the graph's input."""
    producer = activations(node)[0].producer()
    if producer is not None and is_moved(producer.outputs[0], target):
        yield from _sources(producer, target)
    else:
        yield producer


def _readers(node: ir.Node, target: Target) -> Iterator[ir.Node | None]:
    """Yield what reads what `node` moved, moves after it left out; None of the graph's output."""
    if node.outputs[0].is_graph_output():
        yield None
    for reader in (use.node for use in node.outputs[0].uses()):
        if is_moved(reader.outputs[0], target):
            yield from _readers(reader, target)
        else:
            yield reader


def _stored_as(node: ir.Node | None, op_type: str) -> tuple[str, float, int]:
    """Type, scale and zero point of a quantizer of that type, with one scale for the whole tensor; of anything else "float"."""
    if node is None or node.op_type != op_type or len(node.inputs) != 3:
        return "float", 0.0, 0
    scale, zero_point = (
        None if value is None or value.const_value is None else value.const_value.numpy() for value in node.inputs[1:]
    )
    if scale is None or zero_point is None or scale.size != 1:
        return "float", 0.0, 0
    return zero_point.dtype.name, float(scale.item()), int(zero_point.item())
