"""Change files so that neither a reader nor a kill leaves half of the change visible.

A writer stages each part beside the one it replaces, as `model.int8-cpu.HASH.onnx.next` with the first digits of its sha256, and
the write takes effect at one rename, that of `manifest.json`. Killed before it, the old bundle is whole; killed after it, readers
find the parts where they were staged, and the next writer finishes the renames. A staged name says what is in the file, so that
no rename can put another writer's bytes in place.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from ..errors import BundleError
from ..files.regular import read_regular
from .digests import sha256_bytes
from .manifest import MANIFEST, Part

STAGED = ".next"
MOST_PART_BYTES = 512 << 20
"""The largest graph or table: several times the largest super-resolution network in fp32."""
_DIGITS = 16
_STAGED_NAME = re.compile(rf".+\.[0-9a-f]{{{_DIGITS}}}(\.[A-Za-z0-9_-]*)?\{STAGED}")


class ChangedPartError(BundleError):
    """A part's file is there, with other bytes than the manifest says."""


def staged_path(directory: Path, part: Part) -> Path:
    """Return where a write puts `part` before it takes effect."""
    name = Path(part.file)
    return directory / f"{name.stem}.{part.sha256[:_DIGITS]}{name.suffix}{STAGED}"


def read_part(directory: Path, part: Part) -> bytes:
    """Return the bytes of `part`, verified, from its own name or from where a write staged them.

    Raises:
        OSError: it cannot be read, is no regular file, or is too large.
        ChangedPartError: its sha256 differs.
    """
    own = directory / part.file
    for path in (own, staged_path(directory, part), own):  # again, since a writer may rename it meanwhile
        with suppress(FileNotFoundError):
            data = read_regular(path, most_bytes=MOST_PART_BYTES)
            if sha256_bytes(data) == part.sha256:
                return data
    if not own.exists():
        raise FileNotFoundError(2, "No such file or directory", str(own))
    raise ChangedPartError(f"{own} is not the file the manifest describes (sha256 differs)")


def find_part(directory: Path, part: Part) -> Path:
    """Return where `part` is: under its own name, unless a killed write owes it the rename from where it staged it."""
    own, staged = directory / part.file, staged_path(directory, part)
    if staged.exists():
        with suppress(OSError):
            if not own.exists() or sha256_bytes(read_regular(own, most_bytes=MOST_PART_BYTES)) != part.sha256:
                return staged
    return own


def settle(directory: Path, part: Part) -> None:
    """Does the rename that a write still owes `part`; for the holder of the lock."""
    staged = staged_path(directory, part)
    with suppress(FileNotFoundError):
        if sha256_bytes(read_regular(staged, most_bytes=MOST_PART_BYTES)) == part.sha256:
            staged.replace(directory / part.file)


def sweep(directory: Path) -> None:
    """Remove what writes that never took effect have staged; for the holder of the lock, when no rename is owed."""
    ours = [path for path in directory.glob(f"*{STAGED}") if _STAGED_NAME.fullmatch(path.name)]
    earlier = (*directory.glob(f"model.*.onnx{STAGED}"), directory / f"calibration.json{STAGED}")  # as sredge named them before
    for path in {*ours, *earlier, directory / (MANIFEST + STAGED)}:
        path.unlink(missing_ok=True)


def write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
