"""Describe the engines that vendors' compilers make ahead of time: of which graph, for which devices, and what is known of each.

`engines/COMPILER/NAME.json` describes the plan beside it (a .tflite file, a context binary, a TensorRT-RTX plan). Both are written
as runtime/backends/engines.py writes those of TensorRT, whose records lie in `engines/` itself. A plan holds for the architectures
that it was compiled for, and depends on nothing of the machine that compiled it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..bundle import Io, Noun, Part, Sha256
from ..errors import BackendError
from ..targets import Precision
from .backend import LayerPrecision, RanIn
from .engines import ShapeProfile, build_command, find_engine, key_differences, name_plan, read_part, read_record, write_record

Text = Annotated[str, Field(max_length=256)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]
_MOST_LAYERS = 1 << 14


class EngineLayer(Noun):
    """One operator of the graph as it was compiled: what it multiplies in, and the unit of the chip that it runs on."""

    name: Text
    op: Text
    precision: RanIn
    unit: Text


class Estimate(Noun):
    """A figure that a compiler's own model of the chip gives; nothing was run for it."""

    architecture: Name
    what: Text
    value: float
    unit: Text
    by: Text
    """The model, for instance "Vela 5.2.0"."""


class CompiledKey(Noun):
    """All that a compiled engine follows from: the same key gives an engine that does the same."""

    graph_sha256: Sha256
    precision: Precision
    io: Io = "float32"
    compiler: Name
    version: Text
    architectures: tuple[Name, ...] = ()
    """Empty where one plan runs on every device."""
    profile: ShapeProfile | None = None
    """None where it takes pictures of every size that the graph takes."""

    def differences(self, other: CompiledKey) -> tuple[str, ...]:
        """Return each part in which `other` is not this one, as "part: this one's, not the other's"."""
        return key_differences(self, other)


class CompiledRecord(Noun):
    """What lies beside a plan."""

    schema_version: Literal[1] = 1
    plan: Part
    size_bytes: Annotated[int, Field(ge=0)]
    key: CompiledKey
    layers: Annotated[tuple[EngineLayer, ...], Field(max_length=_MOST_LAYERS)]
    other_precision: tuple[Text, ...] = ()
    """Layers that are not compiled as asked, as "name: precision"; there are some only where whoever built it accepted them."""
    estimates: tuple[Estimate, ...] = ()
    unproven: tuple[Text, ...] = ()
    """What compiling alone cannot show, one sentence each."""

    @property
    def precisions(self) -> tuple[LayerPrecision, ...]:
        return tuple(LayerPrecision(layer.name, layer.op, layer.precision) for layer in self.layers)


def record_path(engines: Path, compiler: str, graph_file: str) -> Path:
    """Return where the record of that compiler's engine of that graph lies, in a bundle's folder of engines."""
    return engines / compiler / f"{Path(graph_file).stem}.json"


def read_compiled(path: Path) -> CompiledRecord | None:
    """Return the record in that file; None where there is none.

    Raises:
        BackendError: it cannot be read, or is no record.
    """
    return read_record(path, CompiledRecord, again=build_command(path.parents[2], compiler=path.parent.name))


def find_compiled(engines: Path, compiler: str, *, graph_sha256: str, precision: Precision, io: Io = "float32") -> CompiledRecord:
    """Return the record of that compiler's engine of that graph; its plan is in `engines / compiler`.

    Raises:
        BackendError: there is none; says how to build it.
    """
    folder = engines / compiler
    if engines.is_symlink() or folder.is_symlink():
        raise BackendError(f"{folder} is a link; a bundle's engines are in the bundle", hint="copy the engines there")
    records = [record for path in sorted(folder.glob("*.json")) if (record := read_compiled(path)) is not None]
    for record in records:
        if record.key.graph_sha256 == graph_sha256:
            return record
    older = any((record.key.precision, record.key.io) == (precision, io) for record in records)
    reason = "; the one there is was built from another graph" if older else ""
    again = build_command(engines.parent, compiler=compiler, precision=precision, io=io)
    raise BackendError(f"{folder} holds no {precision} engine of this graph{reason}", hint=again)


def read_compiled_plan(engines: Path, record: CompiledRecord) -> bytes:
    """Return the plan's bytes, verified.

    Raises:
        BackendError: it is not there, or another file than the record describes.
    """
    key = record.key
    again = build_command(engines.parent, compiler=key.compiler, precision=key.precision, io=key.io)
    return read_part(engines / key.compiler, record.plan, again=again)


def write_compiled(
    path: Path,
    plan: bytes,
    key: CompiledKey,
    *,
    suffix: str,
    layers: tuple[EngineLayer, ...],
    other_precision: tuple[str, ...] = (),
    estimates: tuple[Estimate, ...] = (),
    unproven: tuple[str, ...] = (),
) -> CompiledRecord:
    """Write the record to `path` (NAME.json) and the plan beside it, its name ending in `suffix`.

    Raises:
        BackendError: the folder cannot be written; the engine there was before is whole.
    """
    record = CompiledRecord(
        plan=name_plan(path, plan, suffix=suffix),
        size_bytes=len(plan),
        key=key,
        layers=layers,
        other_precision=other_precision,
        estimates=estimates,
        unproven=unproven,
    )
    write_record(path, plan, record.plan, record)
    return record


def prebuilt_plan(engines: Path, backend: str, *, graph_sha256: str, precision: Precision, io: Io = "float32") -> Part:
    """Return the plan that a backend which runs prebuilt engines would open for that graph.

    Raises:
        BackendError: there is none; says how to build it.
    """
    if backend == "tensorrt":  # built on the machine that runs it: keyed by its GPU and driver too
        return find_engine(engines, graph_sha256=graph_sha256, precision=precision, io=io).plan
    return find_compiled(engines, backend, graph_sha256=graph_sha256, precision=precision, io=io).plan
