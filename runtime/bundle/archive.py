"""Several files in one: a ZIP of stored entries with plain names, so that it is never larger in memory than on disk.

The same files give the same bytes.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from runtime.errors import BundleError

_MOST_FILES = 256
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date a ZIP can have: no moment of packing is told


def pack_files(files: Mapping[str, bytes]) -> bytes:
    """The archive of `files`, in the order of their names."""
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as zipped:
        for name in sorted(files):
            assert _PLAIN_NAME.fullmatch(name)
            zipped.writestr(zipfile.ZipInfo(name, _EPOCH), files[name])
    return archive.getvalue()


def unpack_files(path: Path) -> dict[str, bytes]:
    """What is in the archive `path`, by name; nothing is written to disk.

    Raises:
        BundleError: it cannot be read, is no archive of ours, or has entries that are compressed, encrypted, or oddly named.
    """
    try:
        with zipfile.ZipFile(path) as zipped:
            entries = zipped.infolist()
            _check_entries(entries, path)
            return {entry.filename: zipped.read(entry) for entry in entries}
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error
    # What zipfile raises for damaged archives.
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, MemoryError) as error:
        raise BundleError(
            f"{path} is not a packed bundle: {error}", hint="python -m runtime pack BUNDLE -o FILE makes one"
        ) from error


def _check_entries(entries: list[zipfile.ZipInfo], path: Path) -> None:
    names = [entry.filename for entry in entries]
    odd = [name for name in names if not _PLAIN_NAME.fullmatch(name)]
    if odd or len(set(names)) != len(names) or len(names) > _MOST_FILES:
        what = f"an entry named {odd[0]!r}" if odd else "entries of one name, or too many"
        raise BundleError(f"{path} has {what}; a packed bundle has plain names, each once")
    stored = all(entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise BundleError(f"{path} has compressed or overlapping entries; a packed bundle stores each as it is")
