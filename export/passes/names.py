"""Every node and tensor named for the weight it applies, so that names are those of the checkpoint and outlive the exporter's
version.

A node takes the name of its last parameter (`conv17_1.0`), a second user of the same parameter gets `@2`; a node without
parameters is `<operator>_<n>`, counted in topological order. Its output takes the node's name; the graph's input and output
keep theirs.
"""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir


def name_by_weights(model: ir.Model) -> tuple[ir.Model, str]:
    seen: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    for node in model.graph:
        stem = _parameter_stem(node)
        if stem is None:
            operators[node.op_type] += 1
            node.name = f"{node.op_type.lower()}_{operators[node.op_type]}"
        else:
            seen[stem] += 1
            node.name = stem if seen[stem] == 1 else f"{stem}@{seen[stem]}"
        if not node.outputs[0].is_graph_output():
            node.outputs[0].name = node.name
    return model, f"{sum(seen.values())} nodes named for their weights"


def _parameter_stem(node: ir.Node) -> str | None:
    for value in reversed(node.inputs):
        # A parameter's name is a path of modules; torch's legacy exporter calls what it computed by paths with slashes.
        if value is not None and value.is_initializer() and value.name and "." in value.name and "/" not in value.name:
            return value.name.rpartition(".")[0]
    return None
