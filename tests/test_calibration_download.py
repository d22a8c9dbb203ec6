"""Downloads of data sets, from a real HTTP server on this machine."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from calibration import datasets
from calibration.datasets import DATASETS, Dataset, MissingDatasetError, download, find_images
from calibration.pairs import load_low
from runtime.errors import DatasetError
from runtime.images import write_picture

LOW = "DIV2K_train_LR_bicubic/X2/{}x2.png"
WITHOUT_DOWNLOAD = [dataset.name for dataset in DATASETS if not dataset.archives]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name for it
        """Says nothing: the test's output is its own."""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip of two pictures in DIV2K's layout."""
    served = tmp_path / "served"
    served.mkdir()
    with zipfile.ZipFile(served / "tiny.zip", "w") as file:
        for name in ("0001", "0002"):
            picture = tmp_path / "picture.png"
            write_picture(picture, np.full((5, 6, 3), int(name), np.uint8))
            file.write(picture, LOW.format(name))
    return served / "tiny.zip"


@pytest.fixture
def offer(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Serves `archive` as the download, at scale 2, of data set `tiny`, said to have the sha256 given."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = functools.partial(QuietHandler, directory=str(archive.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{archive.name}"

        def announce(sha256: str) -> None:
            monkeypatch.setattr(datasets, "DATASETS", (Dataset("tiny", "Tiny", archives={2: (url, sha256)}),))

        yield announce
        server.shutdown()


def ignore_bytes(done: int, total: int) -> None:
    """Shows no progress."""


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_downloaded_data_set_is_found_in_the_cache(archive: Path, offer: Callable[[str], None]) -> None:
    offer(sha256_of(archive))

    download("tiny", scale=2, on_bytes=ignore_bytes)

    pairs = find_images("tiny", scale=2, use="calibration").pairs
    assert [pair.name for pair in pairs] == ["0001", "0002"]
    assert [int(load_low(pair, scale=2)[0, 0, 0]) for pair in pairs] == [1, 2]


def test_progress_of_a_download_ends_at_the_size_of_the_archive(archive: Path, offer: Callable[[str], None]) -> None:
    offer(sha256_of(archive))
    steps: list[tuple[int, int]] = []

    download("tiny", scale=2, on_bytes=lambda done, total: steps.append((done, total)))

    assert steps[-1] == (archive.stat().st_size, archive.stat().st_size)


def test_a_second_download_needs_no_server(archive: Path, offer: Callable[[str], None]) -> None:
    offer(sha256_of(archive))
    download("tiny", scale=2, on_bytes=ignore_bytes)
    archive.unlink()

    download("tiny", scale=2, on_bytes=ignore_bytes)

    assert len(find_images("tiny", scale=2, use="calibration").pairs) == 2


def test_an_archive_with_the_wrong_sha256_is_refused_and_not_unpacked(archive: Path, offer: Callable[[str], None]) -> None:
    offer("0" * 64)

    with pytest.raises(DatasetError, match="cannot be downloaded") as raised:
        download("tiny", scale=2, on_bytes=ignore_bytes)

    assert "--data" in raised.value.hint
    with pytest.raises(MissingDatasetError):
        find_images("tiny", scale=2, use="calibration")


def test_an_archive_that_is_not_there_is_a_data_set_error(archive: Path, offer: Callable[[str], None]) -> None:
    offer(sha256_of(archive))
    archive.unlink()

    with pytest.raises(DatasetError, match="404"):
        download("tiny", scale=2, on_bytes=ignore_bytes)


def test_half_of_an_archive_unpacked_is_not_taken_for_the_data_set(archive: Path, offer: Callable[[str], None]) -> None:
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as file:
        last = file.infolist()[-1]
    content[last.header_offset + 30 + len(last.filename) + last.compress_size // 2] ^= 0xFF  # unpacking fails there
    archive.write_bytes(content)
    offer(sha256_of(archive))

    with pytest.raises(DatasetError):
        download("tiny", scale=2, on_bytes=ignore_bytes)

    with pytest.raises(MissingDatasetError):
        find_images("tiny", scale=2, use="calibration")


@pytest.mark.parametrize("choice", [*WITHOUT_DOWNLOAD, "samples", "some/folder"])
def test_what_has_no_known_download_says_so(choice: str) -> None:
    with pytest.raises(DatasetError, match="no known download") as raised:
        download(choice, scale=2, on_bytes=ignore_bytes)

    assert "--data" in raised.value.hint
