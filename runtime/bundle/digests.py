"""Hash files and source code: what tells two files, or two states of the code, apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

_PIECE_BYTES = 1 << 20


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


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
