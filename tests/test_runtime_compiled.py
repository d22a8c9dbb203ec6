"""The cache of compiled graphs: what is damaged, foreign or in the way costs a compilation and a warning, and never a pixel."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from runtime.backends import BACKENDS, compiled
from runtime.backends.compiled import CompiledGraphs
from runtime.bundle import Bundle
from runtime.images import Picture, read_picture, write_picture
from runtime.upscaler import Upscaler
from tests.stand_ins.libraries import ROOT

_DIGEST = 32  # bytes of the sum that a file begins with
_OPENING = [entry.name for entry in BACKENDS if entry.opens_graphs]


def _pixels(bundle: Bundle, cache: Path | None, picture: Picture, *, threads: int = 1, parallel: int = 1) -> Picture:
    with Upscaler.open(bundle, precision="fp32", backend="openvino", cache=cache, threads=threads, parallel=parallel) as upscaler:
        return upscaler(picture)


@pytest.fixture(scope="module")
def kept(exported_small: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that a start left; not to be written to."""
    folder = tmp_path_factory.mktemp("kept")
    _pixels(exported_small, folder, np.zeros((8, 8, 3), np.uint8))
    (file,) = folder.glob("*.compiled")
    return file


def _with_its_sum(name: str, graph: bytes) -> bytes:
    """As whoever may write to the folder can write it."""
    return hashlib.sha256(bytes.fromhex(Path(name).stem) + graph).digest() + graph


def test_no_flipped_bit_of_any_byte_is_read(tmp_path: Path) -> None:
    graph, store = bytes(range(256)), CompiledGraphs(tmp_path)
    store.write(b"key", graph)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            file.write_bytes(damaged)
            assert store.read(b"key") is None
            assert not file.exists()
    file.write_bytes(whole)
    assert store.read(b"key") == graph


