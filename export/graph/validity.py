"""Check that a graph that was written is valid; raise PipelineError where it is not."""

from __future__ import annotations

import onnx

from runtime.errors import PipelineError


def check_graph(model: onnx.ModelProto, *, what: str) -> onnx.ModelProto:
    """Return `model`, or PipelineError where onnx's checker finds it invalid."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise PipelineError(f"the {what} graph is invalid: {error}") from error
    return model
