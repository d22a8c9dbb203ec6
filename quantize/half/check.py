"""Check a half-precision graph as hardware would run it: every tensor rounded, the output compared with fp32's.

ONNX Runtime on a CPU computes float16 operators in float32 and rounds nothing between them, so that it shows neither what leaves
float16's range nor what 11 bits are too few for. Here each tensor in half precision is cast to it and back, in a float32 graph that
is run as it is written.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir

from export.graph.constants import new_constant
from quantize.half.float16_range import convert_constant, first_pictures
from quantize.half.operator_types import HalfPositions
from runtime.backends.onnxruntime import run_as_written
from runtime.errors import BackendError, PipelineError
from runtime.verify.value_check import psnr_db


def check_rounded(model: ir.Model, halves: Mapping[ir.Node, HalfPositions], to: ir.DataType, *, tolerance_db: float) -> None:
    """Run the float32 `model` as it is, and with what `halves`, operators of it, read and write rounded to type `to`.

    Raises:
        PipelineError: the two are less alike than `tolerance_db`; or it does not run.
    """
    exact, rounded = ir.to_proto(model), _rounded(model, halves, to)
    reason = ""
    for picture in first_pictures(model.graph):
        try:
            given, wanted = (run_as_written(graph.SerializeToString(), picture).astype(np.float64) for graph in (rounded, exact))
        except BackendError as error:  # of a size that the graph does not take
            reason = reason or str(error)
            continue
        found = psnr_db(given, wanted)
        if found < tolerance_db:
            raise PipelineError(f"its arithmetic is too coarse: {found:.1f} dB from fp32, expected {tolerance_db:.0f} or more")
        return
    raise PipelineError(f"the graph does not run in float32: {reason}")


def _rounded(model: ir.Model, halves: Mapping[ir.Node, HalfPositions], to: ir.DataType) -> onnx.ModelProto:
    copy = ir.from_proto(ir.to_proto(model))
    graph = copy.graph
    by_name = {str(node.name): positions for node, positions in halves.items()}
    found = [(node, by_name[str(node.name)]) for node in graph if str(node.name) in by_name]
    for value in [node.outputs[index] for node, positions in found for index in positions.outputs]:
        readers = [*value.uses()]
        pair = _cast_and_back(graph, value, to)
        for use in readers:
            use.node.replace_input_with(use.idx, pair)
        for place in [place for place, end in enumerate(graph.outputs) if end is value]:
            graph.outputs[place] = pair
    pairs: dict[ir.Value, ir.Value] = {}
    for node, positions in found:
        for index in positions.inputs:
            read = node.inputs[index]
            assert read is not None
            if read not in pairs:  # of what was rounded already, the same again
                is_constant = read.const_value is not None
                pairs[read] = _rounded_constant(graph, read, to) if is_constant else _cast_and_back(graph, read, to)
            node.replace_input_with(index, pairs[read])
    graph.sort()
    return ir.to_proto(copy)


def _rounded_constant(graph: ir.Graph, value: ir.Value, to: ir.DataType) -> ir.Value:
    assert value.const_value is not None
    array = convert_constant(value.const_value.numpy(), to, saturates=True).astype(np.float32)
    return new_constant(graph, array, name=f"{value.name}/rounded")


def _cast_and_back(graph: ir.Graph, value: ir.Value, to: ir.DataType) -> ir.Value:
    half = ir.node("Cast", [value], {"to": to}, name=f"{value.name}/half")
    back = ir.node("Cast", [half.outputs[0]], {"to": ir.DataType.FLOAT}, name=f"{value.name}/back")
    half.outputs[0].name, back.outputs[0].name = half.name, back.name
    back.outputs[0].type, back.outputs[0].shape = value.type, value.shape
    graph.extend([half, back])
    return back.outputs[0]
