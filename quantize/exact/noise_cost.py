"""Measure what noise on a tensor costs the picture, channel against channel: a graph and crops in, matrices M out.

Let e be noise added to tensor x, as much as rounding to 8 bits makes, d the change of the output, and d(p) what of it lies where
pixel p of x does. With noise of different channels and pixels independent, and s over a pixel's neighbours,

    A_s = Σ_p d(p) e(p + s)ᵀ / Σ_p |e|²,    M = Σ_s A_sᵀ A_s

gives the cost tr(M Σ) of noise of covariance Σ, as far as the network is linear in it. All tensors are measured at once: noise
elsewhere adds nothing to A but chance, whose share in M is known and taken off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.watch import session_with_outputs
from quantize.graph.walk import Array
from quantize.weights.low_rank_correction import linear_part, pixel_blocks

_SEED = 0
_PROBES = 8  # mixtures v of the output's values at a pixel: E (vᵀ J)ᵀ (vᵀ J) = Jᵀ J
_WIDEST = 200  # pixels of a crop that are kept, those of the largest values
_NOISE = ".noise"
_FLOOR = 1e-3  # of M's mean eigenvalue: what was measured is no surer

Numbers = NDArray[np.float64]


@dataclass
class NoiseCost:
    """What was measured of one tensor of C channels.

    Attributes:
        amplitude: noise is uniform in ±amplitude.
        pixels: (C, S) of each crop, the widest.
        maps: Σ d(p) e(p + s)ᵀ, (shifts, probes, C).
        change: Σ d² over pixels and probes.
        count: pixels.
    """

    amplitude: float
    pixels: list[Array] = field(default_factory=list)
    maps: Numbers = field(default_factory=lambda: np.zeros(()))
    change: float = 0.0
    count: int = 0

    def add(self, values: Array, noise: Array, change: Array) -> None:
        """Take note of a crop: values and noise (C, H, W), and the change of the output, (V, H·W)."""
        self.pixels.append(_widest(values.reshape(len(values), -1), _WIDEST))
        self.maps = self.maps + linear_part(change, noise)
        self.change += float(np.square(change, dtype=np.float64).sum())
        self.count += change.shape[1]

    def widest(self, most: int) -> Numbers:
        """(C, S): at most so many pixels."""
        return _widest(np.concatenate(self.pixels, axis=1), most).astype(np.float64)

    def gram(self) -> Numbers:
        """M, (C, C), positive definite."""
        variance = self.amplitude**2 / 3
        maps = self.maps / (variance * self.count)
        raw = np.einsum("svc,svd->cd", maps, maps)
        chance = len(maps) * self.change / (variance * self.count**2)
        values, vectors = np.linalg.eigh(raw - chance * np.eye(len(raw)))
        gram: Numbers = (vectors * np.maximum(values, _FLOOR * np.trace(raw) / len(raw))) @ vectors.T
        return gram


def measure_noise_cost(model: ir.Model, tensors: Sequence[str], crops: Sequence[Array]) -> dict[str, NoiseCost]:
    """Measure each of `tensors`, (N, C, H, W), with a whole number of the output's pixels for each of its own.

    `model` is fp32; `crops` are (1, C, H, W) each.
    """
    if not tensors:
        return {}
    session = session_with_outputs(_with_noise(model, tensors), tensors)
    picture, output = str(model.graph.inputs[0].name), str(model.graph.outputs[0].name)
    names = [made.name for made in session.get_outputs()]
    silence = {f"{name}{_NOISE}": np.zeros((1, 1, 1, 1), np.float32) for name in tensors}
    rng = np.random.default_rng(_SEED)
    measured: dict[str, NoiseCost] = {}
    for crop in crops:
        exact = dict(zip(names, session.run(names, {picture: crop, **silence}), strict=True))
        noise = {}
        for name in tensors:
            if _factor(exact[output], exact[name]) and np.ptp(exact[name]) > 0:
                amplitude = measured[name].amplitude if name in measured else float(np.ptp(exact[name])) / 510
                noise[name] = rng.uniform(-amplitude, amplitude, exact[name].shape).astype(np.float32)
                measured.setdefault(name, NoiseCost(amplitude))
        fed = {**silence, **{f"{name}{_NOISE}": error for name, error in noise.items()}}
        change = session.run([output], {picture: crop, **fed})[0] - exact[output]
        for name, error in noise.items():
            measured[name].add(exact[name][0], error[0], _mixtures(change[0], _factor(change, error)))
    return measured


def _with_noise(model: ir.Model, tensors: Sequence[str]) -> ir.Model:
    """Return `model` with an input for each of `tensors` that is added to it."""
    noisy = ir.from_proto(ir.to_proto(model))
    graph = noisy.graph
    for value in [value for node in graph for value in node.outputs if value.name in tensors]:
        uses = list(value.uses())
        noise = ir.val(f"{value.name}{_NOISE}", dtype=ir.DataType.FLOAT, shape=[None] * 4)
        graph.inputs.append(noise)
        add = ir.node("Add", [value, noise])
        graph.append(add)
        for use in uses:
            use.node.replace_input_with(use.idx, add.outputs[0])
    graph.sort()
    return noisy


def _factor(output: Array, tensor: Array) -> int:
    """Pixels of the output on a side for each of the tensor's; 0 where that is no whole number."""
    if tensor.ndim != 4 or output.ndim != 4:
        return 0
    factor = output.shape[2] // tensor.shape[2]
    return factor if output.shape[2:] == (factor * tensor.shape[2], factor * tensor.shape[3]) else 0


def _mixtures(change: Array, factor: int) -> Array:
    """(O, H·f, W·f) -> (V, H·W)."""
    blocks = pixel_blocks(change, factor)
    if len(blocks) <= _PROBES:
        return blocks
    signs = np.random.default_rng(_SEED).choice(np.array([-1, 1], np.float32), (_PROBES, len(blocks)))
    return np.asarray(signs / np.float32(_PROBES**0.5) @ blocks, np.float32)


def _widest(pixels: Array, most: int) -> Array:
    """(C, S) -> (C, most): half of them those that lie furthest out in any channel, half those furthest out in all."""
    distance = np.abs(pixels - pixels.mean(axis=1, keepdims=True))
    in_any, in_all = (
        (distance / np.maximum(distance.max(axis=1, keepdims=True), 1e-12)).max(axis=0),
        np.square(distance).sum(axis=0),
    )
    chosen = {*np.argsort(-in_any)[: most // 2].tolist(), *np.argsort(-in_all)[: most - most // 2].tolist()}
    return pixels[:, sorted(chosen)]
