"""Run a graph one operator at a time: what a layer is given and what it makes can be read and changed on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from calibration.pieces import watched_options
from quantize.graph.operators import computed_inputs

Array = NDArray[np.float32]
"""Floats that depend on the picture; tensors of indices and sizes are of other types."""
RunNode = Callable[[Sequence[Array]], list[Array | None]]
"""What a node reads that is no constant, in that order, in; each of its outputs out, None for one that it leaves out."""
_IR_VERSION = 10


def open_node(node: ir.Node, like: Sequence[Array], *, opsets: Mapping[str, int]) -> RunNode:
    """Return a function that runs `node` on arrays of the types of `like`, whatever their size.

    Args:
        opsets: version by domain, of the graph that the node is from.
    """
    proto = ir.to_proto(node)
    names = [str(value.name) for value in computed_inputs(node)]
    constants = {
        str(value.name): onnx.numpy_helper.from_array(value.const_value.numpy(), value.name)
        for value in node.inputs
        if value is not None and value.const_value is not None
    }
    graph = onnx.helper.make_graph(
        [proto],
        "node",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), None)
            for name, array in dict(zip(names, like, strict=True)).items()
        ],
        [onnx.ValueInfoProto(name=name) for name in proto.output if name],
        list(constants.values()),
    )
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = onnx.helper.make_model(graph, ir_version=_IR_VERSION, opset_imports=imports)
    session = ort.InferenceSession(model.SerializeToString(), watched_options(), providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Array]) -> list[Array | None]:
        made = iter(session.run(None, dict(zip(names, inputs, strict=True))))
        return [next(made) if name else None for name in proto.output]

    return run


class Walk:
    """Runs a graph of one input operator by operator, picture after picture; each operator is opened once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._runs: dict[ir.Node, RunNode] = {}

    def __call__(self, picture: Array) -> Iterator[tuple[ir.Node, list[Array], list[Array | None]]]:
        """Yield each operator, what it reads that is no constant, and what it makes."""
        live = {str(self._graph.inputs[0].name): picture}
        left = {str(value.name): len(list(value.uses())) for node in self._graph for value in (*self._graph.inputs, *node.outputs)}
        for node in self._graph:
            names = [str(value.name) for value in computed_inputs(node)]
            given = [live[name] for name in names]
            if node not in self._runs:
                self._runs[node] = open_node(node, given, opsets=self._graph.opset_imports)
            made = self._runs[node](given)
            yield node, given, made
            live |= {str(output.name): one for output, one in zip(node.outputs, made, strict=True) if one is not None}
            del given, made
            for name in names:
                left[name] -= 1
                if not left[name]:
                    del live[name]
