"""Follow a graph from its picture to its result, at one size and along one axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from export.graph.serialized import serialize
from export.reach.call import Call, NotFollowedError
from export.reach.dependence import NOTHING, Dependence, Known, picture
from export.reach.operators import OPERATORS

Shape = tuple[int, int, int, int]
_SIZES = ("Shape", "Size")
_SHARE = 2  # an operator that makes all rows of less than half of them looks at the whole picture


class WholePictureError(Exception):
    """An operator that looks at the whole picture, or nobody knows where; its text is the operator and the node's name."""


def follow(graph: ir.Graph, shape: Shape, axis: int) -> Dependence:
    """Return what the graph's output depends on along that axis (2 or 3) of a picture of `shape` (N, C, H, W).

    Raises:
        WholePictureError: an operator looks at the whole picture, or is not known; or the graph does not take that size.
    """
    found: Dependence | Known | None = None
    for value, dependence in walk(graph, shape, axis):
        if value is graph.outputs[0]:
            found = dependence
    if not isinstance(found, Dependence):
        raise WholePictureError("an output that depends on no pixel")
    return found


def walk(graph: ir.Graph, shape: Shape, axis: int) -> Iterator[tuple[ir.Value, Dependence | Known]]:
    """Yield each tensor in graph order, and what it depends on; as `follow`."""
    values: dict[ir.Value, Dependence | Known] = {graph.inputs[0]: picture(shape, axis)}
    uses = Counter(value for node in graph for value in node.inputs if value is not None)
    for node in graph:
        inputs = [None if value is None else _value(values, value) for value in node.inputs]
        outputs = list(zip(node.outputs, _follow_node(graph, node, inputs, shape[axis]), strict=False))
        yield from outputs
        values.update(outputs)
        uses.subtract(value for value in node.inputs if value is not None)
        for value in node.inputs:
            if value is not None and uses[value] == 0:
                values.pop(value, None)


def _value(values: dict[ir.Value, Dependence | Known], value: ir.Value) -> Dependence | Known | None:
    if value in values:
        return values[value]
    return None if value.const_value is None else value.const_value.numpy()


def _follow_node(
    graph: ir.Graph, node: ir.Node, inputs: list[Dependence | Known | None], length: int
) -> Sequence[Dependence | Known]:
    seen = [value for value in inputs if isinstance(value, Dependence)]
    try:
        if node.op_type in _SIZES and seen:
            return [_sizes(node, seen[0])]
        if not seen:
            return _evaluate(node, inputs, graph.opset_imports.get("", 1))
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            raise NotFollowedError
        found = OPERATORS[node.op_type](Call(node, inputs, graph.opset_imports.get("", 1)))
    except (NotFollowedError, ValueError, IndexError, TypeError, ZeroDivisionError, ArithmeticError, RuntimeError) as error:
        raise WholePictureError(f"{node.op_type} {node.name}") from error
    outputs = found if isinstance(found, list) else [found]
    if any(_covers(output, length) for output in outputs) and max(map(_widest, seen)) * _SHARE <= length:
        raise WholePictureError(f"{node.op_type} {node.name}")
    return outputs


def _sizes(node: ir.Node, source: Dependence) -> Known:
    sizes = np.array(source.shape, np.int64)
    if node.op_type == "Size":
        return np.array(sizes.prod())
    start, end = (node.attributes.get(name) for name in ("start", "end"))
    return sizes[0 if start is None else start.as_int() : None if end is None else end.as_int()]


def _covers(found: Dependence, length: int) -> bool:
    """Return whether each element depends on all rows."""
    return bool(found.first.max() == 0 and found.last.min() == length - 1)


def _widest(source: Dependence) -> int:
    """Rows that an element depends on, at most."""
    rows = np.where(source.first == NOTHING, 1, source.last.astype(np.int64) - source.first + 1)
    return int(rows.max())


def _evaluate(node: ir.Node, inputs: list[Dependence | Known | None], opset: int) -> list[Known]:
    """Return a node that sees no pixels, computed."""
    proto = ir.to_proto(node)
    names = [f"in{index}" if value is not None else "" for index, value in enumerate(inputs)]
    del proto.input[:]
    proto.input.extend(names)
    given = {name: value for name, value in zip(names, inputs, strict=True) if name}
    results = _evaluator(serialize(proto), opset).run(None, given)
    return [np.asarray(result) for result in results]


@lru_cache(maxsize=4096)
def _evaluator(proto: bytes, opset: int) -> ReferenceEvaluator:
    node = onnx.NodeProto.FromString(proto)
    inputs, outputs = ([onnx.ValueInfoProto(name=name) for name in names if name] for names in (node.input, node.output))
    graph = onnx.helper.make_graph([node], "constant", inputs, outputs)
    return ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)]))
