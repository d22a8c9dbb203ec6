"""Describe a bundle's TensorRT engines: what a plan was built from and for, and where it may run.

`engines/NAME.json` describes the plan beside it. A plan is named after its own hash, and a build takes effect at the one rename of
that file: killed before, the engine there was before is whole. Neither is part of the manifest, which holds nothing of a machine.

A plan is machine code, and TensorRT runs it as it is: it holds for one TensorRT version and one GPU, unless it was built otherwise.
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from ..bundle import Io, Noun, Part, Sha256, Side, sha256_bytes
from ..errors import BackendError
from ..files.lock import locked
from ..files.regular import read_regular
from ..files.whole import write_whole
from ..sizes import SizeLimits
from ..targets import Precision

HardwareCompatibility = Literal["none", "same-compute-capability", "ampere-plus"]
ComputeCapability = tuple[int, int]
Record = TypeVar("Record", bound=Noun)
Key = TypeVar("Key", bound=Noun)
_AMPERE: ComputeCapability = (8, 0)
_LARGEST_RECORD = 1 << 20  # bytes; ours have one or two thousand
_LARGEST_PLAN = 2 << 30


class ShapeProfile(Noun):
    """The inputs that an engine takes: 1 to `batch` pictures of (H, W) pixels of the network's input; it is fastest at `opt`."""

    batch: Annotated[int, Field(ge=1, le=1024)] = 1
    min: tuple[Side, Side]
    opt: tuple[Side, Side]
    max: tuple[Side, Side]

    @model_validator(mode="after")
    def _in_order(self) -> ShapeProfile:
        for least, best, most in zip(self.min, self.opt, self.max, strict=True):
            if not least <= best <= most:
                raise ValueError(f"expected min <= opt <= max on both sides, got {self}")
        return self

    @property
    def fixed(self) -> bool:
        return self.batch == 1 and self.min == self.max

    @property
    def limits(self) -> SizeLimits:
        return SizeLimits(self.min, self.max)

    def holds(self, batch: int, size: tuple[int, int]) -> bool:
        return 1 <= batch <= self.batch and self.limits.window(size) == size

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {size[0]}×{size[1]}" for name, size in (("min", self.min), ("opt", self.opt), ("max", self.max)))
        return f"batch 1 to {self.batch}, height×width {sizes}"


@dataclass(frozen=True)
class EngineInput:
    """What an engine takes: pictures of the sizes of a profile, as floats (N, C, H, W) or raw pixels (N, H, W, C)."""

    io: Io
    profile: ShapeProfile

    @property
    def channel_axis(self) -> int:
        return 3 if self.io == "uint8" else 1

    def shape(self, batch: int, size: tuple[int, int], *, channels: int) -> tuple[int, ...]:
        return (batch, *size, channels) if self.io == "uint8" else (batch, channels, *size)

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Return whether the profile holds an input of that shape."""
        batch, height, width = (side for axis, side in enumerate(shape) if axis != self.channel_axis)
        return self.profile.holds(batch, (height, width))

    def profile_shapes(self, *, channels: int) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the profile's smallest, usual and largest input."""
        sizes = ((1, self.profile.min), (self.profile.batch, self.profile.opt), (self.profile.batch, self.profile.max))
        return tuple(self.shape(batch, size, channels=channels) for batch, size in sizes)


def key_differences(one: Key, other: Key) -> tuple[str, ...]:
    """Return each part in which two engines' keys differ, as "part: the one's, not the other's"."""
    mine, theirs = dict(one), dict(other)
    return tuple(f"{name}: {mine[name]}, not {theirs[name]}" for name in mine if mine[name] != theirs[name])


class EngineKey(Noun):
    """All that a plan follows from: the same key gives an engine that does the same."""

    graph_sha256: Sha256
    precision: Precision
    io: Io = "float32"
    tensorrt: Annotated[str, Field(pattern=r"^\d+\.\d+[0-9A-Za-z.+-]*$", max_length=64)]
    gpu: Annotated[str, Field(min_length=1, max_length=256)]
    compute_capability: ComputeCapability
    driver: Annotated[str, Field(max_length=256)]
    profile: ShapeProfile
    workspace_mib: Annotated[int, Field(ge=1)] | None = None
    tf32: bool = False
    version_compatible: bool = False
    hardware_compatible: HardwareCompatibility = "none"
    refit: bool = False
    structure_sha256: Sha256 | None = None
    """The hash of the graph without its weights, where those can be exchanged."""

    @property
    def takes(self) -> EngineInput:
        return EngineInput(self.io, self.profile)

    def differences(self, other: EngineKey) -> tuple[str, ...]:
        """Return each part in which `other` is not this one, as "part: this one's, not the other's"."""
        return key_differences(self, other)

    def refits(self, other: EngineKey) -> bool:
        """Return whether `other` is this one with other weights, which an engine of this one's was built to take."""
        return self.refit and self.model_copy(update={"graph_sha256": other.graph_sha256}) == other

    def why_unfit(self, *, tensorrt: str, gpu: str, compute_capability: ComputeCapability) -> str | None:
        """Return what keeps the plan from running there; None where nothing does."""
        if not self._runs_with(tensorrt):
            return f"it was built by TensorRT {self.tensorrt}, and this is {tensorrt}"
        there = f"{gpu} (compute capability {'.'.join(map(str, compute_capability))})"
        own = f"{self.gpu} (compute capability {'.'.join(map(str, self.compute_capability))})"
        fits = {
            "none": (gpu, compute_capability) == (self.gpu, self.compute_capability),
            "same-compute-capability": compute_capability == self.compute_capability,
            "ampere-plus": compute_capability >= _AMPERE,
        }
        return None if fits[self.hardware_compatible] else f"it was built for {own}, and this is {there}"

    def _runs_with(self, tensorrt: str) -> bool:
        if not self.version_compatible:
            return tensorrt == self.tensorrt
        (major, minor), (own_major, own_minor) = (_major_minor(version) for version in (tensorrt, self.tensorrt))
        return major == own_major and minor >= own_minor


