"""Fix a graph to one size of picture: every size that the graph computes becomes a constant."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import onnxscript.optimizer
import onnxsim


def with_sizes(model: onnx.ModelProto, shape: tuple[int, int, int]) -> onnx.ModelProto:
    """Return a copy that takes pictures of this (N, H, W), and says no other size."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    del sized.graph.value_info[:]
    for output in sized.graph.output:
        rank = len(output.type.tensor_type.shape.dim) or 4  # a picture's
        output.type.tensor_type.ClearField("shape")
        for _ in range(rank):
            output.type.tensor_type.shape.dim.add()
    dimensions = sized.graph.input[0].type.tensor_type.shape.dim
    for dimension, size in zip((dimensions[0], dimensions[2], dimensions[3]), shape, strict=True):
        dimension.dim_value = size
    return sized


def fix_sizes(model: onnx.ModelProto, shape: tuple[int, int, int]) -> ir.Model:
    """Return a copy for pictures of this (N, H, W), with what follows from that folded: shapes, paddings, masks, scales."""
    sized = ir.from_proto(with_sizes(model, shape))
    onnxscript.optimizer.fold_constants(sized, onnx_shape_inference=True)
    simplified, _ = onnxsim.simplify(ir.to_proto(sized))
    fixed: ir.Model = ir.from_proto(simplified)
    return fixed
