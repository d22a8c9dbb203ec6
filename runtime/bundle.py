"""The bundle: a directory with a manifest and the graphs it describes.

A write is staged beside the files it replaces (`NAME.next`) and takes effect at one rename, that of `manifest.json`. Killed
before it, the old bundle is whole; killed after it, whoever opens or writes the bundle next finishes the remaining renames.
Every part is checked against its sha256 on open, and the manifest carries a digest of itself, so that an edit by hand or a
flipped byte is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from runtime.archive import pack_files, unpack_files
from runtime.bicubic import upscaled_size
from runtime.errors import BundleError
from runtime.targets import TARGETS, Precision

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
CALIBRATION = "calibration.json"
REPORTS = "reports"
BUILD = Path("build")
_STAGED = ".next"
_DIGEST = "digest"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A plain name: no separator and no leading dot, so that no part can lie outside the bundle.
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=128)]
Colour = Literal["RGB", "Y"]
Side = Annotated[int, Field(ge=1, le=1 << 16)]
"""Pixels along one side of a picture."""
Option = str | int | float | bool | None


class Noun(BaseModel):
    """Frozen data that crosses a file: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(Noun):
    """A file of the bundle and what its bytes must hash to."""

    file: FileName
    sha256: Sha256


class Checkpoint(Noun):
    """Where the weights came from."""

    source: Literal["shipped", "published", "file"]
    file: str
    sha256: Sha256


class Contract(Noun):
    """What the graph takes and gives: (N, C, H, W) float32 with values in [0, 1]; C is 3 of RGB, or 1 of luma (Y)."""

    layout: Literal["NCHW"] = "NCHW"
    dtype: Literal["float32"] = "float32"
    value_range: tuple[float, float] = (0.0, 1.0)
    colour: Colour = "RGB"
    """Y: full-range BT.601 luma, as JFIF; whoever runs the graph carries chroma over bicubically."""
    pre_upscale: bool = False
    """The graph takes the picture enlarged by `scale`, as runtime/bicubic.py does it, and gives one of that same size."""
    static_shape: tuple[Side, Side] | None = None
    """(H, W) of the input where the graph is fixed to one shape; None where batch, height and width are free."""

    @property
    def channels(self) -> int:
        return 3 if self.colour == "RGB" else 1

    def input_size(self, picture_size: tuple[int, int], *, scale: float) -> tuple[int, int]:
        """(H, W) of the graph's input for a picture of that (H, W)."""
        return upscaled_size(picture_size, scale) if self.pre_upscale else picture_size

    def static_picture_size(self, *, scale: float) -> tuple[int, int] | None:
        """(H, W) of the one picture that a fixed graph takes; None where it takes any."""
        if self.static_shape is None or not self.pre_upscale:
            return self.static_shape
        height, width = self.static_shape
        return round(height / scale), round(width / scale)


class Layer(Noun):
    """An operator with multiply-accumulates; `macs` for one 128×128 picture."""

    name: str
    op: str
    macs: int = Field(ge=0, le=1 << 60)
    aliases: tuple[str, ...] = ()
    """What a backend that fuses it with the additions and activations after it may call the result."""


class PassRecord(Noun):
    """A graph rewrite that ran, what it changed, and the graph after it."""

    name: str
    changes: str
    nodes: int
    macs: int
    """Multiply-accumulates for one 128×128 picture."""
    max_abs_difference: float | None = None
    """From the network's own output, on one random input."""


class Parity(Noun):
    """Largest difference between torch and ONNX Runtime on one random input of `shape` (N, C, H, W)."""

    shape: tuple[int, int, int, int]
    max_abs_difference: float
    tolerance: float


class Variant(Part):
    """One graph of the bundle: the network in one precision, for one target where that matters."""

    precision: Precision
    target: str | None = None
    parent_sha256: Sha256
    """The graph it was made from; of fp32, the checkpoint."""
    opset: int
    options: dict[str, Option] = {}
    tools: dict[str, str] = {}
    passes: tuple[PassRecord, ...] = ()
    parity: Parity | None = None
    psnr_vs_fp32_db: float | None = None
    """PSNR of this variant's output against the fp32 output on calibration crops, all channels, peak 1."""
    merged_layers: tuple[str, ...] = ()
    """Layers of the fp32 graph whose work another layer does in this one."""
    int8_layers: tuple[str, ...] = ()


