"""Compare the network's own output with ONNX Runtime's on one random input: the largest difference goes into the manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from runtime.backends import open_backend
from runtime.bundle import Contract, Parity
from runtime.errors import PipelineError

TOLERANCE = 1e-4  # on [0, 1]: a fortieth of an 8-bit step, and a hundred times float32's own noise here
_SIDES = (37, 53)  # neither square nor even

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """What a graph must give: uniform noise, (N, C, H, W) in [0, 1], and the network's own output for it."""

    array: Array
    expected: Array
    tolerance: float = TOLERANCE

    def difference(self, graph: bytes) -> float:
        """Return the largest absolute difference of the graph's output, to two digits: the rest is the thread order's."""
        with open_backend("onnxruntime", graph, precision="fp32") as backend:
            got = backend.run(self.array)
        if self.expected.shape != got.shape:
            raise PipelineError(f"the ONNX graph gives {got.shape} for {self.array.shape}, the network gives {self.expected.shape}")
        return float(f"{np.abs(self.expected - got).max():.1e}")

    def check(self, graph: bytes) -> Parity:
        """Parity of the finished graph.

        Raises:
            PipelineError: it differs by more than `tolerance` anywhere.
            BackendError: ONNX Runtime cannot open it.
        """
        difference = self.difference(graph)
        if not difference <= self.tolerance:
            raise PipelineError(f"the ONNX graph differs from the network by {difference:.1e}, more than {self.tolerance:.0e}")
        batch, channels, height, width = self.array.shape
        return Parity(shape=(batch, channels, height, width), max_abs_difference=difference, tolerance=self.tolerance)


def make_reference(
    network: Callable[[Array], Array], contract: Contract, *, size: tuple[int, int] = _SIDES, tolerance: float | None = None
) -> Reference:
    """Run `network` on noise of the one shape that a fixed graph takes, else of `size` (H, W).

    `tolerance`, TOLERANCE where it is None, is of pictures, whose values may overshoot by as much as they span; of larger ones,
    as untrained networks give, float32's own noise is as much larger.
    """
    shape = (1, contract.channels, *(contract.static_shape or size))
    array = np.random.default_rng(0).random(shape, np.float32)
    expected = network(array)
    allowed = TOLERANCE if tolerance is None else tolerance
    peak = float(f"{np.abs(expected).max():.1e}")
    return Reference(array, expected, allowed * max(1.0, peak / 2) if np.isfinite(peak) else allowed)


def run_torch(module: nn.Module, array: Array) -> Array:
    """Return `module`'s output for `array`."""
    with torch.no_grad():
        output: Array = module(torch.tensor(array)).numpy()  # a copy: some networks work in place
    return output
