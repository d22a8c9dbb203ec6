"""Choose whether to equalize a network, on pictures that the choice does not learn from: an fp32 graph and crops in, a table out.

Scales that make the channels of some pictures alike may clip what other pictures have in them. So two calibration tables, of the
graph as it is and of the equalized graph, are measured on some of the crops. Each is judged on crops of other pictures: by the error
of the network whose activations are quantized as that table says. Its weights stay as they are, since rounding them layer by layer
makes up for most of what they lose. The table that errs less is then measured on all crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.crops import hold_back
from calibration.steps import OnStep
from calibration.table import CalibrationTable
from export.graph.serialized import serialize
from quantize.graph.placement import place_quantizers
from quantize.graph.qdq import activation_parameters, write_qdq
from quantize.int8 import windows_of
from quantize.options import Int8Options
from quantize.prepare import prepare, with_shuffled
from quantize.tables import FoundTable, ToMeasure, measure_table
from quantize.tensor_ranges import choose_ranges
from runtime.backends import open_backend

_MEASURED_ON_EVERY = 2  # of the crops that are not held back: what decides is far larger than what the others would add
Crops = Sequence[NDArray[np.float32]]


def measure_better(model: onnx.ModelProto, missing: ToMeasure, options: Int8Options, *, on_step: OnStep) -> FoundTable:
    """Measure the table that `missing` describes, of `model` equalized where that errs less on held-back crops.

    With too few crops to hold any back the graph stays as it is.
    """
    found = _measured(model, missing, equalize=_errs_less_equalized(model, missing, options, on_step=on_step), on_step=on_step)
    origin = f"{found.origin}, equalized" if found.table.equalization else found.origin
    return replace(found, table=found.table.model_copy(update={"equalization_chosen": True}), origin=origin)


def _errs_less_equalized(model: onnx.ModelProto, missing: ToMeasure, options: Int8Options, *, on_step: OnStep) -> bool:
    crops = hold_back(missing.crops, missing.source)
    if not crops.held_back or not crops.learned_on:
        return False
    errors = {}
    for equalize in (False, True):
        some = replace(missing, crops=crops.learned_on[::_MEASURED_ON_EVERY])
        table = _measured(model, some, equalize=equalize, on_step=on_step).table
        if equalize and not table.equalization:  # the network has nothing to equalize
            return False
        on_step("judging", int(equalize), 2)
        errors[equalize] = activation_error(model, table, options, crops.held_back)
    return errors[True] < errors[False]


def activation_error(model: onnx.ModelProto, table: CalibrationTable, options: Int8Options, crops: Crops) -> float:
    """Return the mean squared error, over `crops`, of the network with its activations quantized as `table` says.

    `model` is the fp32 graph, (1, C, H, W) float32 in [0, 1] each of the crops.
    """
    prepared = prepare(model, with_shuffled(table), options)
    graph = prepared.model.graph
    placement = place_quantizers(graph, prepared.target, lifted=options.lifted)
    ranges = choose_ranges(placement, with_shuffled(table), options, known=prepared.known)
    parameters = {
        name: activation_parameters(ranges[quantizer.range_of], prepared.target, signed=quantizer.signed)
        for name, quantizer in placement.quantizers.items()
    }
    write_qdq(prepared.model, parameters=parameters, rounded={}, target=prepared.target, float_readers=placement.float_readers)
    windows = windows_of(crops, ir.from_proto(model).graph)
    squares = []
    with (
        open_backend("onnxruntime", serialize(model), precision="fp32", spinning=False) as exact,
        open_backend("onnxruntime", serialize(ir.to_proto(prepared.model)), precision="int8", spinning=False) as quantized,
    ):
        for crop in windows:
            error = exact.run(crop).clip(0, 1) - quantized.run(crop).clip(0, 1)
            squares.append(float(np.square(error, dtype=np.float64).mean()))
    return float(np.mean(squares))


def _measured(model: onnx.ModelProto, missing: ToMeasure, *, equalize: bool, on_step: OnStep) -> FoundTable:
    asked = replace(missing, request=replace(missing.request, equalize=equalize))
    return measure_table(ir.from_proto(model), asked, on_step=on_step)
