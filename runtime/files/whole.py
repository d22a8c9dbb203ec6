"""Write files that appear whole or not at all, and leave nothing beside them.

A file is written under a temporary name in its own folder, `.sredge-NUMBER.part`, and renamed into place after its last byte. The
writer holds a lock (flock) on the temporary file, which the system releases when the process ends, however that ends. A temporary
file that no process holds is therefore abandoned, and the next write into the same folder removes it.

Where there are no such locks (Windows, some network file systems), a temporary file is abandoned when nobody wrote to it for a day.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

_GAP = 16  # free numbers in a row that end the search for abandoned files: more writers at a time than that are rare
_ABANDONED_S = 24 * 3600  # longer than any picture takes
_TRIES = 100  # another writer that fails may remove the folder it had made just before ours is created in it
_RENAMES_OPEN_FILES = os.name == "posix"
_FLAGS = os.O_RDWR | getattr(os, "O_BINARY", 0)
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path`, as `staged` does.

    Raises:
        OSError: `path`, which the error names, cannot be written; nothing is left behind.
    """
    try:
        with staged(path) as file:
            file.write(data)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to a file of sredge's own, whole: a link or a FIFO that lies there is replaced and not written to.

    Raises:
        OSError: `path` cannot be written; nothing is left behind.
    """
    with _temporary(path.parent) as (temporary, file):
        file.write(data)
        file.flush()
        if not _RENAMES_OPEN_FILES:
            file.close()
        temporary.replace(path)


@contextmanager
def staged(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that becomes `path` on leaving: a reader, or a kill, sees the old file or the new one.

    Leaving by an exception leaves what was there before. Missing folders are made, and removed again where nothing was written into
    them. A symbolic link is written through. A device or a FIFO has nothing to replace and is written to directly.

    Raises:
        OSError: `path` cannot be written.
    """
    place = Path(os.path.realpath(path))
    if not _is_replaceable(place):
        with path.open("wb") as device:
            yield device
        return
    with _temporary(place.parent) as (temporary, file):
        _is_replaceable(place)  # once more: only now is there a folder for which the name may be too long
        yield file
        file.flush()
        if not _RENAMES_OPEN_FILES:
            file.close()
        temporary.replace(place)


def check_writable(path: Path) -> None:
    """Raise the OSError that writing to `path` would end in; leaves nothing behind."""
    place = Path(os.path.realpath(path))
    if _is_replaceable(place):
        with _temporary(place.parent):
            _is_replaceable(place)


@contextmanager
def no_empty_folders(folders: Iterable[Path]) -> Iterator[None]:
    """On leaving, removes those of `folders` and of the folders above them that were not there before and are empty."""
    missing = {folder for named in set(folders) for folder in (named, *named.parents) if not folder.exists()}
    try:
        yield
    finally:
        for folder in sorted(missing, key=lambda folder: len(folder.parts), reverse=True):
            with suppress(OSError):
                folder.rmdir()


def folds_case(folder: Path) -> bool:
    """Return whether names that differ only in case are one file in `folder`, which need not be there yet.

    Raises:
        OSError: it cannot be written to.
    """
    with _temporary(folder) as (temporary, _):
        return temporary.with_name(temporary.name.upper()).exists()


def _is_replaceable(place: Path) -> bool:
    """Return whether a file may be renamed to `place`; OSError where nothing could be there, such as a name that is too long."""
    try:
        kind = place.lstat().st_mode
    except FileNotFoundError:
        return True
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(place))
    return stat.S_ISREG(kind)


@contextmanager
def _temporary(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new temporary file in `folder`, locked, which goes on leaving unless it was renamed."""
    with no_empty_folders([folder]):
        path, descriptor = _create_in(folder)
        with os.fdopen(descriptor, "wb") as file:
            try:
                yield path, file
            finally:  # before the lock is released: the name may be another writer's afterwards
                with suppress(OSError):
                    if not _RENAMES_OPEN_FILES:
                        file.close()
                    if file.closed or _is_at(descriptor, path):
                        path.unlink()


def _create_in(folder: Path) -> tuple[Path, int]:
    for tries_left in reversed(range(_TRIES)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(folder)
            return _create(folder)
        except (FileNotFoundError, FileExistsError):  # the latter from mkdir, which looks twice
            if not tries_left:
                raise
    raise AssertionError("unreachable")


def _names(folder: Path) -> Iterator[Path]:
    return (folder / f".sredge-{number}.part" for number in itertools.count())


def _create(folder: Path) -> tuple[Path, int]:
    """Return the first free name, and an open descriptor that holds the lock."""
    for path in _names(folder):
        try:
            descriptor = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask, as for any new file
        except FileExistsError:
            continue
        # Between creating and locking it looked abandoned: whoever removes such files may have the lock, or have removed it.
        if _try_lock(descriptor) is not False and _is_at(descriptor, path):
            return path, descriptor
        os.close(descriptor)
    raise AssertionError("unreachable")


def _remove_abandoned(folder: Path) -> None:
    free = 0
    for path in _names(folder):
        try:
            descriptor = os.open(path, _FLAGS | _NO_LINKS)
        except FileNotFoundError:
            free += 1
            if free == _GAP:
                return
            continue
        except OSError:  # a folder, a link, somebody else's
            continue
        free, abandoned = 0, False
        with suppress(OSError):
            locked = _try_lock(descriptor)
            old = time.time() - os.fstat(descriptor).st_mtime > _ABANDONED_S
            abandoned = (old if locked is None else locked) and _is_at(descriptor, path)
            if abandoned and _RENAMES_OPEN_FILES:
                path.unlink()
        os.close(descriptor)
        if abandoned and not _RENAMES_OPEN_FILES:
            with suppress(OSError):  # it is open elsewhere
                path.unlink()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _try_lock(descriptor: int) -> bool | None:
    """Return whether the lock was free and is held by `descriptor` now; None where there are no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
