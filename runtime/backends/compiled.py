"""Keep compiled graphs in a folder for the next start: a kept graph is used only if it is the one that was written.

A file is the SHA-256 of its key and its graph, then the graph as the backend exports it. It is written under a name of its own and
renamed into place, so that the graph and its sum appear at once and whole; it is read into memory and checked before the backend
sees it. A kept graph that is damaged is removed and compiled again. A folder that cannot be used is a warning, and the graph is
compiled as it is without one.

The sum finds damage, not malice: whoever may write to the folder can write both. A folder that is made here is its owner's alone.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..files.regular import read_regular
from ..files.whole import replace_file

_log = logging.getLogger(__name__)
_SUFFIX = ".compiled"
_MOST_BYTES = 1 << 30  # of all graphs in the folder, and of one; a graph of LESRCNN takes 3 MB
_DIGEST = hashlib.sha256().digest_size


class CompiledGraphs:
    """The compiled graphs in one folder, by key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, key: bytes) -> bytes | None:
        """Return the graph of that key as it was written; None where there is none."""
        path = self._path(key)
        try:
            data = read_regular(path, most_bytes=_MOST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            _log.warning("%s cannot be read, and the graph is compiled again: %s", path, error.strerror or error)
            return None
        graph = data[_DIGEST:]
        if data[:_DIGEST] != _sum(key, graph):
            _log.warning("%s is damaged, and the graph is compiled again", path)
            self.remove(key)
            return None
        with suppress(OSError):
            os.utime(path)  # the graphs that were not used for longest are the first to go
        return graph

    def write(self, key: bytes, graph: bytes) -> None:
        """Keep `graph`; where that fails, nothing is left behind and the user is warned."""
        path = self._path(key)
        if len(graph) + _DIGEST > _MOST_BYTES:
            _log.warning("the compiled graph has %d bytes and is not kept: %s keeps %d", len(graph), self._folder, _MOST_BYTES)
            return
        try:
            if not self._folder.is_dir():
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, _sum(key, graph) + graph)
        except OSError as error:
            reason = "it is no folder" if isinstance(error, FileExistsError) else error.strerror or error
            _log.warning("the compiled graph is not kept, %s cannot be written: %s", self._folder, reason)
        else:
            self._clear(path, len(graph) + _DIGEST)

    def remove(self, key: bytes) -> None:
        _unlink(self._path(key))

    def _path(self, key: bytes) -> Path:
        return self._folder / f"{hashlib.sha256(key).hexdigest()}{_SUFFIX}"

    def _clear(self, newest: Path, size: int) -> None:
        """Remove the graphs beyond the limit, those not used for longest first."""
        left = _MOST_BYTES - size
        for path, status in sorted(_files(self._folder, _SUFFIX), key=lambda entry: -entry[1].st_mtime):
            if path != newest:
                left -= status.st_size
                if left < 0:
                    _unlink(path)


def _sum(key: bytes, graph: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(key).digest() + graph).digest()


def _unlink(path: Path) -> None:
    with suppress(OSError):  # another process may have removed it; a folder of that name stays
        path.unlink()


def _files(folder: Path, suffix: str) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.glob(f"*{suffix}"):
        with suppress(OSError):
            yield path, path.lstat()
