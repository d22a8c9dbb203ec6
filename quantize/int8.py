"""Quantize a network: an fp32 graph and a calibration table in, the int8 graph for a target out.

What makes rounding cost less comes in steps, from cheap to strong, and each can be left out: the ends of the graph lie on the pixel
grid; biases are corrected; layers are rounded one after another; the whole network is distilled. A table may have been measured on
an equalized graph; the graph is then equalized so first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.crops import HeldBackCrops, hold_back
from calibration.fingerprint import graph_fingerprint
from calibration.steps import OnStep, ignore_step
from calibration.table import CalibrationTable
from export.graph.opset import opset_of
from export.graph.validity import check_graph
from quantize.exact.backend_forms import OF_THE_INT8_GRAPH, in_forms, take_forms, take_layouts
from quantize.exact.centre import leave_clips_to_quantizers
from quantize.graph.keep_in_float import LiftedGraph, lift
from quantize.graph.placement import check_operators
from quantize.graph.qdq import QuantizationParameters, RoundedWeight, activation_parameters, write_qdq
from quantize.half.cast import convert_to_half
from quantize.options import Int8Options
from quantize.prepare import Prepared, channel_means, prepare, with_shuffled
from quantize.tensor_ranges import choose_ranges
from quantize.weights.low_rank_correction import CROPS, correct_input, principal_directions, widen_weight
from quantize.weights.rounding import round_layers
from quantize.weights.unfitted import round_unfitted
from runtime.errors import UserError
from runtime.targets import Target

_SEED = 0  # of the windows that layers are fitted on, and of the order in which distillation sees crops
_SOME = 12  # crops
_LARGEST_SIDE = 96  # pixels of a crop that are learned and compared on: memory grows with them, what is learned does not

PICTURES_WANTED = "--calib FOLDER with pictures; or --calib NAME --data FOLDER, FOLDER being where that data set is"
"""The hint where a table came without pictures and a step needs some."""


@dataclass(frozen=True)
class Int8Graph:
    """A quantized network: layers and products of activations in int8, and layers that others now do the work of.

    `corrected_layers`, in int8, read their input's rounding error too; `rounded` is without the columns that are for it.
    """

    model: onnx.ModelProto
    int8_layers: tuple[str, ...]
    merged_layers: tuple[str, ...]
    corrected_layers: tuple[str, ...]
    rounded: Mapping[str, RoundedWeight]


def some_of(crops: Sequence[NDArray[np.float32]], most: int = _SOME) -> Sequence[NDArray[np.float32]]:
    """Evenly over the pictures; as many as layers are rounded on and int8 is compared with fp32 on, unless told otherwise."""
    step = max(1, len(crops) // most)
    return crops[: step * most : step]


def quantize_int8(
    model: onnx.ModelProto,
    table: CalibrationTable,
    options: Int8Options,
    *,
    crops: Sequence[NDArray[np.float32]] = (),
    on_step: OnStep = ignore_step,
    rounded: Mapping[str, RoundedWeight] | None = None,
    progress: Path | None = None,
) -> Int8Graph:
    """Return `model` with quantizers where the target wants them, at the opset it had or the lowest that the target allows.

    Weights are those of `rounded`; else, where there are `crops`, (1, C, H, W) float32 in [0, 1], they are rounded on them and
    distilled for the layers that are not kept in float, which goes on from the file `progress` if it was cut off before; else they
    are rounded without pictures.

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
    given_graph = ir.from_proto(model).graph
    if graph_fingerprint(given_graph) != table.graph_fingerprint:
        raise UserError("the calibration table was measured on another graph", hint="calibrate this one: --calib NAME|DIR")
    check_operators(in_forms(given_graph, target), target)
    crops = windows_of(crops, given_graph)
    table = with_shuffled(table)
    prepared = prepare(model, table, options)
    graph_model, known, target = prepared.model, prepared.known, prepared.target
    lifted = lift(graph_model.graph, options.lifted, target)
    placement = lifted.placement
    missing = [q.range_of for q in placement.quantizers.values() if q.range_of not in {**table.tensors, **known}]
    if missing:
        raise UserError(
            f"the calibration table lacks {missing[0]}, which target {target.name} quantizes, and {len(missing) - 1} more",
            hint="measure one on pictures: --calib with a folder, or a data set that is here",
        )
    ranges = choose_ranges(placement, table, options, known=known)
    parameters = {
        name: activation_parameters(ranges[quantizer.range_of], target, signed=quantizer.signed)
        for name, quantizer in placement.quantizers.items()
    }
    weights = _round_weights(
        prepared,
        lifted,
        parameters,
        table,
        options,
        crops=crops,
        rounded=rounded or {},
        progress=progress,
        on_step=on_step,
    )
    directions = _directions(graph_model, lifted.corrected, parameters, crops, target=target, on_step=on_step)
    written = weights | {name: widen_weight(weights[name], directions[name], target) for name in directions}
    write_qdq(graph_model, parameters=parameters, rounded=written, target=target, float_readers=placement.float_readers)
    for layer in [node for node in graph_model.graph if node.name in directions]:
        correct_input(graph_model.graph, layer, directions[str(layer.name)], target)
    leave_clips_to_quantizers(graph_model.graph)
    take_forms(graph_model.graph, target, OF_THE_INT8_GRAPH)
    if "kernel-layouts" in options.steps:
        take_layouts(graph_model.graph, target)
    int8 = check_graph(ir.to_proto(graph_model), what="int8")
    if target.float_dtype == "float16":
        int8 = convert_to_half(int8, "fp16")
    in_int8 = (*placement.int8_layers, *placement.int8_products)
    return Int8Graph(int8, in_int8, prepared.grid.merged_layers, tuple(directions), weights)


