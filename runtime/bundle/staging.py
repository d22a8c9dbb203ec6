"""How files change under a reader or a kill without either seeing half of it.

A write is staged beside the files it replaces (`NAME.next`) and takes effect at one rename, that of `manifest.json`. Killed
before it, the old bundle is whole; killed after it, whoever opens or writes the bundle next finishes the remaining renames.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from runtime.bundle.digests import sha256_file
from runtime.bundle.manifest import Part

STAGED = ".next"


def settle(directory: Path, part: Part) -> None:
    """Does the rename that a write still owes `part`; a reader and the writer may both try, and one finds it done."""
    staged = directory / (part.file + STAGED)
    with suppress(FileNotFoundError):
        if sha256_file(staged) == part.sha256:
            staged.replace(directory / part.file)


def write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
