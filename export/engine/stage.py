"""Compile one of a bundle's graphs ahead of time: a bundle and a compiler in, the bundle with an engine for named devices out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.engine.compiled import CompileRequest, OnStep
from export.engine.compilers import CompilerEntry
from runtime.backends import LayerPrecision
from runtime.backends.compiled_engines import (
    CompiledKey,
    CompiledRecord,
    read_compiled,
    read_compiled_plan,
    record_path,
    write_compiled,
)
from runtime.backends.engines import ShapeProfile
from runtime.bundle import ENGINES, Bundle, Io, Variant, check_writable
from runtime.errors import BackendError, BundleError, PipelineError
from runtime.targets import Precision, find_target
from runtime.verify.precision import verify_precision


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """How an engine is compiled; all but the last are part of its key.

    Attributes:
        profile: None takes every size that the graph takes.
        allow_fallback: accept layers that are compiled in another precision than the graph has them in.
    """

    io: Io = "float32"
    architectures: tuple[str, ...] = ()
    profile: ShapeProfile | None = None
    allow_fallback: bool = False


@dataclass(frozen=True)
class CompileOutcome:
    """What the stage did.

    Attributes:
        path: the engine's record.
        differences: parts of the key in which the engine that was there before is another, or what is wrong with it.
        reused: the one there is was left as it is.
    """

    record: CompiledRecord
    path: Path
    differences: tuple[str, ...] = ()
    reused: bool = False


def compile_engine(
    bundle: Bundle, entry: CompilerEntry, precision: Precision, options: CompileOptions, *, on_step: OnStep
) -> CompileOutcome:
    """Compile `bundle`'s graph of `precision` by `entry`, unless the engine that is there has the same key.

    Raises:
        BundleError: it has no such graph, or is packed.
        BackendError: the compiler is not installed.
        PipelineError: the compiler refuses the graph, or compiles layers in another precision than the graph has them in.
    """
    variant = find_graph(bundle, entry, precision, io=options.io)
    engines = bundle.path(variant).parent / ENGINES
    path = record_path(engines, entry.name, variant.file)
    check_writable(path.parent)
    compiler = entry.load()
    key = CompiledKey(
        graph_sha256=variant.sha256,
        precision=precision,
        io=options.io,
        compiler=entry.name,
        version=compiler.version(),
        architectures=options.architectures,
        profile=options.profile,
    )
    existing, damage = _existing(engines, path)
    differences = existing.key.differences(key) if existing is not None else damage
    if existing is not None and not differences:
        _check_precision(existing.other_precision, precision, options)
        return CompileOutcome(existing, path, reused=True)
    request = CompileRequest(
        name=variant.file,
        graph=bundle.read(variant),
        precision=precision,
        io=options.io,
        target=None if variant.target is None else find_target(variant.target),
        manifest=bundle.manifest,
        architectures=options.architectures,
        profile=options.profile,
    )
    compiled = compiler.compile_graph(request, on_step=on_step)
    account = tuple(LayerPrecision(layer.name, layer.op, layer.precision) for layer in compiled.layers)
    report = verify_precision(bundle.manifest, variant, account)
    _check_precision(report.not_as_asked, precision, options)
    record = write_compiled(
        path,
        compiled.plan,
        key,
        suffix=compiled.suffix,
        layers=compiled.layers,
        other_precision=report.not_as_asked,
        estimates=compiled.estimates,
        unproven=compiled.unproven,
    )
    return CompileOutcome(record, path, differences)


def find_graph(bundle: Bundle, entry: CompilerEntry, precision: Precision, *, io: Io) -> Variant:
    """Return the graph of `bundle` that the compiler is given: the best of its targets', else the one for every target.

    Raises:
        BundleError: there is none; says how to make it.
    """
    for target in entry.targets:
        found = bundle.manifest.find_variant(precision, target=target, io=io)
        if found is not None:
            return found
    return bundle.variant(precision, target=entry.targets[0], io=io)  # which says what there is, and what to type


def best_precision(bundle: Bundle, entry: CompilerEntry, *, io: Io) -> Precision:
    """Return int8 where `bundle` has such a graph that the compiler takes, else the first precision that it takes."""
    for precision in ("int8", *entry.precisions):
        if precision in entry.precisions:
            try:
                find_graph(bundle, entry, precision, io=io)
            except BundleError:
                continue
            return precision
    return entry.precisions[0]


def _existing(engines: Path, path: Path) -> tuple[CompiledRecord | None, tuple[str, ...]]:
    """Return the engine that is there and whole; of one that is damaged, which is compiled anew, what is wrong."""
    try:
        record = read_compiled(path)
        if record is not None:
            read_compiled_plan(engines, record)
    except BackendError as error:
        return None, (str(error),)
    return record, ()


def _check_precision(other_precision: tuple[str, ...], precision: Precision, options: CompileOptions) -> None:
    """Raise PipelineError, naming the layers that are not compiled as asked, unless they are accepted."""
    if other_precision and not options.allow_fallback:
        raise PipelineError(
            f"{len(other_precision)} layers are not compiled in the precision that the {precision} graph has them in: "
            + ", ".join(other_precision),
            hint="--allow-fallback accepts them; nothing else of this project will call the engine verified",
        )
