"""fp32 graph + calibration table -> int8 graph for a target.

What makes rounding cost less comes in steps, from cheap to strong, and each can be left out: the ends of the graph lie on the pixel
grid; biases are corrected; layers are rounded one after another; the whole network is distilled. A table may have been measured on
an equalized graph; the graph is then equalized so first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.calibrate import OnStep, ignore_step
from calibration.fingerprint import graph_fingerprint
from calibration.ranges import DEFAULT_PERCENTILE, CalibrationTable, Method, activation_range
from quantize.equalize import equalize
from quantize.half import convert_to_half
from quantize.opset import opset_of, raise_opset
from quantize.pixel_grid import PixelGrid, align_ends, aligns_ends
from quantize.placement import Placement, Role, check_operators, moved_chain, place_quantizers
from quantize.qdq import (
    ActivationRange,
    QuantizationParameters,
    RoundedWeight,
    activation_parameters,
    constant,
    round_nearest,
    write_qdq,
)
from quantize.rounding import round_layers
from quantize.validity import check_graph
from runtime.errors import UnknownNameError, UserError
from runtime.targets import TARGETS, Target

Step = Literal["pixel-grid", "correct-biases", "round-layers", "distil"]
STEPS: tuple[Step, ...] = get_args(Step)
_SEED = 0  # of the windows that layers are fitted on, and of the order in which distillation sees crops
_SOME = 12  # crops


class Effort(Enum):
    """How much is done against the loss: nothing that takes time, layer by layer, or all that is known."""

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"


_LEFT_OUT: Mapping[Effort, frozenset[Step]] = {
    Effort.FAST: frozenset({"round-layers", "distil"}),
    Effort.BALANCED: frozenset({"distil"}),
    Effort.BEST: frozenset(),
}


@dataclass(frozen=True, kw_only=True)
class Int8Options:
    """How a network is quantized.

    Attributes:
        target: what its constraints are.
        method, percentile: how ranges follow from statistics.
        effort: which steps are taken.
        without: steps that are left out of those.
        lifted: layers that are left in float.
    """

    target: Target
    method: Method
    percentile: float = DEFAULT_PERCENTILE
    effort: Effort = Effort.BALANCED
    without: frozenset[Step] = frozenset()
    lifted: frozenset[str] = frozenset()

    @property
    def steps(self) -> frozenset[Step]:
        return frozenset(STEPS) - _LEFT_OUT[self.effort] - self.without


@dataclass(frozen=True)
class Int8Graph:
    """A quantized network, its layers in int8, and those of the fp32 graph that another layer now does the work of.

    `rounded` is what weights were rounded to before layers were lifted: the same with whatever layers lifted.
    """

    model: onnx.ModelProto
    int8_layers: tuple[str, ...]
    merged_layers: tuple[str, ...]
    rounded: Mapping[str, RoundedWeight]


def some_of(crops: Sequence[NDArray[np.float32]]) -> Sequence[NDArray[np.float32]]:
    """Those that layers are rounded on and int8 is compared with fp32 on: evenly over the pictures."""
    step = max(1, len(crops) // _SOME)
    return crops[: step * _SOME : step]


def observed_tensors(graph: ir.Graph) -> Collection[str]:
    """The tensors a calibration table must hold for `graph` to be quantized for any target: ranges, and what convolutions read."""
    quantizers = [quantizer for target in TARGETS for quantizer in place_quantizers(graph, target).quantizers.values()]
    return sorted({quantizer.range_of for quantizer in quantizers} | {quantizer.name for quantizer in quantizers})


def known_ranges(graph: ir.Graph, value_range: ActivationRange, target: Target) -> dict[str, ActivationRange]:
    """Ranges that need no measuring, because a picture's values lie in `value_range` whatever pictures were calibrated on.

    They are the input's and the output's, and that of a 1×1 convolution from the input's colours to as many (a mean shift):
    interval arithmetic, Σ max(w·low, w·high) + b and Σ min(w·low, w·high) + b, the widest of its channels. Measured ranges
    would clip a white that the calibration pictures did not happen to have.
    """
    ends = [value for end in graph.outputs for value in moved_chain(end, target)]
    known = {str(value.name): value_range for value in (*graph.inputs, *ends)}
    for node in graph:
        source = node.inputs[0] if node.op_type == "Conv" else None
        if source is None or source.name not in known:
            continue
        weight = constant(node, 1)
        if weight.shape[0] == weight.shape[1] and weight.shape[2:] == (1, 1):
            low, high = known[source.name]
            products = np.stack([weight[:, :, 0, 0] * low, weight[:, :, 0, 0] * high])
            bias = constant(node, 2) if len(node.inputs) > 2 else np.zeros(weight.shape[0], np.float32)
            lowest, highest = products.min(axis=0).sum(axis=1) + bias, products.max(axis=0).sum(axis=1) + bias
            known[str(node.outputs[0].name)] = (float(lowest.min()), float(highest.max()))
    return known


def choose_ranges(
    placement: Placement,
    table: CalibrationTable,
    options: Int8Options,
    *,
    known: Mapping[str, ActivationRange],
) -> Mapping[str, ActivationRange]:
    """A range for each tensor that a quantizer takes its range from.

    What is `known` is taken; else the method asked for, but for global skips, which take min-max where it is one that clips
    whatever the error: what is missing there is missing from the picture.
    """
    ranges = {}
    for quantizer in placement.quantizers.values():
        source = quantizer.range_of
        clips = quantizer.role is Role.SKIP and options.method is not Method.MSE
        ranges[source] = (
            known[source]
            if source in known
            else activation_range(
                table.tensors[source],
                method=Method.MINMAX if clips else options.method,
                symmetric=options.target.activation_symmetric,
                percentile=options.percentile,
            )
        )
    return ranges


def channel_means(table: CalibrationTable, grid: PixelGrid) -> dict[str, NDArray[np.float64]]:
    """(C,) for each tensor measured, and for those that the pixel grid made of them."""
    means = {name: np.asarray(statistics.channel_means) for name, statistics in table.tensors.items() if statistics.channel_means}
    for name, (source, gain, offset, last) in grid.made_of.items():
        if source in means:
            means[name] = np.append(means[source] * gain + offset, last)
    return means


def quantize_int8(
    model: onnx.ModelProto,
    table: CalibrationTable,
    options: Int8Options,
    *,
    value_range: ActivationRange,
    crops: Sequence[NDArray[np.float32]] = (),
    on_step: OnStep = ignore_step,
    rounded: Mapping[str, RoundedWeight] | None = None,
    progress: Path | None = None,
) -> Int8Graph:
    """`model` with quantizers where the target wants them, at the opset it had or the lowest that the target allows.

    Weights are those of `rounded`; else, where there are `crops`, (1, C, H, W) float32 in [0, 1], they are rounded on them and
    distilled, which goes on from the file `progress` if it was cut off before; else each to the nearest.

    Raises:
        UserError: the table belongs to another graph, or lacks a tensor or the percentile asked for; the target lacks an operator;
            distillation lacks torch, or knows not an operator.
        PipelineError: the result is not a valid graph.
    """
    target = options.target
    low, high = target.opset_range
    opset = opset_of(model)
    if opset > high:
        raise UserError(f"target {target.name} takes opset {low} to {high}, this graph has {opset}", hint="export again")
    graph_model = ir.from_proto(raise_opset(model, low))
    if graph_fingerprint(graph_model.graph) != table.graph_fingerprint:
        raise UserError("the calibration table was measured on another graph", hint="calibrate this one: --calib NAME|DIR")
    check_operators(graph_model.graph, target)
    if table.equalization is not None:
        equalize(graph_model.graph, table.equalization)
    known = known_ranges(graph_model.graph, value_range, target)
    grid = align_ends(graph_model, target) if aligns_ends(options.steps, value_range) else PixelGrid()
    known = {**known, **grid.ranges}
    placement = place_quantizers(graph_model.graph, target)
    missing = [q.range_of for q in placement.quantizers.values() if q.range_of not in {**table.tensors, **known}]
    if missing:
        raise UserError(f"the calibration table lacks {missing[0]} and {len(missing) - 1} more", hint="calibrate again")
    ranges = choose_ranges(placement, table, options, known=known)
    parameters = {
        name: activation_parameters(ranges[quantizer.range_of], target) for name, quantizer in placement.quantizers.items()
    }
    given = dict(rounded or {})
    weights = dict(given)
    if not given and crops and "round-layers" in options.steps:
        weights = round_layers(
            graph_model,
            placement,
            parameters,
            some_of(crops),
            target=target,
            rng=np.random.default_rng(_SEED),
            on_step=lambda done, total: on_step("rounding", done, total),
        )
    means = channel_means(table, grid) if "correct-biases" in options.steps else {}
    for layer in graph_model.graph:
        if layer.name in placement.int8_layers and layer.name not in weights:
            read = str(layer.inputs[0].name) if layer.inputs[0] is not None else ""
            weights[layer.name] = round_nearest(layer, target, input_scale=parameters[read].scale, channel_means=means.get(read))
    if not given and crops and "distil" in options.steps:
        weights = _distilled(graph_model.graph, parameters, weights, crops, progress, on_step)
    before_lifting = dict(weights)
    if options.lifted:
        placement = _lift(graph_model.graph, options)
        parameters = {name: parameters[name] for name in placement.quantizers}
        weights = {name: weight for name, weight in weights.items() if name in placement.int8_layers}
    write_qdq(graph_model, parameters=parameters, rounded=weights, target=target)
    int8 = check_graph(ir.to_proto(graph_model), what="int8")
    if target.float_dtype == "float16":
        int8 = convert_to_half(int8, "fp16")
    return Int8Graph(int8, placement.int8_layers, grid.merged_layers, before_lifting)


def _distilled(
    graph: ir.Graph,
    parameters: Mapping[str, QuantizationParameters],
    weights: Mapping[str, RoundedWeight],
    crops: Sequence[NDArray[np.float32]],
    progress: Path | None,
    on_step: OnStep,
) -> dict[str, RoundedWeight]:
    try:
        from quantize.reconstruct.distil import distil  # torch: for this step alone
    except ImportError as error:
        raise UserError(f"distillation needs torch ({error})", hint="pip install 'sredge[export]', or --effort balanced") from error
    return distil(
        graph, parameters, weights, crops, progress=progress, on_step=lambda done, total: on_step("distilling", done, total)
    )


def _lift(graph: ir.Graph, options: Int8Options) -> Placement:
    """Where quantizers are with the lifted layers in float; what was chosen for the others stays."""
    target, known = options.target, place_quantizers(graph, options.target).int8_layers
    if target.everything_int8:
        raise UserError(f"target {target.name} runs everything in int8: no layer can be lifted", hint="choose another target")
    for name in sorted(options.lifted.difference(known)):
        raise UnknownNameError("layer", name, valid=known)
    if not options.lifted.symmetric_difference(known):
        raise UserError("with every layer lifted nothing is left in int8", hint="that is the bundle's fp32 graph: lift fewer")
    return place_quantizers(graph, target, lifted=options.lifted)
