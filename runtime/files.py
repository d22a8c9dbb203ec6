"""Files that appear whole or not at all."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Writes `data` beside `path` and renames it into place: a reader, or a kill, sees the old file or the new one.

    Raises:
        OSError: the folder cannot be written; nothing is left behind.
    """
    staged = path.with_name(f".{path.name}.part")
    try:
        staged.write_bytes(data)
        staged.replace(path)
    except BaseException:  # Ctrl-C too
        with suppress(OSError):
            staged.unlink()
        raise