def test_pixels_are_the_same_whichever_byte_of_a_kept_graph_is_damaged(
    exported_small: Bundle, kept: Path, tmp_path: Path, picture: Picture, caplog: pytest.LogCaptureFixture
) -> None:
    expected, whole = _pixels(exported_small, None, picture), kept.read_bytes()
    file = tmp_path / kept.name
    for place in {0, _DIGEST - 1, _DIGEST, len(whole) - 1, *range(0, len(whole), len(whole) // 40)}:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        caplog.clear()
        assert np.array_equal(_pixels(exported_small, tmp_path, picture), expected), place
        assert [record.levelname for record in caplog.records] == ["WARNING"], place
        assert "is damaged, and the graph is compiled again" in caplog.text
        assert file.read_bytes()[:_DIGEST] == _with_its_sum(file.name, file.read_bytes()[_DIGEST:])[:_DIGEST]


IN_THE_WAY: dict[str, Callable[[Path, Path], object]] = {
    "nothing": lambda file, _: file.touch(),
    "half of it": lambda file, kept: file.write_bytes(kept.read_bytes()[:5000]),
    "more than it": lambda file, kept: file.write_bytes(kept.read_bytes() + b"\0"),
    "no graph": lambda file, _: file.write_bytes(_with_its_sum(file.name, b"<xml>")),
    "the sum of another key": lambda file, kept: file.write_bytes(_with_its_sum("ab" * 32, kept.read_bytes()[_DIGEST:])),
    "a link": lambda file, kept: file.symlink_to(kept),
    "a dead link": lambda file, _: file.symlink_to("nowhere"),
    "a pipe": lambda file, _: os.mkfifo(file),
    "a folder": lambda file, _: file.mkdir(),
}


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_what_lies_in_the_place_of_a_kept_graph_is_not_used(
    exported_small: Bundle, kept: Path, tmp_path: Path, picture: Picture, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    file, before = tmp_path / kept.name, kept.read_bytes()
    IN_THE_WAY[kind](file, kept)
    assert np.array_equal(_pixels(exported_small, tmp_path, picture), _pixels(exported_small, None, picture))
    assert "compiled again" in caplog.text or "not kept" in caplog.text
    assert kept.read_bytes() == before
    if kind != "a folder":
        caplog.clear()
        _pixels(exported_small, tmp_path, picture)
        assert caplog.text == ""  # it was made again
        assert file.is_file()
        assert not file.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {file.name, "verified"}  # the latter of value checks


def test_the_next_start_reads_the_graph_that_is_kept(exported_small: Bundle, kept: Path, tmp_path: Path, picture: Picture) -> None:
    expected = _pixels(exported_small, tmp_path, picture)
    file = tmp_path / kept.name
    made = file.stat().st_ino
    assert np.array_equal(_pixels(exported_small, tmp_path, picture), expected)
    assert file.stat().st_ino == made  # and does not compile it again
    with Upscaler.open(exported_small, precision="fp32", backend="openvino", threads=1, cache=tmp_path) as upscaler:
        from_cache = upscaler.precision_report
    with Upscaler.open(exported_small, precision="fp32", backend="openvino", threads=1) as upscaler:
        assert (from_cache.verified, from_cache.mac_share) == (True, upscaler.precision_report.mac_share)


def test_a_graph_is_kept_for_each_setting_and_processor(exported_small: Bundle, tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    for count, (threads, parallel) in enumerate(((1, 1), (2, 1), (1, 2)), start=1):
        for _ in range(2):
            _pixels(exported_small, tmp_path, picture, threads=threads, parallel=parallel)
            assert len(list(tmp_path.glob("*.compiled"))) == count
    _child(OPEN, exported_small.directory, tmp_path, ONEDNN_MAX_CPU_ISA="AVX2")  # as on a processor that has no more
    assert len(list(tmp_path.glob("*.compiled"))) == 4


def test_the_folder_is_bounded_and_loses_what_was_not_used_for_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_MOST_BYTES", 10_000)
    store = CompiledGraphs(tmp_path / "new" / "folder")
    for number in range(8):
        store.write(b"%d" % number, b"x" * 3000)
        for age, path in enumerate(sorted((tmp_path / "new" / "folder").iterdir(), key=lambda path: -path.stat().st_mtime)):
            os.utime(path, (time.time() - 60 * (age + 1),) * 2)
        assert store.read(b"0") is not None  # used last, however old
    assert {number for number in range(8) if store.read(b"%d" % number) is not None} == {0, 6, 7}
    store.write(b"large", b"x" * 10_000)
    assert store.read(b"large") is None
    assert (tmp_path / "new" / "folder").stat().st_mode & 0o777 == 0o700


# A child, since a limit is the process's: no file of it may be larger than 1 kB, which is how a full disk looks to it.
FULL = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
OPEN = """
import sys, numpy as np
from runtime import Upscaler
with Upscaler.open(sys.argv[1], precision='fp32', backend='openvino', threads=1, cache=sys.argv[2]) as upscaler:
    print(upscaler(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).tobytes().hex())
"""


def _child(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", ["full", "a file", "below a file", "no place"])
def test_a_folder_that_cannot_be_written_is_a_warning(exported_small: Bundle, tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("mine")
    places = {"full": "full", "a file": "file", "below a file": "file/cache", "no place": "/proc/none/cache"}
    cache = tmp_path / places[kind]
    done = _child((FULL if kind == "full" else "") + OPEN, exported_small.directory, cache)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"the compiled graph is not kept, {cache} cannot be written: "), done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == _child(OPEN, exported_small.directory, tmp_path / "good").stdout
    assert (tmp_path / "file").read_text() == "mine"
    assert not cache.is_dir() or {path.name for path in cache.iterdir()} <= {"verified"}


def test_processes_that_share_a_new_folder_give_the_same_pixels(exported_small: Bundle, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: _child(OPEN, exported_small.directory, tmp_path / "cache"), range(8)))
    assert [(run.returncode, run.stderr) for run in runs] == [(0, "")] * 8
    assert len({run.stdout for run in runs}) == 1
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == ["", ".compiled"]  # the folder of value checks


@pytest.mark.parametrize("backend", _OPENING)
def test_every_backend_takes_a_cache(exported_small: Bundle, tmp_path: Path, picture: Picture, backend: str) -> None:
    write_picture(tmp_path / "in.png", picture)
    for name in ("first.png", "second.png"):
        options = ("--bundle", str(exported_small.directory), "--backend", backend, "--cache", str(tmp_path / "cache"))
        command = ("-m", "runtime", "upscale", str(tmp_path / "in.png"), "-o", str(tmp_path / name), *options)
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, cwd=ROOT)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert np.array_equal(read_picture(tmp_path / "first.png"), read_picture(tmp_path / "second.png"))
