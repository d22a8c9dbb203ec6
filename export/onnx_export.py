"""Export torch to ONNX: a module and an opset in, a graph with a dynamic or fixed shape out.

The exporter always works at its native opset, and the simplified graph is converted to the one asked for: one graph, whatever
the opset.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx_ir as ir
import torch
from onnx import defs, version_converter
from torch import nn
from torch.export import Dim

from export.graph.opset import opset_of
from runtime.errors import PipelineError, UserError

INPUT, OUTPUT = "input", "output"
NATIVE_OPSET = 18  # what torch's exporter implements without converting
# 11 brought DepthToSpace in PixelShuffle's channel order (mode CRD); 26 is the newest that ONNX Runtime 1.31 loads.
OPSET_RANGE = (11, 26)
_TRACE_BATCH, _TRACE_SIDES = 2, (33, 47)  # not square and odd: a shape burnt into the graph shows up in the parity check


def check_opset(opset: int) -> None:
    """Raise UserError outside OPSET_RANGE."""
    low, high = OPSET_RANGE
    if not low <= opset <= high:
        raise UserError(f"opset {opset} is not supported; from {low} to {high} are", hint=f"--opset {NATIVE_OPSET}")


def export_graph(module: nn.Module, *, channels: int, static_shape: tuple[int, int] | None) -> ir.Model:
    """Trace `module` to a graph at NATIVE_OPSET: free batch, height and width, or one picture of `static_shape` (H, W)."""
    shape = (_TRACE_BATCH, channels, *_TRACE_SIDES) if static_shape is None else (1, channels, *static_shape)
    free = {0: Dim("batch"), 2: Dim("height"), 3: Dim("width")} if static_shape is None else None
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            module,
            (torch.zeros(shape),),
            dynamo=True,
            opset_version=NATIVE_OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=None if free is None else (free,),
            verbose=False,
        )
    assert program is not None
    return ir.from_proto(program.model_proto)


def convert_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return `model` at `opset`, checked.

    onnx's converter has no way down where an operator merely gained types (Relu at 14); there the graph is relabelled, which is
    valid where every node satisfies the older operator's schema, as the checker then confirms. Reductions are made to do so.

    Raises:
        PipelineError: the graph cannot be expressed at that opset.
    """
    if opset_of(model) == opset:
        return model
    try:
        converted = version_converter.convert_version(model, opset)
    except RuntimeError:
        converted = onnx.ModelProto()
        converted.CopyFrom(model)
        del converted.opset_import[:]
        converted.opset_import.append(onnx.helper.make_opsetid("", opset))
    _name_reduced_axes(converted.graph, opset)
    try:
        for node in converted.graph.node:
            known = defs.get_schema(node.op_type, opset).attributes
            unknown = [attribute.name for attribute in node.attribute if attribute.name not in known]
            if unknown:
                raise PipelineError(f"{node.op_type} {node.name} needs {unknown[0]}, which opset {opset} does not have")
        onnx.checker.check_model(converted, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, defs.SchemaError) as error:
        raise PipelineError(f"the graph cannot be expressed at opset {opset}: {error}", hint="a higher --opset") from error
    return converted


def _name_reduced_axes(graph: onnx.GraphProto, opset: int) -> None:
    """Make the axes of reductions an attribute where `opset` has them there: before 18, of ReduceSum before 13."""
    constants, moved = {tensor.name: tensor for tensor in graph.initializer}, set[str]()
    for node in graph.node:
        if not node.op_type.startswith("Reduce") or "axes" not in defs.get_schema(node.op_type, opset).attributes:
            continue
        attributes = [attribute for attribute in node.attribute if attribute.name != "noop_with_empty_axes"]
        if len(node.input) == 2 and node.input[1] in constants:
            moved.add(node.input[1])
            axes = onnx.numpy_helper.to_array(constants[node.input.pop()]).tolist()
            attributes.append(onnx.helper.make_attribute("axes", axes))
        del node.attribute[:]
        node.attribute.extend(attributes)
    for name in moved - {name for node in graph.node for name in node.input}:
        graph.initializer.remove(constants[name])


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's notes about packages we do not use (torchvision) off the user's terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
