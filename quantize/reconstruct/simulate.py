"""Simulate a placed int8 graph as a differentiable torch module: a backend's arithmetic, with rounding passed straight through.

    q(x) = s · (clip(round(x / s) + z, q_min, q_max) - z),   ∂ round(x) / ∂x = 1

(Bengio et al. 2013, arXiv 1308.3432.) A weight is held in steps of its own scale, u = w / s, and rounded on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx_ir as ir
import torch

from quantize.graph.layers import along, bias_gain, output_axis
from quantize.graph.operators import computed_inputs
from quantize.graph.qdq import QuantizationParameters, RoundedWeight
from quantize.reconstruct.operators import OPERATORS
from quantize.reconstruct.operators.resize import is_linear
from runtime.errors import UserError

_OWN_DOMAIN = ""


def check_simulated(graph: ir.Graph) -> None:
    """Raise UserError where `graph` has an operator that is not simulated."""
    for node in _strange(graph):
        raise UserError(
            f"distillation does not support {node.op_type} (node {node.name})",
            hint="--effort balanced, or --without distil",
        )


def _strange(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        if node.domain != _OWN_DOMAIN or node.op_type not in OPERATORS or (node.op_type == "Resize" and not is_linear(node)):
            yield node


class SimulatedNetwork(torch.nn.Module):
    """`graph` with quantizers on the tensors that `parameters` names, and `rounded` layers; (N, C, H, W) in and out.

    `float_readers`, operators by name, read no tensor rounded; weights are codes up to ±`largest_weight`. The quantizer of the
    graph's output is left out: a picture is rounded once, whatever came before.

    Attributes:
        weights, biases: of each rounded layer, by `key` of its name; weights in steps of its scale.
    """

    def __init__(
        self,
        graph: ir.Graph,
        parameters: Mapping[str, QuantizationParameters],
        rounded: Mapping[str, RoundedWeight],
        *,
        float_readers: Collection[str] = (),
        largest_weight: int = 127,
    ) -> None:
        """Raise UserError where the graph has an operator that is not simulated."""
        super().__init__()
        check_simulated(graph)
        self._graph, self._stored, self._float_readers = graph, parameters, float_readers
        self._largest = largest_weight
        self.weights, self.biases = torch.nn.ParameterDict(), torch.nn.ParameterDict()
        self._steps: dict[str, torch.Tensor] = {}
        for name, layer in rounded.items():
            self.weights[key(name)] = torch.nn.Parameter(torch.from_numpy(layer.weight.astype(np.float32)))
            self.biases[key(name)] = torch.nn.Parameter(torch.from_numpy(layer.bias.astype(np.float32)))
        for node in graph:
            if node.name in rounded:
                layer = rounded[str(node.name)]
                self._steps[str(node.name)] = torch.from_numpy(along(layer.scale, layer.weight.ndim, output_axis(node)))
        self._constants = {
            str(value.name): _float32(torch.from_numpy(np.array(value.const_value.numpy())))
            for node in graph
            for value in node.inputs
            if value is not None and value.const_value is not None
        }

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        values = {str(self._graph.inputs[0].name): picture}
        left = {value: len(list(value.uses())) for node in self._graph for value in node.outputs}
        for node in self._graph:
            made = OPERATORS[node.op_type](node, self._given(node, values))
            for output, tensor in zip(node.outputs, [made] if isinstance(made, torch.Tensor) else made, strict=False):
                values[str(output.name)] = tensor  # the optional ones that are left out are not made
            for value in node.inputs:
                if value is not None and value in left:
                    left[value] -= 1
                    if not left[value] and not value.is_graph_output():
                        del values[str(value.name)]
        return values[str(self._graph.outputs[0].name)]

    def _read(self, node: ir.Node, name: str, values: torch.Tensor) -> torch.Tensor:
        if name not in self._stored or node.name in self._float_readers:
            return values
        stored = self._stored[name]
        limits = np.iinfo(stored.dtype)
        return torch.fake_quantize_per_tensor_affine(values, stored.scale, stored.zero_point, int(limits.min), int(limits.max))

    def _given(self, node: ir.Node, values: Mapping[str, torch.Tensor]) -> list[torch.Tensor | None]:
        read = {name: self._read(node, name, values[name]) for name in (str(value.name) for value in computed_inputs(node))}
        if node.name in self._steps:
            integers = torch.fake_quantize_per_tensor_affine(self.weights[key(node.name)], 1.0, 0, -self._largest, self._largest)
            bias = [self.biases[key(node.name)]] if bias_gain(node) else []
            return [*read.values(), integers * self._steps[node.name], *bias]
        known = {**self._constants, **read}
        return [None if value is None else known[str(value.name)] for value in node.inputs]


def _float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def key(name: str) -> str:
    """Return the name of a parameter, in which torch allows no dot."""
    return name.replace(".", "/")
