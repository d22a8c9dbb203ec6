"""Build an engine with TensorRT for RTX: a request in, the plan and what each layer runs in out; no GPU is needed.

One plan serves all the capabilities that it is built for; the GPU's own code is made of it at its first run there.
https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/advanced.html
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from export.engine.compiled import Compiled, CompileRequest, OnStep
from export.engine.strongly_typed import Library, TypedGraph, build_typed, run_cancellable, set_common
from export.engine.tensorrt.qdq_rules import check_graph
from export.engine.tensorrt_rtx.builder_log import LoggedLayer, activation_bytes, layer_precisions, parse_layers
from runtime.backends.compiled_engines import EngineLayer, Estimate
from runtime.backends.engines import EngineInput
from runtime.backends.tensorrt_rtx_library import load_tensorrt_rtx, shared_logger
from runtime.errors import BackendError, PipelineError

_MIB = 1 << 20
_UNPROVEN = (
    "no GPU ran this engine: neither its values nor its speed are known",
    "the kernels for a GPU are made at its first run there, from what the builder listed",
)


def version() -> str:
    return str(load_tensorrt_rtx().__version__)


def compile_graph(request: CompileRequest, *, on_step: OnStep) -> Compiled:
    """Build the engine; seconds.

    Raises:
        BackendError: the library is not installed, or has no such compute capability.
        PipelineError: the parser or the builder refuses the graph, or the builder's log cannot be read.
    """
    assert request.profile is not None  # the list of compilers says that engines of this one have sizes
    check_graph(request.graph, what=request.name, target="tensorrt-rtx")
    typed = TypedGraph(graph=request.graph, precision=request.precision, takes=EngineInput(request.io, request.profile))
    cancelled = threading.Event()
    built = run_cancellable(
        lambda: build_plan(typed, request.architectures, on_step=on_step, cancelled=cancelled), cancelled, on_step
    )
    return Compiled(
        plan=built.plan,
        suffix=".plan",
        layers=tuple(
            EngineLayer(name=layer.name, op=layer.op, precision=layer.precision, unit="GPU")
            for layer in layer_precisions(built.layers)
        ),
        estimates=tuple(_counted(built.layers)),
        unproven=_UNPROVEN,
    )


@dataclass(frozen=True)
class BuiltPlan:
    """A plan, and the layers that the builder listed for it."""

    plan: bytes
    layers: tuple[LoggedLayer, ...]


def build_plan(typed: TypedGraph, architectures: tuple[str, ...], *, on_step: OnStep, cancelled: threading.Event) -> BuiltPlan:
    """Build `typed` for compute capabilities "86", "120" and the like."""
    trt, log = load_tensorrt_rtx(), shared_logger()
    log.begin()
    library = Library(name=f"TensorRT for RTX {trt.__version__}", trt=trt, logger=log, builder=trt.Builder(log))
    config = library.builder.create_builder_config()
    set_common(library, config)
    _set_capabilities(trt, config, architectures)
    plan = build_typed(library, config, typed, on_step=on_step, cancelled=cancelled)
    return BuiltPlan(plan, parse_layers(log.layer_lists))


def _set_capabilities(trt: Any, config: Any, architectures: tuple[str, ...]) -> None:  # noqa: ANN401 # they have no types
    known = trt.ComputeCapability.__members__
    config.num_compute_capabilities = len(architectures)
    for index, name in enumerate(architectures):
        if f"SM{name}" not in known:
            has = ", ".join(member.removeprefix("SM") for member in known if member.startswith("SM"))
            raise BackendError(
                f"TensorRT for RTX {trt.__version__} builds for no compute capability {name}; it has: {has}",
                hint="--architecture with one of those",
            )
        if not config.set_compute_capability(known[f"SM{name}"], index):
            raise PipelineError(f"TensorRT for RTX {trt.__version__} refuses compute capability {name}")


def _counted(layers: tuple[LoggedLayer, ...]) -> tuple[Estimate, ...]:
    """Return how many kernels the engine has, and what they read and write: where sizes are free that is not known."""
    by = "the builder's list of layers"
    kernels = sum(bool(layer.outputs) for layer in layers)
    moved = activation_bytes(layers)
    found = [Estimate(architecture="all", what="runs", value=kernels, unit="kernels", by=by)]
    if moved is not None:
        found.append(Estimate(architecture="all", what="moves", value=round(moved / _MIB, 1), unit="MiB of activations", by=by))
    return tuple(found)
