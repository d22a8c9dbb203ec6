"""Fix a graph, quantized or not, to one size: what it computes from the size becomes constants, and integers stay integers."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import onnxscript.optimizer

from export.fixed_size import with_sizes

_KEPT = ("QuantizeLinear", "DequantizeLinear")


def fix_quantized(model: onnx.ModelProto, shape: tuple[int, int, int]) -> onnx.ModelProto:
    """Return a copy for pictures of this (N, H, W); in floats, (N, C, H, W)."""
    sized = ir.from_proto(with_sizes(model, shape))
    onnxscript.optimizer.fold_constants(sized, onnx_shape_inference=True, should_fold=_is_folded)
    onnxscript.optimizer.remove_unused_nodes(sized)
    fixed = ir.to_proto(sized)
    _make_initializers(fixed)
    return fixed


def _is_folded(node: ir.Node) -> bool | None:
    """Return False for what restores floats from constant integers; None leaves it to the folding's own rules."""
    return False if node.op_type in _KEPT else None


def _make_initializers(model: onnx.ModelProto) -> None:
    """Constants that the folding left as nodes."""
    for node in [node for node in model.graph.node if node.op_type == "Constant"]:
        (attribute,) = node.attribute
        if attribute.name == "value":
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(attribute.t)
            tensor.name = node.output[0]
            model.graph.node.remove(node)
