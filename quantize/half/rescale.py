"""Multiply the tensors of a graph by powers of two, exactly, so that float16 holds them and the weights between them.

An fp32 graph and each tensor's largest magnitude, which calibration measured, go in; the same function with tensors and weights
within float16's range comes out. For any positively homogeneous f (ReLU, a sum of tensors of one factor, Concat, Resize) and
powers of two s and t

    W₂ f(W₁ x + b₁)  =  (W₂ / t) f(t W₁ / s · (s x) + t b₁)

A power of two changes a float32's exponent and nothing else, so that the graph computes what it did. Tensors joined by a
homogeneous operator share one factor; a convolution, a matrix product and a product with a constant lie between two factors. The
picture, the result, and what any other operator reads or makes keep the factor 1. Each group of tensors that share a factor is
brought to a largest magnitude between 1 and 2: of an activation of 1e6 times a weight of 1e-9, the activation becomes about 1 and
the weight about 1e-3.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

_ALL = tuple(range(1 << 10))
# The inputs that hold values, and not sizes, slopes or positions.
_HOMOGENEOUS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Identity", "Neg", "Abs", "ThresholdedRelu", "Dropout"), (0,)),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"), (0,)),
    **dict.fromkeys(("Slice", "Gather", "Expand", "Tile", "Split", "Resize", "Upsample"), (0,)),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMax", "ReduceMin"), (0,)),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2"), (0,)),
    **dict.fromkeys(("Add", "Sub", "Sum", "Mean", "Max", "Min", "Concat"), _ALL),
    "Pad": (0, 2),
    "Clip": (0, 1, 2),
    "Where": (1, 2),
}
_LINEAR: Mapping[str, int] = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "Mul": 1, "Div": 1}
_LIMIT = 60  # of an exponent: float32 has 126 either way


def rescale(graph: ir.Graph, largest: Mapping[str, float]) -> dict[str, int]:
    """Rescale `graph` in place, its constants initializers; `largest` is each tensor's largest magnitude, by name.

    Returns:
        The exponent of each tensor's factor, by name.
    """
    groups = _Groups(graph)
    exponents: dict[ir.Value, int] = {}
    highest: dict[ir.Value, float] = defaultdict(float)
    values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    for value in values:
        leader = groups.lead(value)
        highest[leader] = max(highest[leader], largest.get(str(value.name), 0.0))
    for value in values:
        top = highest[groups.lead(value)]
        free = groups.lead(value) not in groups.fixed and 0 < top < math.inf
        exponents[value] = int(np.clip(-math.floor(math.log2(top)), -_LIMIT, _LIMIT)) if free else 0
    copies: dict[tuple[ir.Value, int], ir.Value] = {}
    for node in list(graph):
        for index, exponent in _constant_exponents(node, exponents):
            _multiply(graph, node, index, exponent, copies)
    return {str(value.name): exponent for value, exponent in exponents.items()}


class _Groups:
    """Tensors that share a factor, by union; those that keep theirs are `fixed`."""

    def __init__(self, graph: ir.Graph) -> None:
        self._leaders: dict[ir.Value, ir.Value] = {}
        self.fixed: set[ir.Value] = set()
        for value in (*graph.inputs, *graph.outputs):
            self._fix(value)
        for value in (output for node in graph for output in node.outputs):
            if any(use.node.graph is not graph for use in value.uses()):  # in a subgraph
                self._fix(value)
        products = []
        for node in graph:
            ends = [*_activations(node), *node.outputs]
            if node.op_type in _HOMOGENEOUS and _is_homogeneous(node):
                tied = [value for index, value in _tied(node) if value.const_value is None]
                for value in (*tied, *node.outputs):
                    self._join(value, node.outputs[0])
                ends = [value for value in _activations(node) if value not in tied]
                for value in ends:
                    self._fix(value)
            elif _is_linear(node):
                continue
            elif node.op_type in ("Mul", "MatMul") and len(_activations(node)) == 2:
                products.append(node)
            else:
                for value in ends:
                    self._fix(value)
        for node in products:
            self._join_product(node)

    def lead(self, value: ir.Value) -> ir.Value:
        while self._leaders.setdefault(value, value) is not value:
            value = self._leaders[value]
        return value

    def _fix(self, value: ir.Value) -> None:
        self.fixed.add(self.lead(value))

    def _join(self, value: ir.Value, other: ir.Value) -> None:
        one, two = self.lead(value), self.lead(other)
        self._leaders[one] = two
        if one in self.fixed:
            self.fixed.add(two)

    def _join_product(self, node: ir.Node) -> None:
        """Keep the factor of one of two activations, a gate's rather than what the gate weighs; the other shares the product's."""
        left, right = _activations(node)
        gate, weighed = (left, right) if self.lead(left) in self.fixed else (right, left)
        self._fix(gate)
        self._join(weighed, node.outputs[0])


def _constant_exponents(node: ir.Node, exponents: Mapping[ir.Value, int]) -> Iterator[tuple[int, int]]:
    """Yield the constant inputs of `node` that are multiplied, each with its exponent."""
    made = exponents.get(node.outputs[0], 0)
    if node.op_type in _HOMOGENEOUS and _is_homogeneous(node):
        yield from ((index, made) for index, value in _tied(node) if value.const_value is not None)
    elif _is_linear(node):
        (read,) = _activations(node)
        change = made - exponents[read]
        index = next(index for index, value in enumerate(node.inputs[:2]) if value is not None and value.const_value is not None)
        yield index, -change if node.op_type == "Div" else change
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            yield 2, made


def _multiply(graph: ir.Graph, node: ir.Node, index: int, exponent: int, copies: dict[tuple[ir.Value, int], ir.Value]) -> None:
    """Give `node` its constant times 2 to `exponent`; another reader of the same constant may want another."""
    value = node.inputs[index]
    assert value is not None
    assert value.const_value is not None
    if exponent == 0 or value.const_value.dtype != ir.DataType.FLOAT:
        return
    if (value, exponent) not in copies:
        name = f"{value.name}.times_2^{exponent}"
        array = np.ldexp(value.const_value.numpy(), exponent)
        copies[value, exponent] = ir.val(name, const_value=ir.tensor(array.astype(np.float32), name=name))
        graph.register_initializer(copies[value, exponent])
    node.replace_input_with(index, copies[value, exponent])


def _activations(node: ir.Node) -> list[ir.Value]:
    """Return what `node` reads that is no constant, and a float as far as is known."""
    read = [value for value in node.inputs if value is not None and value.const_value is None]
    return [value for value in read if value.dtype in (ir.DataType.FLOAT, None)]


def _tied(node: ir.Node) -> list[tuple[int, ir.Value]]:
    """Return the inputs of a homogeneous operator that share its output's factor."""
    indices = _HOMOGENEOUS[node.op_type]
    return [(index, value) for index, value in enumerate(node.inputs) if value is not None and index in indices]


def _is_homogeneous(node: ir.Node) -> bool:
    """Not where an attribute holds a value: the bounds of an old Clip, the fill of an old Pad, a threshold."""
    return node.domain == "" and not {"min", "max", "value", "alpha"} & set(node.attributes) - _SLOPES.get(node.op_type, set())


_SLOPES = {"LeakyRelu": {"alpha"}}


def _is_linear(node: ir.Node) -> bool:
    """Return one activation and a constant that it is multiplied with, or divided by."""
    if node.op_type not in _LINEAR or node.domain != "" or len(_activations(node)) != 1:
        return False
    constants = [value is not None and value.const_value is not None for value in node.inputs]
    if node.op_type == "Div":
        return constants[:2] == [False, True]
    return constants[:2].count(True) == 1 and all(constants[2:])
