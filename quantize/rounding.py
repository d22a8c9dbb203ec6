"""Rounds weights so that a layer's output changes least, and not each weight to what is nearest.

Layer by layer, from input to output, with X what the layer is given in the quantized network and Y what it makes in the fp32 one,
positions in rows and weights in columns:

    W  = argmin ‖X W - Y‖² + λ ‖W - W₀‖²                     makes up for what rounding did to the layers before
    Q  ← weight by weight: round w_k, and let the weights not yet rounded take on its error,
         W_j -= (w_k - q_k) / L_kk · L_kj,   j > k,   L = chol(H⁻¹),  H = XᵀX + λ I

(Frantar & Alistarh 2022, arXiv 2208.11580; Frantar et al. 2023, arXiv 2210.17323; a convolution is a product with its windows).
What a network sees is smooth and never negative, so that the errors of a window's weights can cancel almost wholly. The bias, which
is not rounded, comes last and takes what is left on the average.

Where a channel's scale ends is tried, and so is leaving W as it was, each weight rounded to the nearest; channel by channel the one
stays that errs least. A layer of so many weights that its sample could be fitted whatever it is of is judged on windows of other
pictures, which are held back: the last one of SRGAN, 9×9 over 64 channels, cost more than if it had not been rounded so at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from quantize.placement import Placement
from quantize.qdq import (
    QuantizationParameters,
    RoundedWeight,
    activations,
    constant,
    fake_quantize,
    has_own_pads,
    round_nearest,
    smallest_scale,
    storable_scale,
)
from quantize.walk import Array, run_node
from runtime.targets import Target

_SAMPLES = 24_000  # windows a layer is fitted on, forty for each of the 577 unknowns of a 3×3 layer of 64 channels
_DAMPING = 3e-3  # λ, of the mean of H's diagonal: as much as noise in the sample deserves
_PLENTY = 20  # windows for each unknown: what is learned from them holds for others to a twentieth
_HELD_BACK_EVERY = 4  # crops, where there are fewer: what was fitted on the others is judged on every fourth
_SHRINKS = (1.0, 0.9, 0.8)  # of the largest weight, tried as the end of a channel's scale

Numbers = NDArray[np.float64]
_Sample = tuple[Numbers, Numbers]
"""Windows (S, I·kH·kW + 1), a one last, and the outputs (S, O) wanted for them."""


def round_layers(
    model: ir.Model,
    placement: Placement,
    parameters: Mapping[str, QuantizationParameters],
    crops: Sequence[Array],
    *,
    target: Target,
    rng: np.random.Generator,
    on_step: Callable[[int, int], None],
    float_readers: Collection[str] = (),
) -> dict[str, RoundedWeight]:
    """Rounds every int8 convolution of `model` that has neither groups, strides nor dilations, on `crops`, (1, C, H, W) each.

    `float_readers`, operators by name, read no tensor rounded.
    """
    exact: dict[str, list[Array]] = {str(model.graph.inputs[0].name): list(crops)}
    rough = dict(exact)
    left = {value: len(list(value.uses())) for node in model.graph for value in (*model.graph.inputs, *node.outputs)}
    rounded: dict[str, RoundedWeight] = {}
    for index, node in enumerate(model.graph):
        on_step(index, len(model.graph))
        values = activations(node)
        names = [str(value.name) for value in values]
        made = run_node(node, [exact[name] for name in names])
        stored = {} if node.name in float_readers else parameters
        given = [[_quantized(name, array, stored) for array in rough[name]] for name in names]
        if node.name in placement.int8_layers and _is_plain(node):
            layer = fit_layer(node, given[0], made[0], rng, target=target, input_scale=parameters[names[0]].scale)
            rounded[str(node.name)] = layer
            rough_made = [_run_rounded(node, layer, given[0])]
        else:
            rough_made = run_node(node, given)
        for output, one, other in zip(node.outputs, made, rough_made, strict=True):
            exact[str(output.name)], rough[str(output.name)] = one, other
        for value in values:
            left[value] -= 1
            if not left[value]:
                del exact[str(value.name)], rough[str(value.name)]
    return rounded


def round_weight(weight: Numbers, hessian: Numbers, scales: Sequence[Numbers]) -> Iterator[Numbers]:
    """(K, O) weights, the last row the bias, and H (K, K) -> for each of `scales` (O,), the same rounded to its steps.

    The last row is not rounded.
    """
    order = np.append(np.argsort(-np.diag(hessian)[:-1], kind="stable"), len(hessian) - 1)
    factor = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    for scale in scales:
        working = weight[order].copy()
        for k in range(len(order) - 1):
            rounded = np.clip(np.rint(working[k] / scale), -127, 127) * scale
            missed = (working[k] - rounded) / factor[k, k]
            working[k + 1 :] -= np.outer(factor[k, k + 1 :], missed)
            working[k] = rounded
        restored = np.empty_like(working)
        restored[order] = working
        yield restored


def fit_layer(
    node: ir.Node, given: Sequence[Array], wanted: Sequence[Array], rng: np.random.Generator, *, target: Target, input_scale: float
) -> RoundedWeight:
    """The convolution `node` rounded so that of `given` pictures, (1, C, H, W), it makes what is `wanted` of it."""
    weight = constant(node, 1).astype(np.float64)
    outputs, kernel = weight.shape[0], weight.shape[2:]
    bias = constant(node, 2).astype(np.float64) if len(node.inputs) > 2 else np.zeros(outputs)
    before = np.concatenate([weight.reshape(outputs, -1).T, bias[np.newaxis]])
    fitted_on, held_back = _sample(given, wanted, kernel, _pads(node), rng)
    best, scale, error = before, np.ones(outputs), np.full(outputs, np.inf)
    nearest = round_nearest(node, target, input_scale=input_scale)
    for steps, tried in _candidates(before, nearest, *fitted_on, target=target, input_scale=input_scale):
        missed = np.square(held_back[0] @ tried - held_back[1]).sum(axis=0)
        better = missed < error
        best, error, scale = np.where(better, tried, best), np.where(better, missed, error), np.where(better, steps, scale)
    integers = np.rint(best[:-1] / scale).T.reshape(weight.shape).astype(np.int8)
    return RoundedWeight(integers, scale.astype(np.float32), best[-1])


def _candidates(
    before: Numbers, nearest: RoundedWeight, windows: Numbers, targets: Numbers, *, target: Target, input_scale: float
) -> Iterator[tuple[Numbers, Numbers]]:
    """Scales (O,) and weights (K, O) rounded to their steps, the last row the bias: `nearest`, then fitted."""
    scale = nearest.scale.astype(np.float64)
    rounded = np.append(nearest.weight.reshape(len(scale), -1).T * scale, before[-1:], axis=0)
    rounded[-1] += (targets - windows @ rounded).mean(axis=0)
    yield scale, rounded
    hessian = windows.T @ windows
    damping = _DAMPING * np.diag(hessian).mean()
    hessian[np.diag_indices_from(hessian)] += damping
    fitted = np.linalg.solve(hessian, windows.T @ targets + damping * before)
    largest = np.maximum(np.abs(fitted[:-1]).max(axis=0) / 127, 2 * smallest_scale(fitted[-1], input_scale))
    scales = [storable_scale(largest * shrink, target).astype(np.float64) for shrink in _SHRINKS]
    yield from zip(scales, round_weight(fitted, hessian, scales), strict=True)


def _sample(
    given: Sequence[Array], wanted: Sequence[Array], kernel: tuple[int, ...], pads: Sequence[int], rng: np.random.Generator
) -> tuple[_Sample, _Sample]:
    """Windows from random places, to fit on and to choose by: the same where there is plenty, else of other crops."""
    samples = []
    for source, target in zip(given, wanted, strict=True):
        height, width = target.shape[2:]
        picked = rng.choice(height * width, size=min(_SAMPLES // len(given), height * width), replace=False)
        rows, columns = np.divmod(picked, width)
        margin = [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])]
        views = sliding_window_view(np.pad(source, margin), kernel, axis=(2, 3))
        windows = views[0, :, rows, columns].reshape(len(picked), -1)
        samples.append((np.append(windows, np.ones((len(picked), 1), np.float32), axis=1), target[0, :, rows, columns]))
    everything = _joined(samples)
    if len(everything[0]) >= _PLENTY * everything[0].shape[1]:
        return everything, everything
    if len(samples) < _HELD_BACK_EVERY:
        samples = [
            (windows[start::_HELD_BACK_EVERY], targets[start::_HELD_BACK_EVERY])
            for windows, targets in samples
            for start in range(_HELD_BACK_EVERY)
        ]
    fitted_on = [sample for index, sample in enumerate(samples) if (index + 1) % _HELD_BACK_EVERY]
    return _joined(fitted_on), _joined(samples[_HELD_BACK_EVERY - 1 :: _HELD_BACK_EVERY])


def _joined(samples: Sequence[tuple[Array, Array]]) -> _Sample:
    windows, targets = zip(*samples, strict=True)
    return np.concatenate(windows, dtype=np.float64), np.concatenate(targets, dtype=np.float64)


def _run_rounded(node: ir.Node, layer: RoundedWeight, given: Sequence[Array]) -> list[Array]:
    weight = (layer.weight * layer.scale.reshape(-1, 1, 1, 1)).astype(np.float32)
    parts = {"weight": weight, "bias": layer.bias.astype(np.float32)}
    constants = [ir.val(f"{node.name}.{part}", const_value=ir.tensor(array)) for part, array in parts.items()]
    like = ir.Node("", "Conv", [node.inputs[0], *constants], list(node.attributes.values()), outputs=[ir.val("made")])
    return run_node(like, [given])[0]


def _quantized(name: str, array: Array, parameters: Mapping[str, QuantizationParameters]) -> Array:
    return fake_quantize(array, parameters[name]) if name in parameters else array


def _is_plain(node: ir.Node) -> bool:
    """Whether there is a window of neighbouring pixels of all channels around or beside every pixel."""
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    ones = all(value == 1 for name in ("strides", "dilations") for value in attributes.get(name, [1]))
    return ones and attributes.get("group", 1) == 1 and has_own_pads(node)


def _pads(node: ir.Node) -> Sequence[int]:
    """Top, left, bottom, right."""
    return node.attributes["pads"].as_ints() if "pads" in node.attributes else (0, 0, 0, 0)
