"""Let one writer at a time into a folder; readers take no lock and never wait.

The operating system holds the lock on the file `.sredge.lock` in that folder and releases it when its holder ends, however it ends.
The file goes with the lock: whoever waited on the removed file notices and begins anew. Where a file system has no locks, the
filelock library falls back to the file's existence, with the holder's process in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from ..errors import UserError
from .whole import no_empty_folders

LOCK = ".sredge.lock"
_PATIENCE_S = 120  # a writer takes milliseconds, on a slow network folder seconds


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make `folder` and hold its lock; remove a folder again in which nothing was written.

    Raises:
        OSError: the folder cannot be written.
        UserError: another process has held the lock for minutes.
    """
    file = folder / LOCK
    lock = FileLock(file, timeout=_PATIENCE_S)
    with no_empty_folders([folder]):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(
                f"another process has been writing in {folder} for {_PATIENCE_S} s",
                hint="end it, or wait, and run this again",
            ) from error
        try:
            yield
        finally:
            try:
                if not isinstance(lock, SoftFileLock):
                    with suppress(OSError):  # Windows removes it on release instead
                        file.unlink()
            finally:
                lock.release()
