"""A small network of everything that int8 graphs have, quantized on random pictures for any target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from calibration.measure import measure_activations
from calibration.ranges import DEFAULT_PERCENTILE, Method
from calibration.table import CalibrationSource, CalibrationTable
from quantize.int8 import quantize_int8
from quantize.options import Int8Options
from quantize.prepare import prepare
from quantize.tensor_ranges import observed_tensors
from runtime.targets import TARGETS, Target, find_target
from tests.graphs import Array, Graph

CPU = find_target("cpu")
SYMMETRIC = replace(CPU, name="symmetric", activation_dtype="int8", activation_symmetric=True)
SCHEMES = {target.name: target for target in (*TARGETS, SYMMETRIC)}
LAYERS = ("conv1", "conv3", "conv6")
COLOURS = 3


@dataclass(frozen=True)
class SmallInt8:
    """The fp32 graph with the tensors of the int8 one, that one, and pictures as they take them."""

    reference: onnx.ModelProto
    int8: onnx.ModelProto
    crops: list[Array]
    target: Target


def small_int8(target: Target, *, brightness: float = 0.5, narrowed: Mapping[str, float] | None = None) -> SmallInt8:
    """`small_network` in int8.

    Args:
        brightness: of the output, on the average.
        narrowed: the largest value that was measured, of tensors where that is to be another.
    """
    model, crops, table = small_network(brightness=brightness)
    cut = {name: table.tensors[name].model_copy(update={"maximum": largest}) for name, largest in (narrowed or {}).items()}
    table = table.model_copy(update={"tensors": {**table.tensors, **cut}})
    options = Int8Options(target=target, method=Method.MINMAX)
    int8 = quantize_int8(model, table, options).model
    return SmallInt8(ir.to_proto(prepare(model, table, options).model), int8, crops, target)


@cache
def small_network(*, brightness: float = 0.5) -> tuple[onnx.ModelProto, list[Array], CalibrationTable]:
    """A mean taken off, a residual block, an upsampling convolution; random pictures; what was measured on them. Read only."""
    graph = Graph(0, channels=COLOURS)
    first = graph.add("Relu", graph.conv(graph.conv("input", COLOURS, 1), 8, 3))
    total = graph.add("Relu", graph.add("Add", first, graph.conv(first, 8, 3)))
    model = graph.proto(graph.shuffle(graph.conv(total, 12, 3)))
    weights = {weight.name: weight for weight in model.graph.initializer}
    for name in [node.input[1] for node in model.graph.node if node.op_type == "Conv"]:
        array = onnx.numpy_helper.to_array(weights[name])
        weights[name].CopyFrom(onnx.numpy_helper.from_array(array / np.float32(np.sqrt(array[0].size)), name))
    name = model.graph.node[-2].input[2]
    weights[name].CopyFrom(onnx.numpy_helper.from_array(np.full(12, brightness, np.float32), name))
    rng = np.random.default_rng(1)
    crops = [rng.integers(0, 256, (1, COLOURS, *size)).astype(np.float32) / np.float32(255) for size in ((16, 24), (20, 16))]
    return model, crops, measured_on(model, crops)


def measured_on(model: onnx.ModelProto, crops: Sequence[Array]) -> CalibrationTable:
    """A table of `model`, of crops that are nobody's pictures."""
    graph_model = ir.from_proto(model)
    return measure_activations(
        graph_model,
        iter(crops),
        tensors=observed_tensors(graph_model.graph),
        source=CalibrationSource(dataset="random", seed=1, crops=len(crops), crop_size=(16, 16), images=()),
        percentile=DEFAULT_PERCENTILE,
    )


def values_as_written(model: onnx.ModelProto, crops: list[Array], *names: str) -> list[dict[str, Array]]:
    """The output, as "", and those tensors, crop by crop, of the graph as it is written: ONNX Runtime with its optimiser off."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # errors only: a constant that nothing reads is none
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [dict(zip(("", *names), session.run(None, {"input": crop}), strict=True)) for crop in crops]


def output_error(fp32: onnx.ModelProto, int8: onnx.ModelProto, crops: list[Array]) -> float:
    """Mean square of the difference of two graphs' outputs as they are written, of what a picture can hold."""
    exact, made = (np.concatenate([values[""].ravel() for values in values_as_written(graph, crops)]) for graph in (fp32, int8))
    return float(np.square(exact.clip(0, 1) - made.clip(0, 1)).mean())