class Manifest(Noun):
    """Everything a reader of the bundle needs to know; the same inputs give the same bytes."""

    schema_version: Literal[1] = 1
    model: str
    scale: float = Field(gt=1, le=64, allow_inf_nan=False)
    checkpoint: Checkpoint
    contract: Contract
    halo: Annotated[int, Field(ge=0, le=1 << 16)] | Literal["global"]
    """Pixels of the graph's input around a tile, on each side, that its output depends on."""
    global_operator: str = ""
    """Where that is "global": the operator that looks at the whole picture."""
    layers: tuple[Layer, ...]
    variants: tuple[Variant, ...]
    calibration: Part | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one 128×128 picture."""
        return sum(layer.macs for layer in self.layers)

    @property
    def parts(self) -> tuple[Part, ...]:
        return (*self.variants, *((self.calibration,) if self.calibration else ()))

    def find_variant(self, precision: Precision, *, target: str | None = None) -> Variant | None:
        """The variant of that precision: of several that of `target`, else the one that is for every target, else the first.

        A target that runs some operators on int8 alone is given its own graphs and no others: another could crash it.
        """
        own_alone = any(known.int8_only_ops for known in TARGETS if known.name == target)
        fitting = [
            variant
            for variant in self.variants
            if variant.precision == precision
            and (target is None or variant.target == target or (variant.target is None and not own_alone))
        ]
        return next((variant for variant in fitting if variant.target == target), fitting[0] if fitting else None)

    def int8_mac_share(self, variant: Variant) -> float:
        """Share of the network's multiply-accumulates that `variant` asks for in int8, merged ones too, 0 to 1."""
        quantized = {*variant.int8_layers, *variant.merged_layers}
        return sum(layer.macs for layer in self.layers if layer.name in quantized) / max(self.macs, 1)

    def with_variant(self, variant: Variant) -> Manifest:
        """This manifest with `variant` in the place of the one of the same file, or added."""
        others = tuple(other for other in self.variants if other.file != variant.file)
        return self.model_copy(update={"variants": (*others, variant)})


@dataclass(frozen=True)
class Bundle:
    """An opened, verified bundle: a folder, or one packed file.

    Attributes:
        directory: the folder; of a packed bundle its file.
        packed: the contents of a packed bundle by name; None of a folder.
    """

    directory: Path
    manifest: Manifest
    packed: Mapping[str, bytes] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(cls, directory: Path) -> Bundle:
        """Reads and verifies the bundle in `directory`, or packed into that file.

        A write that was cut off after it took effect is finished.

        Raises:
            BundleError: no manifest, a newer schema, a part missing or changed.
        """
        if directory.is_file():
            return _open_packed(directory)
        manifest = _read_manifest(directory)
        try:
            for part in manifest.parts:
                _verify(directory, part)
        except BundleError:
            if _read_manifest(directory) == manifest:
                raise
            return cls.open(directory)  # somebody wrote it anew in between
        return cls(directory, manifest)

    def path(self, part: Part) -> Path:
        """Where the part's file is; BundleError of a packed bundle, whose parts are no files."""
        if self.packed is not None:
            unpack = f"python -m zipfile -e {self.directory} FOLDER, and name that"
            raise BundleError(f"{self.directory} is packed; this needs a bundle that is a folder", hint=unpack)
        return self.directory / part.file

    def read(self, part: Part) -> bytes:
        """The part's bytes, verified: what a backend opens is what was checked, and nothing beside it.

        Raises:
            BundleError: it changed since the bundle was opened.
        """
        if self.packed is not None:
            return self.packed[part.file]
        try:
            data = self.path(part).read_bytes()
        except OSError as error:
            raise BundleError(f"{self.path(part)} cannot be read: {error.strerror or error}") from error
        if sha256_bytes(data) != part.sha256:
            raise BundleError(f"{self.path(part)} changed since the bundle was opened", hint="open it again")
        return data

    def variant(self, precision: Precision, *, target: str | None = None) -> Variant:
        """The variant of that precision; BundleError names those present."""
        found = self.manifest.find_variant(precision, target=target)
        if found is None:
            present = ", ".join(variant.precision for variant in self.manifest.variants)
            suffix = f" for target {target!r}" if target else ""
            hint = f"python -m quantize {self.directory} --calib div2k" if precision != "fp32" else ""
            raise BundleError(f"{self.directory} has no {precision} graph{suffix}; it has: {present}", hint=hint)
        return found


