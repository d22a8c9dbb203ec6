"""Write PRelu, LeakyRelu, and a Relu or Clip that stands by itself, in forms that delegates take.

GPU delegates refuse PRELU, and LiteRT's int8 kernel of it has one scale for all slopes. With slopes a in [0, 1]

    prelu(x) = max(x, a·x),    else    prelu(x) = max(x, 0) + a·min(x, 0)

where a·x is a depthwise convolution. Both are exact in int8: rounding keeps order, and one of two summands is 0.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.engine.litert.layout import CHANNELS_LAST
from export.engine.litert.operators.elementwise import DEPTHWISE, depthwise_inputs, is_of_channels, runs_in_int8
from export.engine.litert.reading import clip_of, end_of, parameter, unsupported
from export.engine.litert.tflite import Codes, Tensor
from export.engine.litert.writer import Writer
from export.graph.attributes import attribute


def write_clip(writer: Writer, node: ir.Node) -> None:
    """In whatever codes its input has."""
    value = node.inputs[0]
    assert value is not None
    writer.move(node, writer.clipped(writer.read(value), clip_of(node)), writer.layout(value))


def write_leaky_relu(writer: Writer, node: ir.Node) -> None:
    _write_leaky(writer, node, float(attribute(node, "alpha", 0.01)))


def _write_leaky(writer: Writer, node: ir.Node, alpha: float) -> None:
    value = node.inputs[0]
    assert value is not None
    int8 = runs_in_int8(writer, node, value)
    source = writer.read(value, as_float=not int8)
    writer.put(node, "LEAKY_RELU", [source], layout=writer.layout(value), int8=int8, options={"alpha": alpha})


def write_prelu(writer: Writer, node: ir.Node) -> None:
    found = parameter(node, 1)
    value = node.inputs[0]
    assert value is not None
    if found is None:
        raise unsupported(node, "its slopes are computed, expected constants")
    slopes = found.array if found.scales is None else found.array * found.scales
    if np.all(slopes == slopes.flat[0]):
        _write_leaky(writer, node, float(slopes.flat[0]))
        return
    layout = writer.layout(value)
    if len(layout) != 4 or not is_of_channels(slopes, 1):
        raise unsupported(node, f"its slopes are {slopes.shape}, expected one for each channel of (N, C, H, W)")
    int8 = runs_in_int8(writer, node, value)
    source = writer.read(value, layout=CHANNELS_LAST, as_float=not int8)
    end = end_of(node.outputs[0])
    line = slopes.reshape(-1).astype(np.float32)
    made = _by_maximum(writer, node, source, line, end.codes if int8 else None)
    writer.store(end.value, made if end.clip is None else writer.clipped(made, end.clip), CHANNELS_LAST)


def _by_maximum(writer: Writer, node: ir.Node, source: Tensor, slopes: NDArray[np.float32], codes: Codes | None) -> Tensor:
    name = str(node.name)
    if slopes.min() >= 0 and slopes.max() <= 1:
        sloped = _times(writer, name, source, slopes, codes)
        kept = source if codes is None else writer.recoded(source, codes)
        return writer.emit(name, "MAXIMUM", [kept, sloped], source.shape, codes=codes)
    positive = writer.clipped(source, (0.0, np.inf))
    negative = writer.clipped(source, (-np.inf, 0.0))
    return writer.emit(name, "ADD", [positive, _times(writer, name, negative, slopes, codes)], source.shape, codes=codes)


def _times(writer: Writer, name: str, source: Tensor, slopes: NDArray[np.float32], codes: Codes | None) -> Tensor:
    if codes is None:
        factors = writer.constant(f"{name}.slopes", slopes.reshape(1, 1, 1, -1))
        return writer.emit(f"{name}.sloped", "MUL", [source, factors], source.shape)
    inputs = depthwise_inputs(writer, name, source, slopes.astype(np.float64), np.zeros(len(slopes)))
    return writer.emit(f"{name}.sloped", "DEPTHWISE_CONV_2D", inputs, source.shape, codes=codes, options=DEPTHWISE)
