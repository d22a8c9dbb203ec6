"""Pack several files into one and unpack them: a ZIP of stored entries with plain names, never larger in memory than on disk.

The same files give the same bytes.
"""

from __future__ import annotations

import os
import re
import struct
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from ..errors import PROGRAM, BundleError
from ..files.regular import open_regular

_MOST_FILES = 256
_MOST_BYTES = 2 << 30
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
# What a ZIP ends with: signature, two disk numbers, entries here and in all, the directory's size and offset, a comment's size.
_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\5\6"
_MOST_ENTRY_BYTES = 1 << 10  # of the directory: a name, 46 bytes, and what other writers of ZIP files add
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date a ZIP can have: no moment of packing is told


def pack_files(files: Mapping[str, bytes]) -> bytes:
    """Return the archive of `files`, in the order of their names."""
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as zipped:
        for name in sorted(files):
            assert _PLAIN_NAME.fullmatch(name)
            zipped.writestr(zipfile.ZipInfo(name, _EPOCH), files[name])
    return archive.getvalue()


def unpack_files(path: Path) -> dict[str, bytes]:
    """Return what is in the archive `path`, by name; nothing is written to disk.

    Raises:
        BundleError: it cannot be read, is no archive of ours, or has entries that are compressed, encrypted, or oddly named.
    """
    try:
        with open_regular(path, most_bytes=_MOST_BYTES, follow_links=True) as file:
            _check_end(file, path)
            with zipfile.ZipFile(file) as zipped:
                entries = zipped.infolist()
                _check_entries(entries, path)
                return {entry.filename: zipped.read(entry) for entry in entries}
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error
    # What zipfile raises for damaged archives.
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, MemoryError) as error:
        raise BundleError(f"{path} is not a packed bundle: {error}", hint=f"{PROGRAM} pack BUNDLE -o FILE makes one") from error


def _check_end(file: BinaryIO, path: Path) -> None:
    """Refuse a directory of too many entries before zipfile makes an object of each."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _END.size, 0))
    last = file.read(_END.size)
    if len(last) < _END.size or not last.startswith(_END_SIGNATURE):
        raise zipfile.BadZipFile("it does not end as a ZIP without a comment does")
    *_, count, directory_bytes, _, _ = _END.unpack(last)
    if count > _MOST_FILES or directory_bytes > _MOST_FILES * _MOST_ENTRY_BYTES:
        raise BundleError(f"{path} has {count} entries, too many; a packed bundle has {_MOST_FILES} at most")


def _check_entries(entries: list[zipfile.ZipInfo], path: Path) -> None:
    names = [entry.filename for entry in entries]
    odd = [name for name in names if not _PLAIN_NAME.fullmatch(name)]
    if odd or len(set(names)) != len(names) or len(names) > _MOST_FILES:
        what = f"an entry named {odd[0]!r}" if odd else "entries of one name, or too many"
        raise BundleError(f"{path} has {what}; a packed bundle has plain names, each once")
    stored = all(entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise BundleError(f"{path} has compressed or overlapping entries; a packed bundle stores each as it is")