def write_bundle(directory: Path, manifest: Manifest, *, files: Mapping[str, bytes]) -> Bundle:
    """Writes `files` and `manifest` as one step; parts the old manifest had and the new one lacks go.

    Raises:
        BundleError: the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        before = _parts_before(directory)
        for part in before:
            _settle(directory, part)  # before its staged file is written over
        if not (directory / MANIFEST).exists():
            _refuse_foreign(directory, files)
        for name, data in files.items():
            _write_synced(directory / (name + _STAGED), data)
        _write_synced(directory / (MANIFEST + _STAGED), _manifest_bytes(manifest))
        (directory / (MANIFEST + _STAGED)).replace(directory / MANIFEST)  # the write takes effect here
        for part in manifest.parts:
            _settle(directory, part)
        for name in {part.file for part in before} - {part.file for part in manifest.parts}:
            (directory / name).unlink(missing_ok=True)
        for staged in (*directory.glob(f"model.*.onnx{_STAGED}"), *directory.glob(CALIBRATION + _STAGED)):
            staged.unlink(missing_ok=True)  # what a write killed before it took effect left
    except OSError as error:
        raise BundleError(
            f"cannot write the bundle {directory}: {error.strerror or error}", hint="choose a folder that can be written"
        ) from error
    return Bundle.open(directory)


def pack_bundle(bundle: Bundle) -> bytes:
    """One file that holds the whole bundle, reports and engines left out; `Bundle.open` opens it."""
    return pack_files(
        {MANIFEST: _manifest_bytes(bundle.manifest), **{part.file: bundle.read(part) for part in bundle.manifest.parts}}
    )


def resolve_bundle(directory: Path | None) -> Path:
    """`directory`, or the only bundle under build/ where it is None.

    Raises:
        BundleError: there is none, or there are several; lists them.
    """
    if directory is not None:
        return directory
    found = sorted(path.parent for path in BUILD.glob(f"*/{MANIFEST}"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise BundleError("there is no bundle under build/", hint="python -m export lesrcnn --scale 2")
    raise BundleError(
        f"there are several bundles under build/: {', '.join(str(path) for path in found)}", hint="name the one you mean"
    )


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_schema() -> dict[str, object]:
    """JSON Schema of manifest.json: that of `Manifest`, and the digest over everything else in the file."""
    schema: dict[str, object] = Manifest.model_json_schema()
    properties, required = schema["properties"], schema.get("required", [])
    assert isinstance(properties, dict)
    assert isinstance(required, list)
    digest = {"type": "string", "pattern": "^[0-9a-f]{64}$", "title": "sha256 of the other fields as compact JSON, keys sorted"}
    return {**schema, "properties": {**properties, _DIGEST: digest}, "required": [*required, _DIGEST]}


def tool_versions(packages: Iterable[str], *, sources: Iterable[Path]) -> dict[str, str]:
    """Versions of the distributions a stage works with, and of its own code, the Python files below `sources`."""
    return {**{name: metadata.version(name) for name in packages}, "sredge": source_digest(sources)}


def source_digest(packages: Iterable[Path]) -> str:
    """Eight hex digits over the Python sources of those folders: a stage is redone when its own code changed."""
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def _manifest_bytes(manifest: Manifest) -> bytes:
    body = manifest.model_dump(mode="json")
    return json.dumps({**body, _DIGEST: _digest(body)}, indent=1).encode() + b"\n"


def _digest(body: object) -> str:
    return sha256_bytes(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())


def _open_packed(path: Path) -> Bundle:
    files = unpack_files(path)
    if MANIFEST not in files:
        raise BundleError(f"{path} is not a packed bundle: it has no {MANIFEST}", hint="python -m runtime pack BUNDLE -o FILE")
    manifest = _parse_manifest(files[MANIFEST], path, again="pack it anew")
    for part in manifest.parts:
        if part.file not in files or sha256_bytes(files[part.file]) != part.sha256:
            raise BundleError(f"{path} is damaged: its {part.file} is not the file the manifest describes", hint="pack it anew")
    return Bundle(path, manifest, files)


def _read_manifest(directory: Path) -> Manifest:
    path = directory / MANIFEST
    try:
        text = path.read_bytes()
    except OSError as error:
        reason = "it has no manifest.json" if directory.is_dir() else "there is no such folder"
        raise BundleError(f"{directory} is not a bundle: {reason}", hint="python -m export lesrcnn --scale 2") from error
    return _parse_manifest(text, path, again=f"make it anew: rm -r {directory} and run the export again")


def _parse_manifest(text: bytes, path: Path, *, again: str) -> Manifest:
    try:
        body = json.loads(text)
        if not isinstance(body, dict):
            raise TypeError("a manifest is a JSON object")
    except (ValueError, TypeError, RecursionError) as error:
        raise BundleError(f"{path} is not a manifest: {error}", hint=again) from error
    version = body.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version}; this sredge reads up to {SCHEMA_VERSION}",
            hint="pip install --upgrade sredge",
        )
    digest = body.pop(_DIGEST, None)
    try:
        manifest = Manifest.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise BundleError(f"{path} is not a valid manifest: {where}: {first['msg']}", hint=again) from error
    if digest != _digest(body):
        raise BundleError(f"{path} was changed after it was written (its digest does not match)", hint=again)
    return manifest


def _verify(directory: Path, part: Part) -> None:
    path = directory / part.file
    try:
        if path.is_file() and sha256_file(path) == part.sha256:
            return
        _settle(directory, part)
        if sha256_file(path) == part.sha256:
            return
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}", hint="run the export again") from error
    raise BundleError(
        f"{path} is not the file the manifest describes (sha256 differs)",
        hint=f"make it anew: rm -r {directory} and run the export again",
    )


def _settle(directory: Path, part: Part) -> None:
    """Does the rename that a write still owes `part`; a reader and the writer may both try, and one finds it done."""
    staged = directory / (part.file + _STAGED)
    with suppress(FileNotFoundError):
        if sha256_file(staged) == part.sha256:
            staged.replace(directory / part.file)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _refuse_foreign(directory: Path, names: Iterable[str]) -> None:
    """BundleError where a folder that is no bundle has files of these names: they are somebody else's."""
    theirs = [name for name in names if (directory / name).exists()]
    if theirs:
        raise BundleError(f"{directory} is no bundle and has a {theirs[0]} of its own", hint="choose another folder with --out")


def _parts_before(directory: Path) -> tuple[Part, ...]:
    """The parts of the bundle that is there already, if a valid one is."""
    try:
        return _read_manifest(directory).parts
    except BundleError:
        return ()
