"""Write an ONNX graph as a .tflite graph: node by node, each by the function that the table of operators has for it.

Scales, zero points and integers are the graph's own. Codes stay codes from one operator to the next; only what the graph computes
in float has a DEQUANTIZE before and a QUANTIZE behind it.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir

from export.engine.litert.layout import CHANNELS_LAST, arranged
from export.engine.litert.operators import OPERATORS, Write
from export.engine.litert.reading import codes_of, shape_of, unsupported
from export.engine.litert.tflite import Codes, Tensor, TfliteGraph
from export.engine.litert.writer import Writer
from export.engine.sizes import fix_quantized
from export.graph.channel_blocks import blocks_of_channels
from export.graph.constants import constant
from export.graph.pixel_io import has_pixel_io, without_pixel_io

_PIXELS = Codes((1 / 255,), (0,))


def write_tflite(
    model: onnx.ModelProto, *, size: tuple[int, int] | None = None, operators: Mapping[str, Write] = OPERATORS
) -> TfliteGraph:
    """Return `model`, fp32, fp16 or int8, of floats or of raw pixels, as a .tflite graph.

    Floats are then (N, H, W, C) in [0, 1], raw pixels (N, H, W, C) uint8. With a `size`, (H, W), it takes one picture of that; else
    the sides that the graph leaves free stay free. `operators` is the table of what writes each.

    Raises:
        UserError: an operator that a .tflite file cannot hold, by its node's name.
    """
    pixels = has_pixel_io(model)
    inner = without_pixel_io(model) if pixels else model
    if size is not None:
        inner = fix_quantized(inner, (1, *size))
    inner = onnx.shape_inference.infer_shapes(inner, data_prop=True)
    graph = ir.from_proto(inner).graph
    blocks_of_channels(graph)
    writer = Writer()
    (value,), (result,) = graph.inputs, graph.outputs
    shape = arranged(shape_of(value, graph[0]), CHANNELS_LAST)
    source = writer.tensor(str(value.name), "uint8" if pixels else "float32", shape, codes=_PIXELS if pixels else None)
    quantized = pixels and all(use.node.op_type == "QuantizeLinear" for use in value.uses())
    stored = source if quantized or not pixels else writer.emit("pixels.float", "DEQUANTIZE", [source], shape)
    writer.store(value, stored, CHANNELS_LAST)
    for node in graph:
        _write(writer, node, operators)
    made = _output(writer, result, pixels=pixels)
    return writer.graph(source, made)


def _write(writer: Writer, node: ir.Node, operators: Mapping[str, Write]) -> None:
    if not any(value is not None and writer.knows(value) for value in node.inputs):
        return  # of constants, or of sizes alone: who reads it takes it, or says that it cannot
    if all(writer.knows(output) or not output.name for output in node.outputs):
        return  # computed inside the one before
    if node.op_type == "QuantizeLinear":
        value = node.inputs[0]
        assert value is not None
        tensor, layout = writer.stored(value)
        writer.store(node.outputs[0], writer.recoded(tensor, codes_of(node)), layout)
    elif node.op_type == "DequantizeLinear":
        assert node.inputs[0] is not None
        writer.store(node.outputs[0], *writer.stored(node.inputs[0]))
    elif node.op_type in operators and node.domain == "":
        unknown = [value for value in node.inputs if value is not None and not writer.knows(value) and constant(value) is None]
        if any(not _is_restored(value) for value in unknown):
            raise unsupported(node, f"it reads {unknown[0].name}, which is computed from constants or sizes", hint="--window HxW")
        operators[node.op_type](writer, node)
    elif node.op_type not in ("Shape", "Size"):  # their readers say that they cannot
        raise unsupported(node, "LiteRT has no such operator, or not in forms that delegates take")


def _is_restored(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "DequantizeLinear" and constant(node.inputs[0]) is not None


def _output(writer: Writer, result: ir.Value, *, pixels: bool) -> Tensor:
    """Return what the file gives: floats, or the codes of raw pixels."""
    tensor = writer.read(result, layout=CHANNELS_LAST, as_float=not pixels)
    if not pixels:
        return tensor
    return writer.emit("pixels", "QUANTIZE", [tensor], tensor.shape, codes=_PIXELS, dtype="uint8")
