"""Write a bundle: the files and the manifest of one stage take effect together, or not at all.

Writers take turns: each applies its change to the manifest that is there when its turn comes, so that nothing another stage wrote
meanwhile is lost. Readers need no turn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import BundleError
from ..files.lock import locked
from .bundle import Bundle
from .manifest import MANIFEST, Manifest
from .manifest_file import manifest_bytes, read_manifest
from .staging import STAGED, settle, staged_path, sweep, write_synced


def write_bundle(directory: Path, manifest: Manifest, *, files: Mapping[str, bytes]) -> Bundle:
    """Write `files` and `manifest` as one step, whatever is there; parts the old manifest had and the new one lacks go.

    Raises:
        BundleError: the directory cannot be written.
    """
    return update_bundle(directory, lambda _: manifest, files=files)


def extend_bundle(bundle: Bundle, change: Callable[[Manifest], Manifest], *, files: Mapping[str, bytes]) -> Bundle:
    """Add to `bundle` what a stage made from its graphs: `change` is applied to the manifest that is there now.

    Raises:
        BundleError: as `write_bundle` does; or the graphs it was made from are not there any more.
    """

    def extend(now: Bundle | None) -> Manifest:
        if now is None or now.manifest.find_variant("fp32") is None:
            raise _made_anew(bundle)
        manifest = change(now.manifest)
        before = {variant.sha256 for variant in now.manifest.variants}
        added = [variant for variant in manifest.variants if variant not in now.manifest.variants]
        if any(variant.parent_sha256 not in before for variant in added):
            raise _made_anew(bundle)
        return manifest

    return update_bundle(bundle.directory, extend, files=files)


def update_bundle(directory: Path, change: Callable[[Bundle | None], Manifest], *, files: Mapping[str, bytes]) -> Bundle:
    """Write `files` and the manifest that `change` makes of the bundle that is there now; None where there is no whole one.

    Raises:
        BundleError: as `write_bundle` does, and what `change` raises.
    """
    try:
        with locked(directory):
            _finish_last_write(directory)
            manifest = change(_open_if_whole(directory))
            _write(directory, manifest, files)
            return Bundle.open(directory)
    except OSError as error:
        raise _unwritable(directory, error) from error


def check_writable(directory: Path) -> None:
    """Raise BundleError where a bundle could not be written to `directory`, which need not be there yet; leaves nothing behind."""
    place = directory
    try:
        if directory.is_file():
            unpack = f"python -m zipfile -e {directory} FOLDER, and name that"
            raise BundleError(f"{directory} is a file; this needs a bundle that is a folder", hint=unpack)
        while not place.exists():
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise _unwritable(directory, error) from error


def _write(directory: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    before = _parts_before(directory)
    if not (directory / MANIFEST).exists():
        _refuse_foreign(directory, files)
    staged_manifest = directory / (MANIFEST + STAGED)
    try:
        for part in manifest.parts:
            if part.file in files:
                write_synced(staged_path(directory, part), files[part.file])
        write_synced(staged_manifest, manifest_bytes(manifest))
    except OSError:  # a full disk
        with suppress(OSError):
            sweep(directory)
        raise
    staged_manifest.replace(directory / MANIFEST)  # the write takes effect here
    for part in manifest.parts:
        settle(directory, part)
    for name in before - {part.file for part in manifest.parts}:
        (directory / name).unlink(missing_ok=True)


def _finish_last_write(directory: Path) -> None:
    """Does the renames that a killed write owes, and removes what one staged that never took effect."""
    with suppress(BundleError):
        for part in read_manifest(directory).parts:
            settle(directory, part)
    sweep(directory)


def _open_if_whole(directory: Path) -> Bundle | None:
    try:
        return Bundle.open(directory)
    except BundleError:
        return None


def _parts_before(directory: Path) -> set[str]:
    """Return the files of the bundle that is there already, if a valid one is."""
    try:
        return {part.file for part in read_manifest(directory).parts}
    except BundleError:
        return set()


def _refuse_foreign(directory: Path, names: Iterable[str]) -> None:
    """Raise BundleError where a folder that is no bundle has files of these names: they are somebody else's."""
    theirs = [name for name in names if (directory / name).exists()]
    if theirs:
        raise BundleError(f"{directory} is no bundle and has a {theirs[0]} of its own", hint="choose another folder with --out")


def _made_anew(bundle: Bundle) -> BundleError:
    return BundleError(
        f"{bundle.directory} was made anew meanwhile: the graphs that this was made from are not in it any more",
        hint="run the same command again",
    )


def _unwritable(directory: Path, error: OSError) -> BundleError:
    return BundleError(
        f"cannot write the bundle {directory}: {error.strerror or error}", hint="choose a folder that can be written"
    )
