"""Build a plan with TensorRT 10 or 11: a graph and a key in, the plan's bytes out.

One path serves both: a strongly typed network takes every type from the graph, so that fp16 is an fp16 graph and int8 one with
QuantizeLinear and DequantizeLinear; there is no flag that the builder could ignore.
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import tensorrt as trt

from export.engine.compiled import OnStep
from runtime.backends.engines import EngineKey, HardwareCompatibility
from runtime.backends.tensorrt import create, shared_logger
from runtime.errors import BackendError, PipelineError

Result = TypeVar("Result")
_LEVELS: dict[HardwareCompatibility, str] = {
    "none": "NONE",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
    "ampere-plus": "AMPERE_PLUS",
}
_MIB = 1 << 20


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
    builder = create(trt.Builder, logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise PipelineError(f"TensorRT {trt.__version__} cannot read the {key.precision} graph: {reasons}", hint="export it again")
    config = builder.create_builder_config()
    _configure(config, key)
    profile = builder.create_optimization_profile()
    source = network.get_input(0)
    channels = source.shape[key.channel_axis]
    sizes = (key.profile.min, key.profile.opt, key.profile.max)
    batches = (1, key.profile.batch, key.profile.batch)
    shapes = (key.input_shape(batch, size, channels=channels) for batch, size in zip(batches, sizes, strict=True))
    profile.set_shape(source.name, *shapes)
    if config.add_optimization_profile(profile) < 0:
        raise PipelineError(f"TensorRT refuses the shapes {key.profile}: {logger.reasons}")
    cache_fitted = _set_timing_cache(config, timing_cache)
    monitor = _Monitor(on_step, cancelled)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise PipelineError(f"TensorRT {trt.__version__} built no {key.precision} engine: {logger.reasons}")
    return BuiltPlan(bytes(plan), bytes(config.get_timing_cache().serialize()), cache_fitted)


def run_cancellable(function: Callable[[], Result], cancelled: threading.Event, on_step: OnStep) -> Result:
    """Return `function` in a thread of its own. Ctrl-C sets `cancelled` and waits for it to end; a second one does not wait.

    TensorRT's builder does not return to Python for minutes, and calls back from threads in which an exception cannot be raised.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()  # Thread.join takes a thread that Ctrl-C interrupted it at for one that has ended

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 # raised again by whoever waits
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=work, daemon=True).start()
    try:
        done.wait()
    except KeyboardInterrupt:
        cancelled.set()
        on_step("stopping at TensorRT's next step", 0, 0)
        done.wait()
        raise
    if errors:
        raise errors[0]
    return results[0]


class _Monitor(trt.IProgressMonitor):  # type: ignore[misc] # tensorrt has no types
    """Passes on how far the outermost phase is, and says no to the next step once `cancelled` is set."""

    def __init__(self, on_step: OnStep, cancelled: threading.Event) -> None:
        super().__init__()
        self._on_step = on_step
        self._cancelled = cancelled
        self._totals: dict[str, int] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        if not parent_phase:
            self._totals[phase_name] = num_steps
            self._on_step(phase_name, 0, num_steps)

    def step_complete(self, phase_name: str, step: int) -> bool:
        if phase_name in self._totals and not self._cancelled.is_set():
            self._on_step(phase_name, step + 1, self._totals[phase_name])
        return not self._cancelled.is_set()

    def phase_finish(self, phase_name: str) -> None:
        self._totals.pop(phase_name, None)


def _configure(config: Any, key: EngineKey) -> None:  # noqa: ANN401
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector tells names alone
    if key.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, key.workspace_mib * _MIB)
    if not key.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)  # it is on by default, and rounds an fp32 graph's products to 10 bits
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