def _round_weights(
    prepared: Prepared,
    lifted: LiftedGraph,
    parameters: Mapping[str, QuantizationParameters],
    table: CalibrationTable,
    options: Int8Options,
    *,
    crops: Sequence[NDArray[np.float32]],
    rounded: Mapping[str, RoundedWeight],
    progress: Path | None,
    on_step: OnStep,
) -> dict[str, RoundedWeight]:
    """Round the weights of every int8 layer: those of `rounded`; else, where there are crops, fitted and distilled on them."""
    target, graph, placement = options.target, prepared.model.graph, lifted.placement
    learns = not rounded and len(crops) > 0
    weights = {name: weight for name, weight in rounded.items() if name in placement.int8_layers}
    if learns and "round-layers" in options.steps:
        weights = round_layers(
            prepared.model,
            placement,
            parameters,
            some_of(crops),
            target=target,
            rng=np.random.default_rng(_SEED),
            on_step=lambda done, total: on_step("rounding", done, total),
            float_readers=lifted.fitted_as_float,
        )
    means = channel_means(table, prepared) if "correct-biases" in options.steps else {}
    for layer in graph:
        if layer.name in placement.int8_layers and layer.name not in weights:
            read = str(layer.inputs[0].name) if layer.inputs[0] is not None else ""
            own_means = means.get(read) if layer.op_type in ("Conv", "ConvTranspose") else None  # others' channels lie last
            weights[layer.name] = round_unfitted(layer, target, input_scale=parameters[read].scale, channel_means=own_means)
    if learns and "distil" in options.steps:
        held = hold_back(crops, table.source)
        largest = target.largest_weight
        weights = _distilled(graph, parameters, weights, held, lifted, progress, on_step, largest_weight=largest)
    return weights


def check_steps(model: onnx.ModelProto, options: Int8Options) -> None:
    """Raise UserError where a step of `options` cannot be taken with this fp32 graph, or lacks torch."""
    if "distil" not in options.steps:
        return
    try:
        from quantize.reconstruct.simulate import check_simulated  # torch: for this step alone
    except ImportError as error:
        raise _without_torch(error) from error
    check_simulated(ir.from_proto(model).graph)


def _without_torch(error: ImportError) -> UserError:
    return UserError(f"distillation needs torch ({error})", hint="pip install 'sredge[export]', or --effort balanced")


def windows_of(crops: Sequence[NDArray[np.float32]], graph: ir.Graph) -> list[NDArray[np.float32]]:
    """Return the middle of each crop, as much as is learned and compared on; all of it where `graph` takes one shape alone."""
    shape = graph.inputs[0].shape
    if shape is not None and all(isinstance(side, int) for side in list(shape)[2:]):
        return list(crops)
    windows = []
    for crop in crops:
        top, left = (max(0, side - _LARGEST_SIDE) // 2 for side in crop.shape[2:])
        windows.append(crop[:, :, top : top + _LARGEST_SIDE, left : left + _LARGEST_SIDE])
    return windows


def _distilled(
    graph: ir.Graph,
    parameters: Mapping[str, QuantizationParameters],
    weights: Mapping[str, RoundedWeight],
    crops: HeldBackCrops,
    lifted: LiftedGraph,
    progress: Path | None,
    on_step: OnStep,
    *,
    largest_weight: int,
) -> dict[str, RoundedWeight]:
    try:
        from quantize.reconstruct.distil import distil  # torch: for this step alone
    except ImportError as error:
        raise _without_torch(error) from error
    return distil(
        graph,
        parameters,
        weights,
        crops.learned_on,
        held_back=crops.held_back,
        progress=progress,
        on_step=lambda done, total: on_step("distilling", done, total),
        float_readers=lifted.fitted_as_float,
        largest_weight=largest_weight,
    )


def _directions(
    model: ir.Model,
    layers: Sequence[str],
    parameters: Mapping[str, QuantizationParameters],
    crops: Sequence[NDArray[np.float32]],
    *,
    target: Target,
    on_step: OnStep,
) -> dict[str, NDArray[np.float64]]:
    """Return, for each corrected layer, the directions among its input's channels along which it reads the rounding error."""
    if layers and not crops:
        raise UserError(
            f"what {layers[0]} depends on most is measured on pictures, and there are none",
            hint=PICTURES_WANTED,
        )
    found: dict[str, NDArray[np.float64]] = {}
    for node in [node for node in model.graph if node.name in layers]:
        on_step("measuring", len(found), len(layers))
        assert node.inputs[0] is not None
        stored = parameters[str(node.inputs[0].name)]
        found[str(node.name)] = principal_directions(model, node, stored, some_of(crops, CROPS), target=target)
    return found
