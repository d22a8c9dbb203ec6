"""Build a plan with TensorRT or with TensorRT for RTX: a graph and shapes in, the plan's bytes out.

The two have one Python API in two modules; the module is an argument here. Both build a strongly typed network, which takes every
type from the graph, so that fp16 is an fp16 graph and int8 one with QuantizeLinear and DequantizeLinear; there is no flag that the
builder could ignore.
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from export.engine.compiled import OTHER_WAY, OnStep
from runtime.backends.engines import EngineInput
from runtime.errors import PipelineError
from runtime.targets import Precision

Result = TypeVar("Result")
_MIB = 1 << 20


class ErrorLog(Protocol):
    """A logger of a library's that keeps its last errors."""

    @property
    def reasons(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Library:
    """The library that builds.

    Attributes:
        name: what it is called in errors, with its version.
        trt: its module.
        logger: the one that `builder` was made with.
    """

    name: str
    trt: Any
    logger: ErrorLog
    builder: Any


@dataclass(frozen=True, kw_only=True)
class TypedGraph:
    """A serialized graph, its precision, and the pictures that the engine is to take."""

    graph: bytes
    precision: Precision
    takes: EngineInput


def set_common(library: Library, config: Any, *, tf32: bool = False, workspace_mib: int | None = None) -> None:  # noqa: ANN401
    """Set what both libraries have: layers are told of in detail, fp32 is not rounded to TF32 unless `tf32` says so."""
    trt = library.trt
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else names alone are told
    if workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib * _MIB)
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)  # it is on by default, and rounds an fp32 graph's products to 10 bits


def build_typed(
    library: Library,
    config: Any,  # noqa: ANN401 # neither module has types
    typed: TypedGraph,
    *,
    on_step: OnStep,
    cancelled: threading.Event,
) -> bytes:
    """Build `typed` as `config` says.

    Raises:
        PipelineError: the parser refuses the graph, or the builder fails.
    """
    trt, logger, builder = library.trt, library.logger, library.builder
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(typed.graph):
        reasons = "; ".join(_refusal(parser.get_error(index)) for index in range(parser.num_errors))
        raise PipelineError(f"{library.name} cannot read the {typed.precision} graph: {reasons}", hint=OTHER_WAY)
    profile = builder.create_optimization_profile()
    source = network.get_input(0)
    profile.set_shape(source.name, *typed.takes.profile_shapes(channels=source.shape[typed.takes.channel_axis]))
    if config.add_optimization_profile(profile) < 0:
        raise PipelineError(f"{library.name} refuses the shapes {typed.takes.profile}: {logger.reasons}")
    monitor = make_monitor(trt, on_step, cancelled)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise PipelineError(f"{library.name} built no {typed.precision} engine: {logger.reasons}")
    return bytes(plan)


def _refusal(error: Any) -> str:  # noqa: ANN401
    """Return which node the parser refuses, and why; of an operator that it has not it says no more than "false"."""
    why = error.desc() if error.desc() != "false" else "it has no such operator"
    return f"{error.node_operator()} ({error.node_name()}): {why}" if error.node_operator() else why


def run_cancellable(function: Callable[[], Result], cancelled: threading.Event, on_step: OnStep) -> Result:
    """Return `function` in a thread of its own. Ctrl-C sets `cancelled` and waits for it to end; a second one does not wait.

    A builder does not return to Python for minutes, and calls back from threads in which an exception cannot be raised.
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


def make_monitor(trt: Any, on_step: OnStep, cancelled: threading.Event) -> Any:  # noqa: ANN401
    """Return a monitor for the builder of `trt`: it passes on how far the outermost phase is, and says no to the next step once
    `cancelled` is set."""
    totals: dict[str, int] = {}

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc] # of the module that is an argument
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                totals[phase_name] = num_steps
                on_step(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in totals and not cancelled.is_set():
                on_step(phase_name, step + 1, totals[phase_name])
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            totals.pop(phase_name, None)

    return Monitor()
