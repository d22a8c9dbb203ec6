"""Write files into a bundle's folder of reports."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import UserError
from runtime.files.whole import write_whole


def write_report(file: Path, data: bytes) -> None:
    """Write a file of the bundle's reports; UserError where that cannot be."""
    try:
        write_whole(file, data)
    except OSError as error:
        raise unwritable(file, error) from error


def unwritable(file: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {file}: {error.strerror or error}", hint="copy the bundle, and name the copy")
