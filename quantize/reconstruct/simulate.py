"""A placed int8 graph as a torch module that can be differentiated: what a backend computes, with rounding passed straight through.

    q(x) = s · (clip(round(x / s) + z, q_min, q_max) - z),   ∂ round(x) / ∂x = 1

(Bengio et al. 2013, arXiv 1308.3432.) A weight is held in steps of its own scale, u = w / s, and rounded on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F  # noqa: N812 # the field's name for it

from quantize.qdq import QuantizationParameters, RoundedWeight, activations
from runtime.errors import UserError


class SimulatedNetwork(torch.nn.Module):
    """`graph` with quantizers on the tensors that `parameters` names, and `rounded` layers; (N, C, H, W) in and out.

    `float_readers`, operators by name, read no tensor rounded. The quantizer of the graph's output is left out: a picture is
    rounded once, whatever came before.

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
    ) -> None:
        """Raises UserError where the graph has an operator that is not simulated."""
        super().__init__()
        strange = sorted({node.op_type for node in graph} - _OPERATORS.keys())
        if strange:
            raise UserError(f"distillation knows no {strange[0]}", hint="--effort balanced, or --without distil")
        self._graph, self._stored, self._float_readers = graph, parameters, float_readers
        self.weights, self.biases = torch.nn.ParameterDict(), torch.nn.ParameterDict()
        self._steps: dict[str, torch.Tensor] = {}
        for name, layer in rounded.items():
            self.weights[key(name)] = torch.nn.Parameter(torch.from_numpy(layer.weight.astype(np.float32)))
            self.biases[key(name)] = torch.nn.Parameter(torch.from_numpy(layer.bias.astype(np.float32)))
            self._steps[name] = torch.from_numpy(layer.scale).reshape(-1, 1, 1, 1)
        self._constants = {
            str(value.name): torch.from_numpy(np.array(value.const_value.numpy()))
            for node in graph
            for value in node.inputs
            if value is not None and value.const_value is not None
        }

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        values = {str(self._graph.inputs[0].name): picture}
        left = {value: len(list(value.uses())) for node in self._graph for value in node.outputs}
        for node in self._graph:
            values[str(node.outputs[0].name)] = _OPERATORS[node.op_type](node, self._given(node, values))
            for value in node.inputs:
                if value in left:
                    left[value] -= 1
                    if not left[value]:
                        del values[str(value.name)]
        return values[str(self._graph.outputs[0].name)]

    def _read(self, node: ir.Node, name: str, values: torch.Tensor) -> torch.Tensor:
        if name not in self._stored or node.name in self._float_readers:
            return values
        stored = self._stored[name]
        limits = np.iinfo(stored.dtype)
        return torch.fake_quantize_per_tensor_affine(values, stored.scale, stored.zero_point, int(limits.min), int(limits.max))

    def _given(self, node: ir.Node, values: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        read = {name: self._read(node, name, values[name]) for name in (str(value.name) for value in activations(node))}
        if node.name in self._steps:
            integers = torch.fake_quantize_per_tensor_affine(self.weights[key(node.name)], 1.0, 0, -127, 127)
            return [*read.values(), integers * self._steps[node.name], self.biases[key(node.name)]]
        known = {**self._constants, **read}
        return [known[str(value.name)] for value in node.inputs if value is not None]


def key(name: str) -> str:
    """The name of a parameter, in which torch allows no dot."""
    return name.replace(".", "/")


Given = list[torch.Tensor]


def _convolve(node: ir.Node, given: Given) -> torch.Tensor:
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    return F.conv2d(
        F.pad(given[0], (left, right, top, bottom)),
        given[1],
        given[2] if len(given) > 2 else None,
        stride=tuple(attributes.get("strides", [1, 1])),
        dilation=tuple(attributes.get("dilations", [1, 1])),
        groups=attributes.get("group", 1),
    )


def _depth_to_space(node: ir.Node, given: Given) -> torch.Tensor:
    block = node.attributes["blocksize"].as_int()
    if "mode" in node.attributes and node.attributes["mode"].as_string() == "CRD":
        return F.pixel_shuffle(given[0], block)
    n, c, h, w = given[0].shape
    blocks = given[0].reshape(n, block * block, c // block**2, h, w).transpose(1, 2)
    return F.pixel_shuffle(blocks.reshape(n, c, h, w), block)


def _pad(_: ir.Node, given: Given) -> torch.Tensor:
    """With a constant, as the pixel grid writes it."""
    starts, ends = given[1].reshape(2, -1).tolist()
    widths = [width for pair in reversed(list(zip(starts, ends, strict=True))) for width in pair]
    return F.pad(given[0], widths, value=float(given[2]) if len(given) > 2 else 0.0)


_OPERATORS: Mapping[str, Callable[[ir.Node, Given], torch.Tensor]] = {
    "Conv": _convolve,
    "DepthToSpace": _depth_to_space,
    "Pad": _pad,
    "Relu": lambda _, given: F.relu(given[0]),
    "PRelu": lambda _, given: torch.where(given[0] < 0, given[0] * given[1], given[0]),
    "Clip": lambda _, given: torch.clamp(given[0], min=given[1]),
    "Sigmoid": lambda _, given: torch.sigmoid(given[0]),
    "Tanh": lambda _, given: torch.tanh(given[0]),
    "Add": lambda _, given: given[0] + given[1],
    "Mul": lambda _, given: given[0] * given[1],
}
