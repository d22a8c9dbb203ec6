"""Download a data set's archive: a URL and a sha256 in, an unpacked folder out, whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from runtime.errors import DatasetError

OnBytes = Callable[[int, int], None]
"""Called with how many bytes have come, and of how many."""


def fetch_archive(url: str, sha256: str, *, folder: Path, on_bytes: OnBytes, by_hand: str) -> None:
    """Fetch a zip into the folder `archives` beside `folder`, and unpack it into `folder`; `by_hand` is the hint without it.

    Raises:
        DatasetError: it cannot be had, is another file, or is damaged.
    """
    import pooch  # only who asks for a download needs it

    downloader = pooch.HTTPDownloader(progressbar=_ByteCounter(on_bytes))
    try:
        file = Path(pooch.retrieve(url, f"sha256:{sha256}", path=folder.parent / "archives", downloader=downloader))
        with zipfile.ZipFile(file) as archive_file:
            _unpack(archive_file, folder)
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"{url} cannot be downloaded: {error}", hint=by_hand) from error


def _unpack(archive: zipfile.ZipFile, folder: Path) -> None:
    """Unpack beside `folder`, then move what was unpacked into it, whole; zipfile drops absolute and parent paths."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as unpacked:
        archive.extractall(unpacked)
        folder.mkdir(exist_ok=True)
        for entry in Path(unpacked).iterdir():
            if (folder / entry.name).is_dir():
                shutil.rmtree(folder / entry.name)
            entry.replace(folder / entry.name)


class _ByteCounter:
    """What pooch asks of a progress bar: https://www.fatiando.org/pooch/latest/progressbars.html."""

    def __init__(self, on_bytes: OnBytes) -> None:
        self.total = 0
        self._on_bytes = on_bytes
        self._done = 0

    def update(self, count: int) -> None:
        self._done += count
        self._on_bytes(self._done, self.total)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        """Nothing to close."""
