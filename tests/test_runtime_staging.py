"""Files appear whole or not at all, and nothing stays beside them, whoever is killed and whatever is full."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from runtime.files.whole import check_writable, no_empty_folders, staged, write_whole
from runtime.images import read_picture, write_picture
from runtime.pictures.encode import open_writer

_PIXELS = np.zeros((4, 4, 3), np.uint8)
_WRITERS: dict[str, Callable[[Path], None]] = {
    "bytes": lambda path: write_whole(path, b"whole"),
    "a picture": lambda path: write_picture(path, _PIXELS),
}
writers = pytest.mark.parametrize("write", _WRITERS.values(), ids=_WRITERS)

_WRITES_FOR_EVER = """
import sys, time
from pathlib import Path
import numpy as np
from runtime.pictures.encode import open_writer
with open_writer(Path(sys.argv[1]), (4, 4, 3), np.dtype(np.uint8)) as writer:
    print("writing", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[Callable[[Path], subprocess.Popen[bytes]]]:
    """Starts processes that are writing a picture to that path, and are not done with it."""
    started: list[subprocess.Popen[bytes]] = []

    def start(path: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _WRITES_FOR_EVER, str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@writers
def test_what_a_killed_writer_left_goes_with_the_next_write_into_its_folder(
    write: Callable[[Path], None], writing: Callable[[Path], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    killed = [writing(tmp_path / name) for name in ("a.png", "b.png", "a.png")]
    assert len(_entries(tmp_path)) == len(killed)
    for process in killed:
        process.kill()
        process.wait()
    assert len(_entries(tmp_path)) == len(killed), "SIGKILL leaves no time to remove anything"
    write(tmp_path / "other.png")
    assert _entries(tmp_path) == ["other.png"]


@writers
def test_what_another_process_is_writing_stays(
    write: Callable[[Path], None], writing: Callable[[Path], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    writing(tmp_path / "a.png")
    (theirs,) = tmp_path.iterdir()
    write(tmp_path / "a.png")
    assert theirs.exists()
    assert len(_entries(tmp_path)) == 2


def test_a_file_that_is_no_temporary_of_ours_stays_whatever_it_is_called(tmp_path: Path) -> None:
    names = [".a.png.part", "a.part", ".sredge-x.part", "a.png.next"]
    for name in names:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".sredge-0.part").mkdir()
    (tmp_path / ".sredge-1.part").symlink_to(tmp_path / "a.part")
    write_whole(tmp_path / "it", b"")
    assert _entries(tmp_path) == sorted([*names, "it", ".sredge-0.part", ".sredge-1.part"])


@pytest.mark.parametrize("processes", [1, 4])
def test_many_writers_of_few_files_in_one_folder_lose_nothing(processes: int, tmp_path: Path) -> None:
    hammer = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from runtime.files.whole import write_whole\n"
        "def write(number):\n"
        "    for turn in range(40):\n"
        "        write_whole(Path(sys.argv[1]) / f'{turn % 3}', (sys.argv[2] * 5000 + str(number)).encode() * 3)\n"
        "threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", hammer, str(tmp_path), str(one)], stderr=subprocess.PIPE, cwd=Path(__file__).parents[1]
        )
        for one in range(processes)
    ]
    assert [process.communicate()[1].decode() for process in started] == [""] * processes
    assert _entries(tmp_path) == ["0", "1", "2"]
    for path in tmp_path.iterdir():
        text = path.read_text()
        third = len(text) // 3
        assert text == text[:third] * 3
        assert third == 5001


@writers
@pytest.mark.parametrize("length", [200, 254, 255])
def test_a_name_may_be_as_long_as_the_folder_takes(write: Callable[[Path], None], length: int, tmp_path: Path) -> None:
    name = "n" * (length - 4) + ".png"
    write(tmp_path / name)
    assert _entries(tmp_path) == [name]


def test_a_name_that_is_too_long_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"), staged(tmp_path / "new" / ("n" * 256)):
        pytest.fail("it began")
    assert not _entries(tmp_path)


@writers
def test_missing_folders_are_made(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "it.png")
    assert _entries(tmp_path / "a" / "b") == ["it.png"]


def test_a_write_that_fails_leaves_no_new_folder_and_what_was_there(tmp_path: Path) -> None:
    write_whole(tmp_path / "old", b"old")

    def fail(path: Path) -> None:
        with staged(path) as file:
            file.write(b"new")
            raise RuntimeError("lost interest")

    for path in (tmp_path / "old", tmp_path / "a" / "b" / "new"):
        with pytest.raises(RuntimeError, match="lost interest"):
            fail(path)
    assert _entries(tmp_path) == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_writers_that_fail_side_by_side_leave_no_new_folder_and_hinder_no_other(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait()
        with suppress(RuntimeError), staged(tmp_path / "a" / "b" / str(number)) as file:
            file.write(b"new")
            if number:
                raise RuntimeError

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            with no_empty_folders([tmp_path / "a" / "b"]):
                list(pool.map(write, range(1, 9)))
            assert not _entries(tmp_path)
        list(pool.map(write, range(8)))
    assert _entries(tmp_path / "a" / "b") == ["0"]


def test_a_check_that_a_file_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "it")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "it", tmp_path / ("n" * 256), tmp_path):
        with pytest.raises(OSError, match=r"Not a directory|File exists|too long|Is a directory"):
            check_writable(path)
    assert _entries(tmp_path) == ["file"]


@writers
def test_a_link_is_written_through(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "real" / "it.png")
    write(tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert _entries(tmp_path / "real") == ["it.png"]


def test_a_fifo_is_written_to_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit((tmp_path / "fifo").read_bytes)
        write_whole(tmp_path / "fifo", b"through")
        assert read.result(timeout=10) == b"through"
    assert (tmp_path / "fifo").is_fifo()


@pytest.fixture
def small_disk() -> Iterator[int]:
    """Files may have that many bytes and no more, as on a full disk: EFBIG where there it is ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield 50_000
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".bmp", ".webp", ".jpg"])
def test_a_full_disk_leaves_nothing_and_the_file_there_was(suffix: str, tmp_path: Path, small_disk: int) -> None:
    path = tmp_path / f"it{suffix}"
    write_picture(path, _PIXELS)
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    for place in (path, tmp_path / "new" / path.name):
        with pytest.raises(Exception, match=os.strerror(errno.EFBIG)), open_writer(place, noise.shape, noise.dtype) as writer:
            writer.write(noise)
    assert _entries(tmp_path) == [path.name]
    assert read_picture(path).shape == (4, 4, 3)
    with pytest.raises(OSError, match="too large") as caught:
        write_whole(tmp_path / "bytes", bytes(small_disk + 1))
    assert caught.value.filename == str(tmp_path / "bytes")
    assert _entries(tmp_path) == [path.name]
