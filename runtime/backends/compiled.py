"""Compiled graphs that are kept in a folder for the next start: what is read is what was written, or it is not used.

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
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_log = logging.getLogger(__name__)
_SUFFIX = ".compiled"
_STAGED = ".part"
_MOST_BYTES = 1 << 30  # of all graphs in the folder, and of one; a graph of LESRCNN takes 3 MB
_ABANDONED_S = 3600  # a graph is written in less than a second: what is older was left by a process that was killed
_DIGEST = hashlib.sha256().digest_size


class CompiledGraphs:
    """The compiled graphs in one folder, by key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, key: bytes) -> bytes | None:
        """The graph of that key as it was written; None where there is none."""
        path = self._path(key)
        try:
            data = _read_file(path)
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
        """Keeps `graph`; where that fails, nothing is left behind and the user is warned."""
        path = self._path(key)
        if len(graph) + _DIGEST > _MOST_BYTES:
            _log.warning("the compiled graph has %d bytes and is not kept: %s keeps %d", len(graph), self._folder, _MOST_BYTES)
            return
        try:
            if not self._folder.is_dir():
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, staged = tempfile.mkstemp(dir=self._folder, prefix=".", suffix=_STAGED)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(_sum(key, graph) + graph)
                Path(staged).replace(path)
            except BaseException:  # Ctrl-C too
                with suppress(OSError):
                    Path(staged).unlink()
                raise
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
        """Removes the graphs beyond the limit, those not used for longest first, and what killed processes left."""
        left = _MOST_BYTES - size
        for path, status in sorted(_files(self._folder, _SUFFIX), key=lambda entry: -entry[1].st_mtime):
            if path != newest:
                left -= status.st_size
                if left < 0:
                    _unlink(path)
        for path, status in _files(self._folder, _STAGED):
            if time.time() - status.st_mtime > _ABANDONED_S:
                _unlink(path)


def _sum(key: bytes, graph: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(key).digest() + graph).digest()


def _read_file(path: Path) -> bytes:
    """The bytes of a regular file; OSError where it is a link, a pipe or a device, or larger than any that is kept."""
    # What Windows has not, it needs not: there no pipe has a name in a folder.
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise OSError(f"expected a file of at most {_MOST_BYTES} bytes")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(_MOST_BYTES)
    finally:
        os.close(descriptor)


def _unlink(path: Path) -> None:
    with suppress(OSError):  # another process may have removed it; a folder of that name stays
        path.unlink()


def _files(folder: Path, suffix: str) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.glob(f"*{suffix}"):
        with suppress(OSError):
            yield path, path.lstat()
