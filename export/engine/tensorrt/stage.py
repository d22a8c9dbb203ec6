"""The engine stage: a bundle in, the bundle with a TensorRT engine of one of its graphs for this machine out."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import onnx
import tensorrt as trt

from export.engine.compiled import OnStep
from export.engine.strongly_typed import run_cancellable
from export.engine.tensorrt.build import BuiltPlan, build_plan
from export.engine.tensorrt.qdq_rules import check_graph
from export.engine.tensorrt.refit import Refit, refit_plan
from export.engine.tensorrt.structure import structure_digest
from runtime.backends.cuda import Gpu
from runtime.backends.engines import (
    EngineKey,
    EngineRecord,
    HardwareCompatibility,
    ShapeProfile,
    read_engine,
    read_plan,
    write_engine,
)
from runtime.backends.tensorrt import TensorRtBackend
from runtime.bundle import ENGINES, Bundle, Io, Variant, check_writable
from runtime.errors import BackendError, PipelineError, UserError
from runtime.files.whole import write_whole
from runtime.targets import Precision
from runtime.verify.precision import verify_precision

TARGET = "tensorrt"


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine is built; most of it is part of its key.

    Attributes:
        io: what the graph takes and gives.
        timing_cache: a file; None keeps one beside the engines for each TensorRT and GPU.
        allow_fallback: accept layers that run in another precision than the graph has them in.
        device: as runtime/backends/cuda.py takes it.
    """

    profile: ShapeProfile
    io: Io = "float32"
    workspace_mib: int | None = None
    tf32: bool = False
    version_compatible: bool = False
    hardware_compatible: HardwareCompatibility = "none"
    refit: bool = False
    timing_cache: Path | None = None
    allow_fallback: bool = False
    device: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What the stage did.

    Attributes:
        path: the engine's record.
        differences: parts of the key in which the engine that was there before is another, or what is wrong with it; empty where
            none was.
        reused: the one there is was left as it is.
        refitted: it was given the graph's weights, which are all that had changed.
        why_not_refitted: where it could not be, though they are; empty elsewhere.
        cache_fitted: the timing cache given was of this TensorRT and GPU.
    """

    record: EngineRecord
    path: Path
    differences: tuple[str, ...] = ()
    reused: bool = False
    refitted: bool = False
    why_not_refitted: str = ""
    cache_fitted: bool = True


def build_engine(bundle: Bundle, precision: Precision, options: EngineOptions, *, on_step: OnStep) -> Outcome:
    """Build the engine of `bundle`'s graph of `precision`, unless the one there is has the same key, or take its weights.

    Raises:
        BundleError: it has no such graph, or is packed.
        BackendError: no GPU, or a TensorRT that cannot build this.
        PipelineError: TensorRT refuses the graph; or layers run in another precision than it has them in.
    """
    variant = bundle.variant(precision, target=TARGET, io=options.io)
    path = bundle.path(variant).parent / ENGINES / f"{Path(variant.file).stem}.json"
    check_writable(path.parent)
    graph = bundle.read(variant)
    check_graph(graph, what=variant.file)
    gpu = Gpu(options.device)
    key = engine_key(variant, options, graph=graph, gpu=gpu)
    existing, damage = _existing(path)
    differences = existing.key.differences(key) if existing is not None else damage
    if existing is not None and not differences:
        _check_precision(existing.other_precision, precision, options)
        return Outcome(existing, path, reused=True)
    cache = (
        options.timing_cache
        or path.parent / f"timing-{key.tensorrt}-sm{key.compute_capability[0]}{key.compute_capability[1]}.cache"
    )
    refit = Refit(None)
    old_plan = read_plan(path.parent, existing) if existing is not None and existing.key.refits(key) else None
    with gpu:
        if old_plan is not None:
            refit = _refit(old_plan, graph, key, gpu=gpu, on_step=on_step)
        built = BuiltPlan(refit.plan) if refit.plan is not None else _build(graph, key, gpu=gpu, cache=cache, on_step=on_step)
    with TensorRtBackend(built.plan, key, gpu=gpu) as backend:
        report = verify_precision(bundle.manifest, variant, backend.precisions())
    try:
        if built.timing_cache is not None:
            write_whole(cache, built.timing_cache)
        _check_precision(report.not_as_asked, precision, options)
        record = write_engine(path, built.plan, key, other_precision=report.not_as_asked)
    except OSError as error:
        raise UserError(f"cannot write {error.filename or path.parent}: {error.strerror or error}") from error
    refitted = refit.plan is not None
    return Outcome(record, path, differences, refitted=refitted, why_not_refitted=refit.why_not, cache_fitted=built.cache_fitted)


def engine_key(variant: Variant, options: EngineOptions, *, graph: bytes, gpu: Gpu) -> EngineKey:
    """Return what an engine built now would follow from."""
    return EngineKey(
        graph_sha256=variant.sha256,
        precision=variant.precision,
        io=variant.io,
        tensorrt=trt.__version__,
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        driver=gpu.driver,
        profile=options.profile,
        workspace_mib=options.workspace_mib,
        tf32=options.tf32,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        refit=options.refit,
        structure_sha256=structure_digest(onnx.load_model_from_string(graph)) if options.refit else None,
    )


def _refit(plan: bytes, graph: bytes, key: EngineKey, *, gpu: Gpu, on_step: OnStep) -> Refit:
    def refit() -> Refit:
        with gpu.current():
            return refit_plan(plan, graph, key)

    on_step("refitting", 0, 0)
    return run_cancellable(refit, threading.Event(), on_step)


def _build(graph: bytes, key: EngineKey, *, gpu: Gpu, cache: Path, on_step: OnStep) -> BuiltPlan:
    cancelled, timing_cache = threading.Event(), _read_cache(cache)

    def build() -> BuiltPlan:
        with gpu.current():
            return build_plan(graph, key, timing_cache=timing_cache, on_step=on_step, cancelled=cancelled)

    return run_cancellable(build, cancelled, on_step)


def _existing(path: Path) -> tuple[EngineRecord | None, tuple[str, ...]]:
    """Return the engine that is there and whole; of one that is damaged, which is built anew, what is wrong."""
    try:
        record = read_engine(path)
        if record is not None:
            read_plan(path.parent, record)
    except BackendError as error:
        return None, (str(error),)
    return record, ()


def _read_cache(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UserError(f"cannot read the timing cache {path}: {error.strerror or error}", hint="--timing-cache FILE") from error


def _check_precision(other_precision: tuple[str, ...], precision: Precision, options: EngineOptions) -> None:
    """Raise PipelineError lists the layers that did not run as asked, unless they are accepted."""
    if other_precision and not options.allow_fallback:
        raise PipelineError(
            f"{len(other_precision)} layers of this engine do not run in the precision that the {precision} graph has them in: "
            + ", ".join(other_precision),
            hint="--allow-fallback accepts them; nothing else of this project will call the engine verified",
        )
