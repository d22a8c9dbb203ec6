"""Open a bundle: a folder or a packed file in, a manifest and verified parts out; sha256 is checked on open and on every read.

A bundle may come from anywhere. Its parts are regular files in it, and a graph that is read says nothing that `graph_bytes`
refuses, so that no backend reads or runs anything beside it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import PROGRAM, BundleError
from ..targets import Precision
from .archive import pack_files, unpack_files
from .digests import sha256_bytes
from .graph_bytes import check_graph_bytes
from .manifest import BUILD, MANIFEST, Io, Manifest, Part, Variant
from .manifest_file import manifest_bytes, parse_manifest, read_manifest
from .staging import ChangedPartError, find_part, read_part


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
        """Read and verify the bundle in `directory`, or packed into that file; write nothing.

        Raises:
            BundleError: no manifest, a newer schema, a part missing or changed.
        """
        if not directory.is_dir() and directory.exists():
            return _open_packed(directory)
        while True:
            moment = _last_written(directory)
            manifest = read_manifest(directory)
            try:
                for part in manifest.parts:
                    _verify(directory, part)
            except BundleError:
                if _last_written(directory) == moment:
                    raise
            else:
                return cls(directory, manifest)

    def path(self, part: Part) -> Path:
        """Return where the part's file is; BundleError of a packed bundle, whose parts are no files."""
        if self.packed is not None:
            unpack = f"python -m zipfile -e {shlex.quote(str(self.directory))} FOLDER, and name that"
            raise BundleError(f"{self.directory} is packed; this needs a bundle that is a folder", hint=unpack)
        return find_part(self.directory, part)

    def read(self, part: Part) -> bytes:
        """Return the part's bytes, verified: what a backend opens is what was checked, and nothing beside it.

        Raises:
            BundleError: it changed since the bundle was opened, or is a graph that says what none here does (`graph_bytes`).
        """
        data = self._read_folder(part) if self.packed is None else self.packed[part.file]
        if isinstance(part, Variant):
            check_graph_bytes(data, what=f"{part.file} of {self.directory}")
        return data

    def _read_folder(self, part: Part) -> bytes:
        path = self.directory / part.file
        try:
            return read_part(self.directory, part)
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error
        except ChangedPartError as error:
            raise BundleError(f"{path} changed since the bundle was opened", hint="open it again") from error

    def variant(self, precision: Precision, *, target: str | None = None, io: Io = "float32") -> Variant:
        """Return the variant of that precision, as `Manifest.find_variant` finds it; BundleError names those present."""
        found = self.manifest.find_variant(precision, target=target, io=io)
        if found is None:
            pixels = " of raw pixels"
            several = [one.target for one in self.manifest.variants if (one.precision, one.io) == (precision, io) and one.target]
            if target is None and several:
                raise BundleError(
                    f"{self.directory} has several {precision} graphs, for targets {', '.join(map(str, several))}",
                    hint=f"name one with --target: --target {several[0]}",
                )
            present = ", ".join(map(str, self.manifest.variants))
            suffix = f"{pixels if io == 'uint8' else ''}{f' for target {target!r}' if target else ''}"
            asked = f" --target {target}" if target else ""
            hint = f"python -m quantize {shlex.quote(str(self.directory))} --calib div2k{asked}" if precision != "fp32" else ""
            if io == "uint8":
                hint = f"{hint or 'python -m export as before'} --io uint8"
            raise BundleError(f"{self.directory} has no {precision} graph{suffix}; it has: {present}", hint=hint)
        return found


def pack_bundle(bundle: Bundle) -> bytes:
    """Return one file that holds the whole bundle, reports and engines left out; `Bundle.open` opens it."""
    return pack_files(
        {MANIFEST: manifest_bytes(bundle.manifest), **{part.file: bundle.read(part) for part in bundle.manifest.parts}}
    )


def resolve_bundle(directory: Path | None) -> Path:
    """Return `directory`, or the only bundle under build/ where it is None.

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


def _open_packed(path: Path) -> Bundle:
    files = unpack_files(path)
    if MANIFEST not in files:
        raise BundleError(f"{path} is not a packed bundle: it has no {MANIFEST}", hint=f"{PROGRAM} pack BUNDLE -o FILE")
    manifest = parse_manifest(files[MANIFEST], path, again="pack it anew")
    for part in manifest.parts:
        if part.file not in files or sha256_bytes(files[part.file]) != part.sha256:
            raise BundleError(f"{path} is damaged: its {part.file} is not the file the manifest describes", hint="pack it anew")
    return Bundle(path, manifest, files)


def _verify(directory: Path, part: Part) -> None:
    path = directory / part.file
    try:
        read_part(directory, part)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}", hint="run the export again") from error
    except ChangedPartError as error:
        raise BundleError(str(error), hint=f"make it anew: rm -r {shlex.quote(str(directory))} and run the export again") from error


def _last_written(directory: Path) -> tuple[int, int] | None:
    """Tell one write of the manifest from another; None where there is none."""
    try:
        status = (directory / MANIFEST).stat(follow_symlinks=False)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
