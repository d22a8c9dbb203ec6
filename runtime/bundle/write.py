"""Writes a bundle: the files and the manifest of one stage take effect together, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from runtime.bundle.bundle import Bundle
from runtime.bundle.manifest import MANIFEST, Manifest, Part
from runtime.bundle.manifest_file import manifest_bytes, read_manifest
from runtime.bundle.staging import STAGED, settle, write_synced
from runtime.errors import BundleError


def write_bundle(directory: Path, manifest: Manifest, *, files: Mapping[str, bytes]) -> Bundle:
    """Writes `files` and `manifest` as one step; parts the old manifest had and the new one lacks go.

    Raises:
        BundleError: the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        before = _parts_before(directory)
        for part in before:
            settle(directory, part)  # before its staged file is written over
        if not (directory / MANIFEST).exists():
            _refuse_foreign(directory, files)
        for name, data in files.items():
            write_synced(directory / (name + STAGED), data)
        write_synced(directory / (MANIFEST + STAGED), manifest_bytes(manifest))
        (directory / (MANIFEST + STAGED)).replace(directory / MANIFEST)  # the write takes effect here
        for part in manifest.parts:
            settle(directory, part)
        for name in {part.file for part in before} - {part.file for part in manifest.parts}:
            (directory / name).unlink(missing_ok=True)
        for staged in (*directory.glob(f"model.*.onnx{STAGED}"), *directory.glob(f"calibration*.json{STAGED}")):
            staged.unlink(missing_ok=True)  # what a write killed before it took effect left
    except OSError as error:
        raise BundleError(
            f"cannot write the bundle {directory}: {error.strerror or error}", hint="choose a folder that can be written"
        ) from error
    return Bundle.open(directory)


def _parts_before(directory: Path) -> tuple[Part, ...]:
    """The parts of the bundle that is there already, if a valid one is."""
    try:
        return read_manifest(directory).parts
    except BundleError:
        return ()


def _refuse_foreign(directory: Path, names: Iterable[str]) -> None:
    """BundleError where a folder that is no bundle has files of these names: they are somebody else's."""
    theirs = [name for name in names if (directory / name).exists()]
    if theirs:
        raise BundleError(f"{directory} is no bundle and has a {theirs[0]} of its own", hint="choose another folder with --out")
