"""Fingerprint an fp32 graph: a graph in, a sha256 out, which binds a calibration table to operators, names and weights.

Not its opset, its metadata, the order its nodes are stored in, or its input's size, none of which change an activation.
"""

from __future__ import annotations

import onnx_ir as ir

from runtime.bundle import sha256_bytes


def graph_fingerprint(graph: ir.Graph) -> str:
    """sha256, the same for the same network whatever tool version or opset wrote it."""
    nodes = sorted(_describe(node) for node in graph)
    weights = sorted(
        f"{name} {value.const_value.dtype.name} {list(value.const_value.shape)} {sha256_bytes(value.const_value.tobytes())}"
        for name, value in graph.initializers.items()
        if value.const_value is not None and value.uses()
    )
    return sha256_bytes("\n".join([*nodes, *weights]).encode())


def _describe(node: ir.Node) -> str:
    attributes = ",".join(f"{key}={node.attributes[key].value!r}" for key in sorted(node.attributes))
    inputs = ",".join("" if value is None else str(value.name) for value in node.inputs)
    return f"{node.op_type}({inputs}){{{attributes}}}->{','.join(str(output.name) for output in node.outputs)}"
