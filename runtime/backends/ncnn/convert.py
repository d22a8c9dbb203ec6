"""Convert an ONNX graph for ncnn: what a graph says and a size of picture in, the network as ncnn describes it out.

Shapes are followed through the graph for one size: ncnn's layers take numbers where ONNX computes them (Shape, Gather, Mul…).
A graph that nowhere looks at its sizes gives the same network for every size, which is loaded once. An operator that ncnn does not
have, or has otherwise, is refused by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ...bundle.graph_content import Array, GraphContent, Node
from ...errors import BackendError
from . import elementwise, layers, moves, sampling
from .builder import Blob, Builder, Convert, Value
from .constants import compute
from .model import NcnnModel

OPERATORS: dict[str, Convert] = {**layers.OPERATORS, **elementwise.OPERATORS, **moves.OPERATORS, **sampling.OPERATORS}
"""Every ONNX operator that is written for ncnn; those of constants and sizes alone are in constants.py."""


def convert(graph: GraphContent, size: tuple[int, int]) -> NcnnModel:
    """Convert `graph` for pictures of `size`, height and width; the result says whether it holds for others.

    Raises:
        BackendError: ncnn cannot run an operator of it; names the operator and the node.
    """
    channels = graph.input_shape[1] if len(graph.input_shape) == 4 else None
    if channels is None:
        raise BackendError(f"ncnn cannot run a graph of input {graph.input_shape}: expected NCHW", hint="--backend openvino")
    readers = Counter(name for node in graph.nodes for name in node.inputs) + Counter([graph.output])
    build = Builder((1, channels, *size), readers)
    known: dict[str, Value] = {**graph.constants, graph.input: build.input}
    for node in graph.nodes:
        inputs = [known[name] if name else None for name in node.inputs]
        outputs = _apply(build, node, inputs)
        known.update(zip(node.outputs, outputs, strict=False))
    output = known[graph.output]
    if not isinstance(output, Blob) or len(output.shape) != 4:
        raise BackendError("ncnn cannot run a graph whose output is no picture", hint="--backend openvino")
    return build.finish(output)


def _apply(build: Builder, node: Node, inputs: Sequence[Value | None]) -> Sequence[Value]:
    if node.operator == "Shape" and isinstance(inputs[0], Blob):
        build.one_size = True
        start, end = (node.attributes.get(name) for name in ("start", "end"))
        chosen = inputs[0].shape[slice(*(one if isinstance(one, int) else None for one in (start, end)))]
        return [np.array(chosen, np.int64)]
    constants: list[Array | None] = [one for one in inputs if not isinstance(one, Blob)]
    if len(constants) == len(inputs):
        computed = compute(node, constants)
        if computed is None:
            raise build.refuse(node, "computes from constants what sredge does not compute for ncnn")
        return [computed]
    write = OPERATORS.get(node.operator)
    if write is None:
        raise build.refuse(node, "has no layer for it")
    return write(build, node, inputs)
