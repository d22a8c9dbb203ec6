"""Remember the pixel hashes of picture files: path, size and time of a file in, the hashes of the pixels that it had then out.

An unchanged calibration is answered without decoding a picture. The record lies in the user's cache folder, holds nothing that a
bundle depends on, and may be deleted. A file counts as unchanged while its path, size, inode and time of change are the same, as
`make` and git have it; a file that changed in the seconds before it was read is not remembered, because a second change might leave
no trace in its time. A record that cannot be read or written is done without: pictures are then decoded again.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

import cv2
import PIL
import platformdirs

_SETTLED_NS = 2_000_000_000  # the coarsest clock of a file system in use: FAT's
_MOST = 200_000  # files that are remembered; some 40 MB
_DECODERS = f"cv2 {cv2.__version__}, Pillow {PIL.__version__}"


class Files(Protocol):
    """The files of a pair of pictures (`pairs.Pair`)."""

    @property
    def high(self) -> Path | None: ...

    @property
    def low(self) -> Path | None: ...


def known_hashes(pair: Files, *, scale: float) -> tuple[str, str | None] | None:
    """Return (low, high) sha256 of the pixels of `pair`, where its files were read before and are unchanged; else None."""
    key = _key(pair, scale=scale)
    if key is None:
        return None
    try:
        with _record() as record:
            found = record.execute("SELECT low, high FROM pictures WHERE key = ?", (key,)).fetchone()
    except (sqlite3.Error, OSError):
        return None
    return None if found is None else (str(found[0]), None if found[1] is None else str(found[1]))


def note_hashes(pair: Files, low: str, high: str | None, *, scale: float) -> None:
    """Remember what the pixels of `pair` hash to, unless its files changed just now."""
    key = _key(pair, scale=scale, settled=True)
    if key is None:
        return
    try:
        with _record() as record:
            record.execute("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?)", (key, low, high))
            record.execute("DELETE FROM pictures WHERE rowid <= (SELECT max(rowid) FROM pictures) - ?", (_MOST,))
    except (sqlite3.Error, OSError):
        return


def _key(pair: Files, *, scale: float, settled: bool = False) -> str | None:
    """Return what the hashes depend on: both files' states, the decoders, and the scale where the low picture is made."""
    states: list[object] = []
    for path in (pair.low, pair.high):
        if path is None:
            states.append(None)
            continue
        try:
            status = path.stat()
        except OSError:
            return None
        if settled and time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < _SETTLED_NS:
            return None
        states.append([str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev])
    return json.dumps([*states, _DECODERS, scale if pair.low is None else None])


@contextmanager
def _record() -> Iterator[sqlite3.Connection]:
    """Open the record, made anew where it is damaged; what is written is kept when the block ends without an error."""
    folder = platformdirs.user_cache_path("sredge")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pictures.sqlite"
    try:
        connection = _open(file)
    except sqlite3.DatabaseError:
        file.unlink(missing_ok=True)
        connection = _open(file)
    with closing(connection), connection:
        yield connection


def _open(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=5)
    try:
        connection.execute("CREATE TABLE IF NOT EXISTS pictures (key TEXT PRIMARY KEY, low TEXT NOT NULL, high TEXT)")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
