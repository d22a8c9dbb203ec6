"""fp32 graph -> fp16 graph: weights and arithmetic in half precision, float32 at the graph's input and output."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnxruntime.transformers.float16 import convert_float_to_float16

from quantize.int8 import check_graph


def convert_to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A half-precision copy of `model`; its contract (float32 in, float32 out) stays."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    sorted_model = ir.from_proto(convert_float_to_float16(copy, keep_io_types=True))
    sorted_model.graph.sort()  # ONNX Runtime's converter appends the input's Cast at the end
    converted: onnx.ModelProto = ir.to_proto(sorted_model)
    return check_graph(converted, what="fp16")