class EngineRecord(Noun):
    """What lies beside a plan."""

    schema_version: Literal[1] = 1
    plan: Part
    key: EngineKey
    other_precision: tuple[str, ...] = ()
    """Layers that did not run as asked, as "name: precision"; there are some only where whoever built it accepted them."""


def read_engine(path: Path) -> EngineRecord | None:
    """Return the record in that file; None where there is none.

    Raises:
        BackendError: it cannot be read, or is no record.
    """
    return read_record(path, EngineRecord, again=build_command(path.parent.parent))


def read_record(path: Path, kind: type[Record], *, again: str) -> Record | None:
    """Return the record of that kind in that file; None where there is none. `again` is what to type for a new one.

    Raises:
        BackendError: it cannot be read, or is no such record.
    """
    try:
        return kind.model_validate_json(read_regular(path, most_bytes=_LARGEST_RECORD))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BackendError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        hint = f"rm {shlex.quote(str(path))}, then {again}"
        raise BackendError(f"{path} is not the record of an engine: {where}: {first['msg']}", hint=hint) from error


def find_engine(folder: Path, *, graph_sha256: str, precision: Precision, io: Io = "float32") -> EngineRecord:
    """Return the record in `folder` of the engine that was built from that graph.

    Raises:
        BackendError: there is none; says how to build it.
    """
    if folder.is_symlink():
        raise BackendError(f"{folder} is a link; a bundle's engines are in the bundle", hint="copy the engines there")
    records = [record for path in sorted(folder.glob("*.json")) if (record := read_engine(path)) is not None]
    for record in records:
        if (record.key.graph_sha256, record.key.precision) == (graph_sha256, precision):
            return record
    older = any((record.key.precision, record.key.io) == (precision, io) for record in records)
    reason = "; the one there is was built from another graph" if older else ""
    again = build_command(folder.parent, precision=precision, io=io)
    raise BackendError(f"{folder} holds no {precision} engine of this graph{reason}", hint=again)


def read_plan(folder: Path, record: EngineRecord) -> bytes:
    """Return the plan's bytes, verified.

    Raises:
        BackendError: it is not there, or another file than the record describes.
    """
    return read_part(folder, record.plan, again=build_command(folder.parent, precision=record.key.precision, io=record.key.io))


def read_part(folder: Path, part: Part, *, again: str) -> bytes:
    """Return the bytes of a record's plan in `folder`, verified; `again` is what to type for a new one.

    Raises:
        BackendError: it is not there, or another file than the record describes.
    """
    path = folder / part.file
    try:
        plan = read_regular(path, most_bytes=_LARGEST_PLAN)
    except OSError as error:
        raise BackendError(f"{path} cannot be read: {error.strerror or error}", hint=again) from error
    if sha256_bytes(plan) != part.sha256:
        raise BackendError(f"{path} is not the plan that its record describes (sha256 differs)", hint=again)
    return plan


def write_engine(path: Path, plan: bytes, key: EngineKey, *, other_precision: tuple[str, ...] = ()) -> EngineRecord:
    """Write the record to `path` (NAME.json) and the plan beside it; plans of that name that were there before go.

    Raises:
        BackendError: the folder cannot be written; the engine there was before is whole.
    """
    record = EngineRecord(plan=name_plan(path, plan, suffix=".plan"), key=key, other_precision=other_precision)
    write_record(path, plan, record.plan, record)
    return record


def name_plan(path: Path, plan: bytes, *, suffix: str) -> Part:
    """Return `plan` as a part of the record at `path`, named after that and the plan's own hash."""
    digest = sha256_bytes(plan)
    return Part(file=f"{path.stem}-{digest[:16]}{suffix}", sha256=digest)


def write_record(path: Path, plan: bytes, part: Part, record: Noun) -> None:
    """Write the plan beside `path`, then the record to `path`, which is when both hold; plans of that name from before go.

    Raises:
        BackendError: the folder cannot be written; what there was before is whole, and nothing is left besides.
    """
    file = path.parent / part.file
    with _told(path.parent), locked(path.parent):  # a build beside this one may not take the plan for an old one
        named_already = file.exists()
        try:
            write_whole(file, plan)
            write_whole(path, record.model_dump_json(indent=1).encode() + b"\n")
        except BaseException:
            if not named_already:
                file.unlink(missing_ok=True)
            raise
        for old in path.parent.glob(f"{path.stem}-{'?' * 16}.*"):
            if old.name != part.file:
                with suppress(OSError):  # a process that has it open keeps it, where the system does so
                    old.unlink()


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Raise BackendError, with what to do, in the place of an OSError."""
    try:
        yield
    except OSError as error:
        raise BackendError(
            f"cannot write {error.filename or folder}: {error.strerror or error}",
            hint="free some space or make the folder writable, and run it again",
        ) from error


def build_command(bundle: Path, *, compiler: str = "tensorrt", precision: str = "", io: Io = "float32") -> str:
    """Return what to type for an engine."""
    ends = "" if io == "float32" else f" --io {io}"
    by = "" if compiler == "tensorrt" else f" --for {compiler}"
    return f"python -m export.engine {shlex.quote(str(bundle))}{by}" + (f" --precision {precision}" if precision else "") + ends


def _major_minor(version: str) -> tuple[int, int]:
    major, minor, *_ = version.split(".")
    return int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)
