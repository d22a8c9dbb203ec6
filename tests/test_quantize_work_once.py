"""Work is done once: a picture is decoded once, the fp32 graph parsed once, and nothing is decoded to say "up to date"."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import calibration.pairs
from calibration.crops import read_crops
from calibration.known_pictures import known_hashes
from calibration.pairs import ImageSet, Pair, hash_pair, read_pair
from quantize.cli import main as quantize
from runtime.bundle import Bundle, Contract
from runtime.images import Picture, read_picture, write_picture

LONG_AGO_S = 60  # a file that changed within the last seconds is not remembered


@pytest.fixture
def folder(picture: Picture, tmp_path: Path) -> Path:
    """Three pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3):
        write_picture(folder / f"{index}.png", np.roll(picture, index, axis=0))
    return folder


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each picture file is decoded."""
    counted: Counter[str] = Counter()

    def count(path: Path) -> Picture:
        counted[path.name] += 1
        return read_picture(path)

    monkeypatch.setattr(calibration.pairs, "read_picture", count)
    return counted


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch, exported: Bundle) -> list[int]:
    """A mark for every time that the bytes of the fp32 graph are parsed."""
    marks: list[int] = []
    fp32, parse = exported.read(exported.variant("fp32")), onnx.load_model_from_string

    def count(data: bytes) -> onnx.ModelProto:
        if data == fp32:
            marks.append(1)
        return parse(data)

    monkeypatch.setattr(onnx, "load_model_from_string", count)
    return marks


@pytest.fixture
def bundle(exported: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.directory, tmp_path / "bundle"))


@pytest.fixture(autouse=True)
def _later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock say that the pictures have not changed for a while."""
    now = time.time_ns
    monkeypatch.setattr("calibration.known_pictures.time.time_ns", lambda: now() + LONG_AGO_S * 1_000_000_000)


def _quantize(bundle: Path, folder: Path, *more: str) -> None:
    quantize([str(bundle), "--calib", str(folder), "--effort", "fast", "--crops", "4", *more])


def test_a_run_decodes_each_picture_once_and_parses_the_graph_once(
    bundle: Path, folder: Path, decoded: Counter[str], parsed: list[int]
) -> None:
    _quantize(bundle, folder)

    assert decoded == {"0.png": 1, "1.png": 1, "2.png": 1}
    assert len(parsed) == 1


def test_a_second_run_is_up_to_date_without_decoding_a_picture(
    bundle: Path, folder: Path, decoded: Counter[str], parsed: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    _quantize(bundle, folder)
    decoded.clear()
    parsed.clear()
    capsys.readouterr()

    _quantize(bundle, folder)

    assert "up to date" in capsys.readouterr().out
    assert decoded == {}
    assert len(parsed) == 1


def test_another_target_decodes_each_picture_once_more_for_its_crops(bundle: Path, folder: Path, decoded: Counter[str]) -> None:
    _quantize(bundle, folder)
    decoded.clear()

    _quantize(bundle, folder, "--target", "openvino")

    assert decoded == {"0.png": 1, "1.png": 1, "2.png": 1}


@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_no_session_of_a_run_spins(bundle: Path, folder: Path, effort: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spins: list[str] = []

    class Counted(ort.InferenceSession):  # type: ignore[misc] # onnxruntime has no types
        def __init__(self, graph: bytes, options: ort.SessionOptions, **more: object) -> None:
            spins.append(options.get_session_config_entry("session.intra_op.allow_spinning"))
            super().__init__(graph, options, **more)

    monkeypatch.setattr(ort, "InferenceSession", Counted)
    quantize([str(bundle), "--calib", str(folder), "--effort", effort, "--crops", "4"])

    assert len(spins) > 3
    assert set(spins) == {"0"}


@pytest.mark.parametrize("change", ["content", "name", "new", "gone"])
def test_a_change_of_pictures_is_noticed(
    bundle: Path, folder: Path, picture: Picture, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _quantize(bundle, folder)
    capsys.readouterr()

    if change == "content":
        write_picture(folder / "0.png", np.flip(picture, axis=1).copy())
    elif change == "name":
        (folder / "0.png").rename(folder / "9.png")
    elif change == "new":
        write_picture(folder / "3.png", picture)
    else:
        (folder / "2.png").unlink()
    _quantize(bundle, folder)

    assert "up to date" not in capsys.readouterr().out


def test_a_file_of_the_same_size_and_time_but_other_content_is_noticed_by_its_inode(folder: Path, picture: Picture) -> None:
    first = folder / "0.bmp"
    write_picture(first, picture)
    before = hash_pair(Pair("0", None, first), scale=2)
    status = first.stat()
    write_picture(first, 255 - picture)
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert (first.stat().st_size, first.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert hash_pair(Pair("0", None, first), scale=2) != before


def test_a_file_that_changed_just_now_is_not_remembered(folder: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    fresh = Pair("fresh", None, folder / "fresh.png")
    write_picture(folder / "fresh.png", picture)
    hash_pair(fresh, scale=2)

    assert known_hashes(fresh, scale=2) is None


@pytest.mark.parametrize("damage", ["overwritten", "folder", "unwritable"])
def test_a_record_that_cannot_be_used_is_done_without(folder: Path, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache" / "sredge"
    pair = Pair("0", None, folder / "0.png")
    expected = read_pair(pair, scale=2).hashes()
    hash_pair(pair, scale=2)
    record = cache / "pictures.sqlite"
    if damage == "overwritten":
        record.write_bytes(b"no database at all" * 1000)
    else:
        record.unlink()
        record.mkdir() if damage == "folder" else shutil.rmtree(cache)
        if damage == "unwritable":
            cache.write_text("a file where the folder should be")

    assert hash_pair(pair, scale=2) == expected
    assert known_hashes(pair, scale=2) in ((expected.low, None), None)


def test_a_made_low_picture_is_remembered_for_its_scale_alone(folder: Path) -> None:
    pair = Pair("0", folder / "0.png", None)
    at_two = hash_pair(pair, scale=2)

    assert known_hashes(pair, scale=2) == (at_two.low, at_two.high)
    assert known_hashes(pair, scale=3) is None
    assert hash_pair(pair, scale=3).low != at_two.low


def test_crops_are_the_same_whether_or_not_the_pictures_were_known(folder: Path) -> None:
    images = ImageSet("mine", tuple(Pair(path.stem, None, path) for path in sorted(folder.iterdir())))
    reads = [read_crops(images, scale=2, contract=Contract(), crops=5, crop_size=(24, 24), seed=1) for _ in range(2)]

    (source, crops), (again, later) = reads
    assert source == again
    assert len(crops) == len(later) == 5
    assert all(np.array_equal(one, other) for one, other in zip(crops, later, strict=True))


def test_quantize_imports_torch_only_where_it_learns() -> None:
    code = "import sys, quantize.cli; sys.exit(', '.join({'torch', 'matplotlib', 'scipy'} & sys.modules.keys()) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
