"""torch output against ONNX Runtime output on one random input, neither square nor even."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from export.onnx_export import INPUT
from runtime.backends import open_backend
from runtime.bundle import Contract, Parity
from runtime.errors import PipelineError

TOLERANCE = 1e-4  # on [0, 1]: a fortieth of an 8-bit step, and a hundred times float32's own noise here
_SIDES = (37, 53)


def check_parity(module: nn.Module, graph: bytes, contract: Contract) -> Parity:
    """Runs both on the same uniform noise.

    Raises:
        PipelineError: they differ by more than TOLERANCE anywhere.
        BackendError: ONNX Runtime cannot open the graph.
    """
    shape = (1, contract.channels, *(contract.static_shape or _SIDES))
    array = np.random.default_rng(0).random(shape, np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(array)).numpy()
    with open_backend("onnxruntime", graph, precision="fp32") as backend:
        got = backend.run(array)
    if expected.shape != got.shape:
        raise PipelineError(f"the ONNX graph gives {got.shape} for {INPUT} {shape}, torch gives {expected.shape}")
    difference = float(f"{np.abs(expected - got).max():.1e}")  # two digits: the rest is the thread order's
    if not difference <= TOLERANCE:
        raise PipelineError(f"the ONNX graph differs from torch by {difference:.1e}, more than {TOLERANCE:.0e}")
    return Parity(shape=shape, max_abs_difference=difference, tolerance=TOLERANCE)
