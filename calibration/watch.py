"""Run a graph on crops and return what chosen tensors hold."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from calibration.pieces import watched_options


def watch_tensors(
    model: ir.Model, crops: Iterator[NDArray[np.float32]], tensors: Collection[str], *, as_written: bool = False
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Yield what every one of `tensors`, inputs of the graph or made by it, holds, crop by crop."""
    session = session_with_outputs(model, tensors, as_written=as_written)
    input_name = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]
    for crop in crops:
        yield {**dict(zip(names, session.run(names, {input_name: crop}), strict=True)), input_name: crop}


def session_with_outputs(model: ir.Model, tensors: Collection[str], *, as_written: bool = False) -> ort.InferenceSession:
    """Return the model with every one of `tensors`, of whatever type, among its outputs.

    `as_written`: node by node, nothing fused.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(ir.to_proto(model))
    del proto.graph.value_info[:]  # shapes that were recorded may not hold for the outputs added
    present = {value.name for value in (*proto.graph.output, *proto.graph.input)}
    for name in sorted(set(tensors) - present):
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    options = watched_options()
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
