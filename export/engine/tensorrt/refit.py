"""Put other weights into an engine that was built with `--refit`: seconds, where a build takes minutes.

TensorRT's refitter for ONNX passes over what the engine cannot exchange without a word, so every weight of the graph is looked for
among those that it can before any is.
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/refitting-engines.html
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import tensorrt as trt

from export.engine.tensorrt.structure import weight_names
from runtime.backends.engines import EngineKey
from runtime.backends.tensorrt import create, deserialize, shared_logger
from runtime.errors import BackendError


@dataclass(frozen=True)
class Refit:
    """The refitted plan; or none, and why: an error's traceback would keep the engine from being freed in the GPU's context."""

    plan: bytes | None
    why_not: str = ""


def refit_plan(plan: bytes, graph: bytes, key: EngineKey) -> Refit:
    """Return `plan` with the weights of `graph`, in the current GPU's context; `key` is the one that it will have."""
    logger = shared_logger()
    this = f"TensorRT {trt.__version__}"
    try:
        loaded = deserialize(plan, key)
    except BackendError as error:
        return Refit(None, str(error))
    engine = loaded.engine
    if not engine.refittable:
        return Refit(None, "the engine there is takes no other weights")
    refitter = create(trt.Refitter, engine, logger)
    fixed = sorted(weight_names(onnx.load_model_from_string(graph)) - set(refitter.get_all_weights()))
    if fixed:
        return Refit(None, f"{this} cannot exchange {fixed[0]}" + (f" and {len(fixed) - 1} more" if len(fixed) > 1 else ""))
    parser = trt.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_bytes(graph):
        reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        return Refit(None, f"{this} cannot read the weights: {reasons}")
    missing = refitter.get_missing_weights()
    if missing or not refitter.refit_cuda_engine():
        return Refit(None, f"{this} cannot exchange the weights: {', '.join(missing) or logger.reasons}")
    config = engine.create_serialization_config()
    remain_refittable = trt.SerializationFlag.__members__.get("INCLUDE_REFIT")  # 10.14 brought it
    if remain_refittable is not None:
        config.set_flag(remain_refittable)
    refitted = engine.serialize_with_config(config)
    if refitted is None:
        return Refit(None, f"{this} cannot write the refitted engine: {logger.reasons}")
    assert loaded.runtime is not None  # it outlives the engine
    return Refit(bytes(refitted))
