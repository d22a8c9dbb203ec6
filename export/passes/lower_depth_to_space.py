"""Write DepthToSpace as Reshape, Transpose, Reshape (`export/graph/depth_to_space.py`), for a runtime that has no DepthToSpace.

The inverse is depth_to_space.py.
"""

from __future__ import annotations

import onnx_ir as ir

from export.graph.depth_to_space import write_out_shuffle


def lower_depth_to_space(model: ir.Model) -> tuple[ir.Model, str]:
    shuffles = [node for node in model.graph if node.op_type == "DepthToSpace"]
    for shuffle in shuffles:
        write_out_shuffle(shuffle)
    return model, f"{len(shuffles)} written out"
