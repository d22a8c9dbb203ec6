"""Distil end to end: the int8 network learns from the fp32 one, on calibration crops alone.

    min over integer weights and biases   E ‖255 · (f_int8(x) - f_fp32(x))‖²

by Adam through the straight-through estimator (`simulate.py`), from where rounding layer by layer left off. Weights move in
steps of their own scale, so that one learning rate suits all layers. Ranges stay: a few calibration pictures would have them
narrower, and a picture with stronger edges pays for it (LESRCNN x2, a picture of Set14: 0.16 dB lost became 0.30).

What is learned from some pictures may not hold for others. Every so many steps the network is judged on crops that are held back;
the weights that erred least there are returned, and those that learning began with are among them.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from quantize.graph.qdq import QuantizationParameters, RoundedWeight
from quantize.graph.walk import Array
from quantize.reconstruct.simulate import SimulatedNetwork, key
from runtime.files.whole import write_whole

STEPS = 200
_WEIGHT_RATE = 0.03  # steps of a weight
_BIAS_RATE = 1e-5  # of a picture's range; ten times that loses what weights gain where little was lost before
_BETAS = (0.9, 0.99)
_SEED = 0  # of the order in which crops are seen
_SAVE_EVERY = 20  # steps; then too it is judged on what is held back

State = dict[str, torch.Tensor]


def distil(
    graph: ir.Graph,
    parameters: Mapping[str, QuantizationParameters],
    rounded: Mapping[str, RoundedWeight],
    crops: Sequence[Array],
    *,
    on_step: Callable[[int, int], None],
    held_back: Sequence[Array] = (),
    progress: Path | None = None,
    steps: int = STEPS,
    float_readers: Collection[str] = (),
    largest_weight: int = 127,
) -> dict[str, RoundedWeight]:
    """Better `rounded` weights of the fp32 `graph`, for activations stored as `parameters` say, on `crops`, (1, C, H, W) each.

    `float_readers`, operators by name, read no tensor rounded; codes of weights go to ±`largest_weight`. Without crops `held_back`
    the last weights are the result.
    What it has learned is kept in the file `progress` on the way; called again with that, it goes on from there and gives the same.

    Raises:
        UserError: the graph has an operator that is not simulated.
    """
    exact = SimulatedNetwork(graph, {}, {})
    network = SimulatedNetwork(graph, parameters, rounded, float_readers=float_readers, largest_weight=largest_weight)
    seen, judged = _Pictures(exact, crops), _Pictures(exact, held_back)
    optimizer = torch.optim.Adam(
        [
            {"params": list(network.weights.parameters()), "rate": _WEIGHT_RATE},
            {"params": list(network.biases.parameters()), "rate": _BIAS_RATE},
        ],
        betas=_BETAS,
    )
    learned = _resume(progress, network, optimizer) or _Learned(0, _copy(network), judged.error(network))
    for step in range(learned.done, steps):
        on_step(step, steps)
        index = np.random.default_rng([_SEED, step // len(crops)]).permutation(len(crops))[step % len(crops)]
        optimizer.zero_grad()
        torch.autograd.backward(seen.square_error(network, index))
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.step()
        if (step + 1) % _SAVE_EVERY == 0 or step + 1 == steps:
            learned = learned.after(step + 1, network, judged.error(network))
            if progress is not None:
                _save(progress, network, optimizer, learned)
    if progress is not None:
        progress.unlink(missing_ok=True)
    network.load_state_dict(learned.best)
    return {name: _rounded(network, name, layer, largest_weight) for name, layer in rounded.items()}


class _Pictures:
    """Crops, and what the fp32 network makes of them."""

    def __init__(self, exact: SimulatedNetwork, crops: Sequence[Array]) -> None:
        self._given = [torch.from_numpy(crop) for crop in crops]
        with torch.no_grad():
            self._wanted = [exact(picture).clamp(0, 1) for picture in self._given]

    def square_error(self, network: SimulatedNetwork, index: int) -> torch.Tensor:
        """Return the mean squared error on one crop, in 8-bit values squared."""
        difference: torch.Tensor = 255 * (network(self._given[index]).clamp(0, 1) - self._wanted[index])
        return difference.square().mean()

    def error(self, network: SimulatedNetwork) -> float:
        """Return the mean over all crops; 0 of none."""
        with torch.no_grad():
            return float(np.mean([self.square_error(network, index).item() for index in range(len(self._given))] or [0.0]))


@dataclass(frozen=True)
class _Learned:
    """How far learning is: steps done, the best weights, and their error on what is held back."""

    done: int
    best: State
    error: float

    def after(self, done: int, network: SimulatedNetwork, error: float) -> _Learned:
        """Return `done` steps with the better weights; the newest where nothing is held back."""
        return _Learned(done, _copy(network), error) if error <= self.error else replace(self, done=done)


def _copy(network: SimulatedNetwork) -> State:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _rounded(network: SimulatedNetwork, name: str, layer: RoundedWeight, largest: int) -> RoundedWeight:
    weight = np.clip(np.rint(network.weights[key(name)].detach().numpy()), -largest, largest).astype(np.int8)
    return replace(layer, weight=weight, bias=network.biases[key(name)].detach().numpy().astype(np.float64))


def _save(progress: Path, network: SimulatedNetwork, optimizer: torch.optim.Optimizer, learned: _Learned) -> None:
    buffer = io.BytesIO()
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "torch": str(torch.__version__)}
    torch.save({**state, **vars(learned)}, buffer)
    write_whole(progress, buffer.getvalue())


def _resume(progress: Path | None, network: SimulatedNetwork, optimizer: torch.optim.Optimizer) -> _Learned | None:
    """Return how far it was already; a damaged file, and one of another torch, counts for nothing."""
    if progress is None or not progress.is_file():
        return None
    with suppress(pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError, AttributeError, TypeError):
        state = torch.load(progress, weights_only=True)
        if state["torch"] != str(torch.__version__):
            return None
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        return _Learned(int(state["done"]), state["best"], float(state["error"]))
    return None
