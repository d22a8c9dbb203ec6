"""Check the files that a run will write, before its first pixel: no two results share a file, and none replaces a source."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import ImageError
from ..files import whole as files


@dataclass(frozen=True)
class Claim:
    """A file that a run writes, and what it is: "the result of IN.png", "the comparison of IN.png"."""

    output: Path
    source: Path
    content: str
    in_place: bool = False
    """It may replace its own source."""


def check_claims(claims: Iterable[Claim]) -> None:
    """Compare places, not names: links are followed, and case is folded where the file system folds it.

    Raises:
        ImageError: two outputs are one file, an output is a source of the run, or no file can be written there.
    """
    claims = tuple(claims)
    real_folder = cache(lambda folder: Path(os.path.realpath(folder)))  # once a folder, not once a file
    sources = {_place(claim.source, real_folder(claim.source.parent)): claim.source for claim in claims}
    links: dict[tuple[int, int] | None, Path] = {_identity(source): source for source in sources.values()}
    links.pop(None, None)
    folds_case = cache(_folds_case)
    taken: dict[Path, Claim] = {}
    folded: dict[str, Claim] = {}
    for claim in claims:
        _check_name(claim.output)
        place = _place(claim.output, real_folder(claim.output.parent))
        replaced = sources.get(place) or links.get(_identity(claim.output))
        if replaced is not None and not (claim.in_place and replaced == claim.source):
            by = "its own result" if replaced == claim.source else claim.content
            raise ImageError(f"{replaced} would be replaced by {by}", hint="-o another folder")
        other = taken.setdefault(place, claim)
        if other is claim:
            other = folded.setdefault(unicodedata.normalize("NFC", str(place)).casefold(), claim)
            if other is not claim and not folds_case(claim.output.parent):
                continue
        if other is not claim:
            both = f"{other.content} and {claim.content} would both become {claim.output}"
            raise ImageError(both, hint="run them one by one, with another folder for each")


def _place(path: Path, folder: Path) -> Path:
    return Path(os.path.realpath(path)) if path.is_symlink() else folder / path.name


def _identity(path: Path) -> tuple[int, int] | None:
    """Identify the file, whatever its name is: hard links have the same identity; None where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _check_name(output: Path) -> None:
    try:
        output.lstat()
    except FileNotFoundError:
        return
    except OSError as error:  # the name is too long, or a file is where a folder should be
        raise ImageError(f"cannot write {output}: {error.strerror or error}", hint="-o another name, or another folder") from error
    if output.is_dir():
        raise ImageError(f"cannot write {output}: it is a folder", hint="-o another name, or another folder")


def _folds_case(folder: Path) -> bool:
    try:
        return files.folds_case(folder)
    except OSError as error:
        raise ImageError(f"cannot write to {folder}: {error.strerror or error}", hint="-o another folder") from error
