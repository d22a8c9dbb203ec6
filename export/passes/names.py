"""Name every node and tensor for the weight it applies, so that names are the checkpoint's and outlive the exporter's version.

A node takes the name of its last parameter (`conv17_1.0`), a second user of the same parameter gets `@2`; a node without
parameters is `<operator>_<n>`, counted in topological order. Its output takes the node's name, a second one `NAME.1`; the graph's
input and output keep theirs, and nothing else has them.
"""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir


def name_by_weights(model: ir.Model) -> tuple[ir.Model, str]:
    ends = (*model.graph.inputs, *model.graph.outputs)
    taken = {str(value.name) for value in (*ends, *model.graph.initializers.values())}
    seen: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    for node in model.graph:
        stem = _parameter_stem(node)
        name = stem
        while name is None or name in taken:
            if stem is None:
                operators[node.op_type] += 1
                name = f"{node.op_type.lower()}_{operators[node.op_type]}"
            else:
                seen[stem] += 1
                name = f"{stem}@{seen[stem] + 1}"
        taken.add(name)
        node.name = name
        for index, output in enumerate(node.outputs):
            if not output.is_graph_output() and output.name:
                output.name = name if index == 0 else f"{name}.{index}"
    named = sum(_parameter_stem(node) is not None for node in model.graph)
    return model, f"{named} nodes named for their weights"


def _parameter_stem(node: ir.Node) -> str | None:
    for value in reversed(node.inputs):
        # A parameter's name is a path of modules; torch's legacy exporter calls what it computed by paths with slashes.
        if value is not None and value.is_initializer() and value.name and "." in value.name and "/" not in value.name:
            return value.name.rpartition(".")[0]
    return None
