"""Fold constants, drop dead and identity nodes: onnxsim (https://github.com/onnxsim/onnxsim).

Its own notes and the exporter's (metadata, producer) are dropped with them, so that the same network gives the same bytes.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxsim

from runtime.errors import PipelineError


def simplify(model: ir.Model) -> tuple[ir.Model, str]:
    before = len(list(model.graph))
    proto, sound = onnxsim.simplify(ir.to_proto(model))
    if not sound:
        raise PipelineError("onnxsim's own check of the simplified graph failed")
    simplified = ir.from_proto(proto)
    for step in (common.ClearMetadataAndDocStringPass(), common.RemoveUnusedNodesPass(), common.TopologicalSortPass()):
        step(simplified)
    simplified.metadata_props.clear()
    simplified.producer_name = "sredge"
    simplified.producer_version = None
    return simplified, f"{before} -> {len(list(simplified.graph))} nodes"
