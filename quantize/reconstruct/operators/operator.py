"""What an operator in torch is given, as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
import torch

Tensor = torch.Tensor
Given = Sequence[Tensor | None]
"""What a node reads, input by input, None for one that is left out; floats are float32."""
Operator = Callable[[ir.Node, Given], Tensor | Sequence[Tensor]]
"""A node and what it reads -> its output, or its outputs."""


def present(given: Given, index: int) -> Tensor | None:
    """Return an input, or None where it is left out."""
    return given[index] if index < len(given) else None


def needed(given: Given, index: int = 0) -> Tensor:
    """Return an input that ONNX does not let a node leave out."""
    tensor = given[index]
    assert tensor is not None
    return tensor


def integers(tensor: Tensor) -> list[int]:
    """Return what a tensor of sizes, axes or indices says."""
    return [int(value) for value in tensor.reshape(-1).tolist()]
