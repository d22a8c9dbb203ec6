"""Rewrite a graph for backends that compute its plain form wrongly or in float: each form exact, each with its case.

A backend is held against the simulation anyway, and refused where it gives something else. Where a form of the same graph is known
that it computes right, that form is written, whether the backend is installed here or not: the same inputs give the same bytes.

shape_of_convolution
    openvino 2026.4 lets Shape read an earlier tensor of the same shape. Where that is a convolution in int8 whose bias comes after,
    the convolution then has two readers, and bias and ReLU are lost (RFDN's ESA blocks, which resize to another tensor's size).
    A 1×1 MaxPool, which changes nothing, between the tensor and Shape ends the search for H and W.
batch_of_shapes
    The same, of N alone, which a MaxPool passes on: openvino reads it where it first knows it, at a convolution whose bias it is to
    add (PLKSR's repeat_interleave, a shuffle written as Reshape, Transpose, Reshape to computed sizes). The larger of N and N is a
    number that it does not know from anywhere.
turned_convolution
    The same search, where what a convolution in int8 makes is transposed and others ask for sizes (SwinIR): the tensor that is
    found has the same height and width by another road. A 1×1 MaxPool of the integers, behind the convolution, ends it.
number_of_each_channel
    openvino 2026.4 adds, subtracts or multiplies a constant of the channels before a quantizer by the first channel's for all,
    where it does not know how many there are (SwinIR, which pads by amounts that it computes). A Reshape to (0, C, 0, 0), which
    changes nothing, says how many; a MaxPool there keeps sums right, not products.
joined_signed
    openvino 2026.4 takes the quantizer behind a Concat into its branches and computes signed integers wrongly there: 28 dB from the
    graph simulated. A 1×1 MaxPool between the two keeps it behind.
padded_average
    openvino 2026.4 pads an AveragePool of uint8 with code 0, which is not 0 where the zero point is another, and counts it
    (`count_include_pad`). A Pad before it pads with what is 0.
pixels_as_channels, blocks_of_channels, plane_of_luma
    The plain form is right, and slower: see `kernel_layouts.py`. The step `kernel-layouts`.
write_subpixel
    ONNX Runtime has no ConvTranspose in int8, openvino none that reads a zero point (FSRCNN, LapSRN): see `subpixel.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from export.graph.channel_blocks import blocks_of_channels
from export.graph.constants import new_constant
from quantize.exact.subpixel import write_subpixel
from quantize.graph.kernel_layouts import pixels_as_channels, plane_of_luma
from quantize.graph.operators import is_activation
from runtime.targets import Target


def shape_of_convolution(graph: ir.Graph) -> None:
    """Put a 1×1 MaxPool before each Shape of an activation that the graph makes, (N, C, H, W); of the written int8 graph.

    What is made from sizes alone, a mask or a piece of one, may be empty, which no MaxPool takes.
    """
    inserted: dict[ir.Value, ir.Value] = {}
    for node in [node for node in graph if node.op_type == "Shape"]:
        value = node.inputs[0]
        if (
            value is None
            or value.producer() is None
            or value.dtype != ir.DataType.FLOAT
            or not is_activation(value)
            or value.shape is None
            or len(value.shape) != 4
        ):
            continue
        if value not in inserted:
            pool = ir.node("MaxPool", [value], {"kernel_shape": [1, 1]}, name=f"{value.name}.shaped")
            pool.outputs[0].name, pool.outputs[0].type, pool.outputs[0].shape = pool.name, value.type, value.shape
            graph.append(pool)
            inserted[value] = pool.outputs[0]
        node.replace_input_with(0, inserted[value])
    graph.sort()


def batch_of_shapes(graph: ir.Graph) -> None:
    """Read the first number of each Shape as the larger of it and itself, (rank,) as before; of the written int8 graph."""
    for node in [node for node in graph if node.op_type == "Shape" and "start" not in node.attributes]:
        shape = node.outputs[0]
        rank = shape.shape[0] if shape.shape is not None else None
        if not isinstance(rank, int) or rank < 2:
            continue
        readers = list(shape.uses())
        twice, others = (
            ir.node(
                "Gather",
                [shape, new_constant(graph, np.array(at, np.int64), name=f"{node.name}.{what}.at")],
                name=f"{node.name}.{what}",
            )
            for what, at in (("twice", [0, 0]), ("others", range(1, rank)))
        )
        largest = ir.node("ReduceMax", twice.outputs, {"keepdims": 1}, name=f"{node.name}.batch")
        whole = ir.node("Concat", [*largest.outputs, *others.outputs], {"axis": 0}, name=f"{node.name}.apart")
        for made in (twice, others, largest, whole):
            made.outputs[0].name, made.outputs[0].type = made.name, shape.type
        whole.outputs[0].shape = shape.shape
        for use in readers:
            use.node.replace_input_with(use.idx, whole.outputs[0])
        graph.extend([twice, others, largest, whole])
    graph.sort()


def turned_convolution(graph: ir.Graph) -> None:
    """Put a 1×1 MaxPool behind the quantizer of each convolution that is then transposed, in a graph that asks for sizes."""
    if all(node.op_type != "Shape" or node.inputs[0] in graph.inputs for node in graph):
        return
    for node in [node for node in graph if node.op_type == "QuantizeLinear"]:
        writer = None if node.inputs[0] is None else node.inputs[0].producer()
        readers = [use.node for use in node.outputs[0].uses()]
        readers += [use.node for reader in readers if reader.op_type == "DequantizeLinear" for use in reader.outputs[0].uses()]
        if writer is not None and writer.op_type == "Conv" and any(reader.op_type == "Transpose" for reader in readers):
            _pool(graph, node.outputs[0], ".kept")
    graph.sort()


def number_of_each_channel(graph: ir.Graph) -> None:
    """Put a Reshape to (0, C, 0, 0) behind what a constant of C numbers makes of a tensor of unknown channels, (N, C, H, W).

    Where a constant has more than one number along an axis, what it makes has as many.
    """
    for node in [node for node in graph if node.op_type in ("Add", "Sub", "Mul", "Div")]:
        numbers = [value for value in node.inputs if value is not None and value.const_value is not None]
        read = [value for value in node.inputs if value is not None and value.const_value is None]
        made = node.outputs[0]
        if len(numbers) != 1 or len(read) != 1 or numbers[0].const_value is None or numbers[0].const_value.size < 2:
            continue
        known = read[0].shape is not None and len(read[0].shape) == 4 and isinstance(read[0].shape[1], int)
        if known or made.shape is None or len(made.shape) != 4 or made.is_graph_output():
            continue
        sides = numbers[0].const_value.numpy().shape
        shape = np.array([0] * (4 - len(sides)) + [side if side > 1 else 0 for side in sides], np.int64)
        kept = ir.node("Reshape", [made, new_constant(graph, shape, name=f"{made.name}.sides")], name=f"{made.name}.kept")
        _put_behind(graph, made, kept)
    graph.sort()


def joined_signed(graph: ir.Graph) -> None:
    """Put a 1×1 MaxPool between each Concat, (N, C, H, W), and a quantizer to signed integers."""
    for node in [node for node in graph if node.op_type == "Concat"]:
        made = node.outputs[0]
        readers = [use.node for use in made.uses() if use.node.op_type == "QuantizeLinear"]
        codes = [reader.inputs[2].const_value for reader in readers if len(reader.inputs) > 2 and reader.inputs[2] is not None]
        if (
            made.shape is not None
            and len(made.shape) == 4
            and any(code is not None and code.dtype == ir.DataType.INT8 for code in codes)
        ):
            _pool(graph, made, ".kept")
    graph.sort()


def _pool(graph: ir.Graph, value: ir.Value, suffix: str) -> None:
    """Let all that reads `value`, (N, C, H, W), read it through a 1×1 MaxPool, which changes nothing."""
    _put_behind(graph, value, ir.node("MaxPool", [value], {"kernel_shape": [1, 1]}, name=f"{value.name}{suffix}"))


def _put_behind(graph: ir.Graph, value: ir.Value, node: ir.Node) -> None:
    """Let all else that reads `value` read what `node`, which changes nothing, makes of it."""
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = node.name, value.type, value.shape
    for use in [use for use in value.uses() if use.node is not node]:
        use.node.replace_input_with(use.idx, node.outputs[0])
    graph.append(node)


def padded_average(graph: ir.Graph) -> None:
    """Give each AveragePool that counts its padding a Pad instead; of the fp32 graph, before it has quantizers."""
    for node in [node for node in graph if node.op_type == "AveragePool"]:
        pads = tuple(node.attributes["pads"].as_ints()) if "pads" in node.attributes else ()
        counts = "count_include_pad" in node.attributes and node.attributes["count_include_pad"].as_int() == 1
        rounds_up = "ceil_mode" in node.attributes and node.attributes["ceil_mode"].as_int() == 1
        value = node.inputs[0]
        if not counts or not any(pads) or rounds_up or value is None:
            continue
        half = len(pads) // 2
        amounts = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
        pad = ir.node("Pad", [value, new_constant(graph, amounts, name=f"{node.name}.pads")], name=f"{node.name}.padded")
        pad.outputs[0].name, pad.outputs[0].type = pad.name, value.type
        graph.append(pad)
        node.replace_input_with(0, pad.outputs[0])
        node.attributes["pads"] = ir.AttrInt64s("pads", [0] * len(pads))
    graph.sort()


Form = Callable[[ir.Graph], None]
BEFORE_QUANTIZERS: tuple[tuple[str, Form], ...] = (("openvino", padded_average), ("onnxruntime", write_subpixel))
"""The backend, and the form that it needs of the fp32 graph."""
OF_THE_INT8_GRAPH: tuple[tuple[str, Form], ...] = (
    ("openvino", shape_of_convolution),
    ("openvino", batch_of_shapes),
    ("openvino", turned_convolution),
    ("openvino", number_of_each_channel),
    ("openvino", joined_signed),
)
"""The backend, and the form that it needs of the graph as it is written."""
LAYOUTS: tuple[tuple[str, Form], ...] = (
    ("openvino", pixels_as_channels),
    ("openvino", blocks_of_channels),
    ("openvino", plane_of_luma),
)
"""The backend, and the form of the graph as it is written that it computes sooner: for targets whose own backend it is."""


def take_forms(graph: ir.Graph, target: Target, forms: tuple[tuple[str, Form], ...]) -> None:
    """Bring `graph`, in place, into those of `forms` that a backend of `target` needs."""
    for backend, form in forms:
        if backend in target.backends:
            form(graph)


def take_layouts(graph: ir.Graph, target: Target) -> None:
    """Bring `graph`, in place, into the layouts of the target's own backend; an accelerator that others stand in for has none."""
    for backend, layout in LAYOUTS:
        if backend == target.default_backend:
            layout(graph)


def in_forms(graph: ir.Graph, target: Target) -> ir.Graph:
    """Return a copy of the fp32 `graph` as its operators are before they have quantizers."""
    copy = graph.clone()
    take_forms(copy, target, BEFORE_QUANTIZERS)
    return copy
