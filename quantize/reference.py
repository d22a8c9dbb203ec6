"""The fp32 graph that an int8 graph can be held against: of the same tensors and layers, by name, and of the same output."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from quantize.equalize import Scales, equalize
from quantize.pixel_grid import align_ends
from runtime.targets import Target


def reference_graph(model: onnx.ModelProto, *, target: Target, equalization: Scales | None, pixel_grid: bool) -> onnx.ModelProto:
    """`model` after the exact steps that int8 goes through before anything is rounded: equalized, its ends on the pixel grid."""
    graph_model = ir.from_proto(model)
    if equalization is not None:
        equalize(graph_model.graph, equalization)
    if pixel_grid:
        align_ends(graph_model, target)
    return ir.to_proto(graph_model)
