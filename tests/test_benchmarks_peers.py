"""sredge beside other quantizers: a peer is run for real, in a process of its own; one that fails has a row that says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.evaluated import Judged
from benchmarks.peers.attempts import OURS, Attempt, Subject, try_peer
from benchmarks.peers.cli import main
from benchmarks.peers.counted import Counted, run_counted
from benchmarks.peers.interleaved import Timed, ratios
from benchmarks.peers.pictures import crop_pictures, spread, write_calibration
from benchmarks.peers.registry import PEERS, SCRIPTS, Peer, find_rows
from benchmarks.peers.scores import Row, Scored
from benchmarks.peers.table import AHEAD, cells, cost_columns, loss_columns, markdown_table
from calibration.datasets import find_images
from runtime.bundle import Bundle
from runtime.errors import UnknownNameError
from runtime.images import write_picture

JUDGED = Judged(loss_db={"set5": 0.1}, average_db=0.1, ssim_loss=0.001, worst_db=0.2, worst="bird", psnr_vs_fp32_db=50.0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of photographs in high resolution, as smooth as those are: `calib/train` and `evaluate`."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index, name in enumerate(("calib/train/a", "calib/train/b", "calib/train/c", "evaluate/d", "evaluate/e")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (8, 9 + index, 3), dtype=np.uint8)
        write_picture(folder / f"{name}.png", np.kron(coarse, np.ones((8, 8, 1), np.uint8)))
    return folder


@pytest.fixture
def subject(exported_small: Bundle, pictures: Path, tmp_path: Path) -> Subject:
    images = find_images(str(pictures / "calib"), scale=2, use="calibration")
    return Subject(exported_small, write_calibration(images, exported_small.manifest, tmp_path / "calibration"), 60, tmp_path)


def _peer(tmp_path: Path, script: str, *requirements: str) -> Peer:
    (tmp_path / "script.py").write_text(script)
    return Peer("another", "onnxruntime", tmp_path / "script.py", ("plain",), requirements)


def test_a_peer_is_measured_beside_sredge_and_its_row_is_kept(
    exported_small: Bundle, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [str(exported_small.directory), "--calib", str(pictures / "calib"), "--data", str(pictures / "evaluate")]
    typed += ["--peer", "onnxruntime: min-max", "--effort", "fast", "--turns", "3", "--out", str(tmp_path / "out")]
    main([*typed, "--json", str(tmp_path / "first.json")])
    first = json.loads((tmp_path / "first.json").read_text())["rows"]
    assert [row["attempt"]["who"] for row in first] == [OURS, "onnxruntime"]
    for row in first:
        assert row["attempt"]["failure"] == ""
        assert row["scored"]["judged"]["loss_db"].keys() == {"evaluate"}
        assert 25 < row["scored"]["judged"]["psnr_vs_fp32_db"] < 80
        assert row["scored"]["int8_convolutions"] == row["scored"]["convolutions"] == 3
        assert 0.2 < row["attempt"]["counted"]["cpu_seconds"] < 60
        assert 50e6 < row["attempt"]["counted"]["peak_bytes"] < 4e9
        assert row["timed"]["openvino"]["cpu_ms"] > 0
    assert first[0]["timed"]["openvino"]["times_sredge"] == 1
    said = capsys.readouterr()
    assert "onnxruntime min-max" in said.out
    assert said.err == ""
    main([*typed, "--json", str(tmp_path / "second.json"), "--markdown"])
    second = json.loads((tmp_path / "second.json").read_text())["rows"]
    assert [row["attempt"]["kept"] for row in second] == [True, True]
    assert [row["attempt"]["counted"] for row in second] == [row["attempt"]["counted"] for row in first]
    assert [row["scored"] for row in second] == [row["scored"] for row in first]
    assert "| onnxruntime min-max |" in capsys.readouterr().out


def test_a_peer_that_does_not_install_has_a_row_with_the_reason(subject: Subject, tmp_path: Path) -> None:
    attempt = try_peer(subject, _peer(tmp_path, "", "./no-such-package.whl"), "plain")
    assert attempt.graph is None
    assert attempt.failure.startswith("another does not install: ")
    assert "no-such-package.whl" in attempt.failure
    row = Row("small", attempt, "openvino", Scored(None))
    (texts,) = cells([row], [*loss_columns([row]), *cost_columns([row])])
    assert "no-such-package.whl" in texts[0]
    assert {*texts[1:]} == {"–"}


def test_a_peer_that_crashes_has_a_row_with_its_last_line(subject: Subject, tmp_path: Path) -> None:
    attempt = try_peer(subject, _peer(tmp_path, "print('begun')\nraise MemoryError('no room for the histogram')\n"), "plain")
    assert attempt.failure == "ended with exit code 1: MemoryError: no room for the histogram"
    assert attempt.counted is not None
    again = try_peer(subject, _peer(tmp_path, (tmp_path / "script.py").read_text()), "plain")
    assert again == replace(attempt, kept=True)


def test_a_peer_that_makes_nothing_has_a_row_that_says_so(subject: Subject, tmp_path: Path) -> None:
    attempt = try_peer(subject, _peer(tmp_path, "print('nothing to quantize')\n"), "plain")
    assert attempt.failure == "made no graph: nothing to quantize"


def test_a_peer_that_is_not_done_in_time_is_ended_and_tried_again_with_more_time(subject: Subject, tmp_path: Path) -> None:
    slow = _peer(tmp_path, "import sys, time\nfrom pathlib import Path\ntime.sleep(2)\nPath(sys.argv[3], 'int8.onnx').touch()\n")
    attempt = try_peer(replace(subject, limit_s=0.6), slow, "plain")
    assert attempt.failure == "not done in 0.01 minutes"
    assert attempt.counted is not None
    assert attempt.counted.exit_code is None
    assert attempt.counted.wall_seconds < 1.9
    assert try_peer(replace(subject, limit_s=0.5), slow, "plain").kept
    longer = try_peer(subject, slow, "plain")
    assert (longer.kept, longer.failure) == (False, "")
    assert longer.graph is not None
    assert longer.graph.is_file()


def test_a_peer_that_is_ended_from_outside_has_a_row_and_is_tried_again(subject: Subject, tmp_path: Path) -> None:
    peer = _peer(tmp_path, "import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(0.1)\n")
    attempt = try_peer(subject, peer, "plain")
    assert attempt.failure == "was ended from outside (exit code -9)"
    assert not try_peer(subject, peer, "plain").kept


def test_what_a_command_took_is_counted_with_its_children(tmp_path: Path) -> None:
    """Half a second of CPU time and 300 MB, in a process that the command starts."""
    work = "import time; held = b'x' * 300_000_000\nwhile time.process_time() < 0.5: pass"
    command = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"]
    counted = run_counted(command, tmp_path, limit_s=60)
    assert counted.exit_code == 0
    assert 0.5 < counted.cpu_seconds < 2
    assert 300e6 < counted.peak_bytes < 400e6


def test_a_quantizer_ends_with_the_benchmark_that_started_it(tmp_path: Path) -> None:
    """Whatever ends that: the pipe that holds them together is closed by the system then."""
    sleeper = "import os, time; from pathlib import Path; Path('pid').write_text(str(os.getpid())); time.sleep(60)"
    command = [sys.executable, str(SCRIPTS / "measured.py"), "report", "60", sys.executable, "-c", sleeper]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=tmp_path) as process:
        _wait_for(lambda: (tmp_path / "pid").is_file() and bool((tmp_path / "pid").read_text()))
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=10)
    pid = int((tmp_path / "pid").read_text())
    _wait_for(lambda: not _runs(pid))


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.is_file() and status.read_text().rpartition(")")[2].split()[0] == "Z")  # ended, and nobody asked how


def test_a_crop_and_its_truth_are_of_one_place(exported_small: Bundle, pictures: Path) -> None:
    manifest = exported_small.manifest
    images = find_images(str(pictures / "calib"), scale=2, use="calibration")
    enlarged = crop_pictures(images.pairs, manifest)
    assert enlarged["truth"].shape == enlarged["crops"].shape
    arrays = crop_pictures(
        images.pairs, manifest.model_copy(update={"contract": manifest.contract.model_copy(update={"pre_upscale": False})})
    )
    count, channels, height, width = arrays["crops"].shape
    assert (count, channels) == (3, 3)
    assert arrays["truth"].shape == (3, 3, 2 * height, 2 * width)
    shrunk = arrays["truth"].reshape(count, channels, height, 2, width, 2).mean((3, 5))
    assert float(np.abs(shrunk - arrays["crops"]).mean()) < 0.03
    assert float(np.abs(shrunk[..., 1:] - arrays["crops"][..., :-1]).mean()) > 0.03  # a pixel beside it


def test_pictures_are_spread_over_a_set_and_given_to_sredge_as_they_are_laid_out(subject: Subject, pictures: Path) -> None:
    images = find_images(str(pictures / "calib"), scale=2, use="calibration")
    assert [pair.name for pair in spread(images, 2).pairs] == ["a", "b"]
    assert spread(images, None) == spread(images, 9) == images
    again = find_images(str(subject.calibration.folder), scale=2, use="calibration")
    assert [(pair.name, pair.low) for pair in again.pairs] == [(pair.name, pair.low) for pair in images.pairs]
    assert [pair.high and pair.high.resolve() for pair in again.pairs] == [pair.high for pair in images.pairs]


def test_times_are_held_against_the_fastest_fp32_of_every_backend() -> None:
    taken = {"fp32": np.full(3, 8.0), "fp32 on another": np.full(3, 6.0), "ours": np.full(3, 2.0), "theirs": np.full(3, 3.0)}
    found = ratios(taken, ("ours", "theirs"), sredge="ours")
    assert found == {"fp32": Timed(8.0, 0.75, 4.0), "ours": Timed(2.0, 3.0, 1.0), "theirs": Timed(3.0, 2.0, 1.5)}


def test_a_peer_that_is_ahead_is_marked_where_it_is() -> None:
    ours = Row("small", _attempt(OURS, cpu_seconds=10), "openvino", Scored(JUDGED, 3, 3), {"openvino": Timed(5.0, 3.0, 1.0)})
    ahead = replace(JUDGED, loss_db={"set5": 0.05}, psnr_vs_fp32_db=50.04)
    peer = Row("small", _attempt("nncf", cpu_seconds=12), "openvino", Scored(ahead, 3, 3), {"openvino": Timed(4.0, 3.75, 0.8)})
    rows = [ours, peer]
    columns = [*loss_columns(rows), *cost_columns(rows)]
    first, second = (dict(zip([column.head for column in columns], texts[1:], strict=True)) for texts in cells(rows, columns))
    assert not [text for text in first.values() if AHEAD in text]
    assert {head for head, text in second.items() if AHEAD in text} == {"set5 dB", "× fp32"}
    assert second["vs fp32 dB"] == "50.0"  # ahead by less than is printed
    assert f"0.050{AHEAD}" in markdown_table(rows, columns)


def test_a_graph_of_which_nothing_is_in_int8_is_ahead_in_nothing() -> None:
    ours = Row("small", _attempt(OURS, cpu_seconds=10), "openvino", Scored(JUDGED, 3, 3))
    exact = replace(JUDGED, loss_db={"set5": 0.0}, psnr_vs_fp32_db=float("inf"))
    peer = Row("small", _attempt("nncf", cpu_seconds=1), "openvino", Scored(exact, 0, 3))
    shown = markdown_table([ours, peer], [*loss_columns([ours, peer]), *cost_columns([ours, peer])])
    assert AHEAD not in shown
    assert "equal" in shown


def _attempt(who: str, *, cpu_seconds: float) -> Attempt:
    return Attempt(who, "plain", "", Path("int8.onnx"), Counted(0, cpu_seconds, cpu_seconds, 100_000_000, ""))


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_has_its_script_settings_and_pinned_versions(peer: Peer) -> None:
    assert peer.script.is_file()
    assert len({*peer.settings}) == len(peer.settings) > 0
    assert all("==" in requirement for requirement in peer.requirements)
    text = peer.script.read_text(encoding="utf-8")
    assert not [setting for setting in peer.settings if setting not in text]


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_a_script_imports_nothing_of_sredge(script: Path) -> None:
    packages = ("benchmarks", "calibration", "export", "quantize", "runtime")
    lines = [line.split() for line in script.read_text(encoding="utf-8").splitlines() if line.startswith(("import ", "from "))]
    assert not [words for words in lines if words[1].partition(".")[0] in packages]


def test_rows_are_chosen_by_peer_or_one_by_one() -> None:
    assert [setting for _, setting in find_rows(["nncf: min-max", "modelopt"])] == ["min-max", "max", "entropy"]
    assert len(find_rows(None)) == sum(len(peer.settings) for peer in PEERS)
    with pytest.raises(UnknownNameError, match="nncf: accuracy control"):
        find_rows(["nncf: accuracy"])
