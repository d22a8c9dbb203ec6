"""Build a plan with TensorRT 10 or 11: a graph and a key in, the plan's bytes out."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import tensorrt as trt

from export.engine.compiled import OnStep
from export.engine.strongly_typed import Library, TypedGraph, build_typed, set_common
from runtime.backends.engines import EngineKey, HardwareCompatibility
from runtime.backends.tensorrt import create, shared_logger
from runtime.errors import BackendError

_LEVELS: dict[HardwareCompatibility, str] = {
    "none": "NONE",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
    "ampere-plus": "AMPERE_PLUS",
}


@dataclass(frozen=True)
class BuiltPlan:
    """A plan, and the timing cache after its build; None where nothing was timed for it."""

    plan: bytes
    timing_cache: bytes | None = None
    cache_fitted: bool = True
    """The timing cache given was of this TensorRT and GPU; else the build began with an empty one."""


def build_plan(graph: bytes, key: EngineKey, *, timing_cache: bytes, on_step: OnStep, cancelled: threading.Event) -> BuiltPlan:
    """Build what `key` says from `graph`, in the current GPU's context; minutes. `timing_cache` may be empty.

    Raises:
        PipelineError: TensorRT's parser refuses the graph, or its builder fails.
        BackendError: this TensorRT has not what the key asks for.
    """
    logger = shared_logger()
    library = Library(name=f"TensorRT {trt.__version__}", trt=trt, logger=logger, builder=create(trt.Builder, logger))
    config = library.builder.create_builder_config()
    set_common(library, config, tf32=key.tf32, workspace_mib=key.workspace_mib)
    _configure(config, key)
    cache_fitted = _set_timing_cache(config, timing_cache)
    typed = TypedGraph(graph=graph, precision=key.precision, takes=key.takes)
    plan = build_typed(library, config, typed, on_step=on_step, cancelled=cancelled)
    return BuiltPlan(plan, bytes(config.get_timing_cache().serialize()), cache_fitted)


def _configure(config: Any, key: EngineKey) -> None:  # noqa: ANN401
    if key.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if key.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    levels = trt.HardwareCompatibilityLevel.__members__
    name = _LEVELS[key.hardware_compatible]
    if name not in levels:
        known = ", ".join(ours for ours, theirs in _LEVELS.items() if theirs in levels)
        raise BackendError(
            f"TensorRT {trt.__version__} has no hardware compatibility {key.hardware_compatible!r}; it has: {known}",
            hint="--hardware-compatible with one of those, or a newer TensorRT",
        )
    config.hardware_compatibility_level = levels[name]


def _set_timing_cache(config: Any, timing_cache: bytes) -> bool:  # noqa: ANN401
    """False where TensorRT does not take it, since it is another version's or GPU's; then the build begins with an empty one."""
    cache = config.create_timing_cache(timing_cache)
    if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
        return True
    config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    return False
