"""Distil end to end: the int8 network learns from the fp32 one, on calibration crops alone.

    min over integer weights and biases   E ‖255 · (f_int8(x) - f_fp32(x))‖²

by Adam through the straight-through estimator (`simulate.py`), from where rounding layer by layer left off. Weights move in
steps of their own scale, so that one learning rate suits all layers. Ranges stay: a few calibration pictures would have them
narrower, and a picture with stronger edges pays for it (LESRCNN x2, a picture of Set14: 0.16 dB lost became 0.30).
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
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
_SAVE_EVERY = 20  # steps


def distil(
    graph: ir.Graph,
    parameters: Mapping[str, QuantizationParameters],
    rounded: Mapping[str, RoundedWeight],
    crops: Sequence[Array],
    *,
    on_step: Callable[[int, int], None],
    progress: Path | None = None,
    steps: int = STEPS,
    float_readers: Collection[str] = (),
) -> dict[str, RoundedWeight]:
    """Better `rounded` weights of the fp32 `graph`, for activations stored as `parameters` say, on `crops`, (1, C, H, W) each.

    `float_readers`, operators by name, read no tensor rounded.
    What it has learned is kept in the file `progress` on the way; called again with that, it goes on from there and gives the same.

    Raises:
        UserError: the graph has an operator that is not simulated.
    """
    pictures = [torch.from_numpy(crop) for crop in crops]
    with torch.no_grad():
        exact = SimulatedNetwork(graph, {}, {})
        wanted = [exact(picture).clamp(0, 1) for picture in pictures]
    network = SimulatedNetwork(graph, parameters, rounded, float_readers=float_readers)
    optimizer = torch.optim.Adam(
        [
            {"params": list(network.weights.parameters()), "rate": _WEIGHT_RATE},
            {"params": list(network.biases.parameters()), "rate": _BIAS_RATE},
        ],
        betas=_BETAS,
    )
    for step in range(_resume(progress, network, optimizer), steps):
        on_step(step, steps)
        index = np.random.default_rng([_SEED, step // len(crops)]).permutation(len(crops))[step % len(crops)]
        error = 255 * (network(pictures[index]).clamp(0, 1) - wanted[index])
        optimizer.zero_grad()
        error.square().mean().backward()
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.step()
        if progress is not None and (step + 1) % _SAVE_EVERY == 0:
            _save(progress, network, optimizer, done=step + 1)
    if progress is not None:
        progress.unlink(missing_ok=True)
    return {name: _rounded(network, name, layer) for name, layer in rounded.items()}


def _rounded(network: SimulatedNetwork, name: str, layer: RoundedWeight) -> RoundedWeight:
    weight = np.clip(np.rint(network.weights[key(name)].detach().numpy()), -127, 127).astype(np.int8)
    return replace(layer, weight=weight, bias=network.biases[key(name)].detach().numpy().astype(np.float64))


def _save(progress: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer, *, done: int) -> None:
    buffer = io.BytesIO()
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "done": done, "torch": str(torch.__version__)}
    torch.save(state, buffer)
    write_whole(progress, buffer.getvalue())


def _resume(progress: Path | None, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Return how many steps were done already; a damaged file, and one of another torch, counts for nothing."""
    if progress is None or not progress.is_file():
        return 0
    with suppress(pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError, AttributeError, TypeError):
        state = torch.load(progress, weights_only=True)
        if state["torch"] != str(torch.__version__):
            return 0
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["done"])
    return 0
