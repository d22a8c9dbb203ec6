"""A user's mistakes in the commands that measure: two lines that say what to do, before anything is measured, never a traceback."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loss import GOALS
from quantize.cli import main as quantize
from runtime.bundle import Bundle
from runtime.images import write_picture
from tests.commands import commands

THROUGHPUT, COST, LOSS, PEERS = (
    f"python -m benchmarks.{name}" for name in ("throughput", "calibration_cost", "int8_loss", "peers")
)
ROUNDING, COMPARE = "python -m quantize.weights.shipped_rounding", "python -m benchmarks"
_OTHERS = ("--calib", "sets/BSDS500")
_LOSS = ("--data", "sets", "--weights", "weights", "--calib", "bsds500")
MISTAKES: list[tuple[str, Sequence[str], str]] = [
    (THROUGHPUT, ("bundle", "--data", "no/where"), "there is no such folder"),
    (THROUGHPUT, ("bundle", "--data", "nowhere"), "unknown data set 'nowhere'"),
    (THROUGHPUT, ("bundle", "--data", "set5"), "set5 is not on this machine"),
    (THROUGHPUT, ("bundle", "--data", "sets/Set5/one.png"), "it is a file"),
    (THROUGHPUT, ("bundle", "--data", "empty"), "no picture of"),
    (THROUGHPUT, ("bundle", "--data", "broken"), "broken/torn.png"),
    (THROUGHPUT, ("bundle", "--data", "sets/Set5", "--size", "big"), "expected HEIGHTxWIDTH"),
    (THROUGHPUT, ("bundle", "--data", "sets/Set5", "--memory", "much"), "expected a number of bytes"),
    (THROUGHPUT, ("nothing", "--data", "sets/Set5"), "nothing is not a bundle"),
    (THROUGHPUT, ("--data", "sets/Set5"), "there is no bundle under build/"),
    (THROUGHPUT, ("bundle", "--data", "sets/Set5", "--size", "8x8"), "has no int8 graph"),
    (COST, ("bundle", "--data", "no/where"), "there is no such folder"),
    (COST, ("bundle", "--data", "set14"), "set14 is not on this machine"),
    (COST, ("bundle", "--data", "empty"), "has no pictures"),
    (COST, ("bundle", "--data", "broken"), "broken/torn.png"),
    (COST, ("bundle", "--data", "sets/Set5", "--crop-size", "8"), "expected HEIGHTxWIDTH"),
    (COST, ("nothing",), "nothing is not a bundle"),
    (LOSS, ("--data", "no/where", "--weights", "weights"), "there is no such folder"),
    (LOSS, ("--data", "set5", "--weights", "weights"), "there is no such folder"),
    (LOSS, ("--data", "sets/Set5", "--weights", "weights", "--calib", "bsds500"), "set14 is not on this machine"),
    (LOSS, (*_LOSS, "--calib", "table.json"), "unknown data set 'table.json'"),
    (LOSS, (*_LOSS, "--calib", "div2k"), "div2k is not on this machine"),
    (LOSS, ("--data", "sets", "--calib", "bsds500", "--weights", "no/where"), f"there is no {GOALS[0].weights} in it"),
    (LOSS, (*_LOSS, "--network", "srcnn_x2"), "there is no srcnn_isr_best.pth in it"),
    (LOSS, (*_LOSS, "--network", "lesrcnn"), "unknown network 'lesrcnn'"),
    (LOSS, (*_LOSS, "--network", "lesrcnn_x2", "--target", "tpu"), "unknown target 'tpu'"),
    (LOSS, (*_LOSS, "--network", "lesrcnn_x2", "--backend", "tflite"), "unknown backend 'tflite'"),
    (LOSS, (*_LOSS, "--network", "lesrcnn_x2", "--out", "sets/Set5/one.png"), "cannot write to sets/Set5/one.png"),
    (LOSS, (*_LOSS, "--network", "lesrcnn_x2"), "weights/lesrcnn_x2.pth"),
    (PEERS, ("nothing", *_OTHERS), "nothing is not a bundle"),
    (PEERS, ("bundle",), "bsds500 is not on this machine"),
    (PEERS, ("bundle", "--calib", "empty"), "has no pictures"),
    (PEERS, ("bundle", *_OTHERS, "--data", "no/where"), "there is no such folder"),
    (PEERS, ("bundle", *_OTHERS), "set5 is not on this machine"),
    (PEERS, ("bundle", *_OTHERS, "--data", "sets/Set5"), "sets/BSDS500 has pictures of set5: one"),
    (PEERS, ("bundle", *_OTHERS, "--data", "broken"), "broken/torn.png"),
    (PEERS, ("bundle", *_OTHERS, "--data", "others", "--peer", "tvm"), "unknown peer 'tvm'"),
    (PEERS, ("bundle", *_OTHERS, "--data", "others", "--target", "tpu"), "unknown target 'tpu'"),
    (PEERS, ("bundle", *_OTHERS, "--data", "others", "--backend", "tflite"), "unknown backend 'tflite'"),
    (PEERS, ("bundle", *_OTHERS, "--data", "others", "--out", "sets/Set5/one.png"), "cannot write to sets/Set5/one.png"),
    (PEERS, ("bundle", *_OTHERS, "--data", "others", "--json", "sets/Set5/one.png/at.json"), "cannot write to sets/Set5/one.png"),
    (ROUNDING, ("nothing", "out.safetensors"), "nothing is not a bundle"),
    (ROUNDING, ("bundle", "out.safetensors"), "has no int8 graph"),
    (COMPARE, ("bundle", "--data", "no/where"), "there is no such folder"),
    (COMPARE, ("bundle", "--data", "set5"), "set5 is not on this machine"),
    (COMPARE, ("bundle", "--data", "broken"), "broken/torn.png"),
    (COMPARE, ("nothing",), "nothing is not a bundle"),
]


@pytest.fixture
def place(exported_small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to type in: a bundle, three data sets of one picture, folders with no, a torn and another one, a torn checkpoint."""
    shutil.copytree(exported_small.directory, tmp_path / "bundle")
    picture = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    for name in ("Set5", "Set14", "BSDS500"):
        (tmp_path / "sets" / name).mkdir(parents=True)
        write_picture(tmp_path / "sets" / name / "one.png", picture)
    for name in ("empty", "broken", "weights", "others"):
        (tmp_path / name).mkdir()
    write_picture(tmp_path / "others" / "two.png", 255 - picture)
    (tmp_path / "broken" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    (tmp_path / "weights" / GOALS[0].weights).write_bytes(b"torn")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _main(command: str) -> Callable[[Sequence[str]], None]:
    main: Callable[[Sequence[str]], None] = importlib.import_module(commands()[command].module).main
    return main


@pytest.mark.parametrize(
    ("command", "typed", "said"), MISTAKES, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_a_mistake_is_told_in_two_lines(
    place: Path, capsys: pytest.CaptureFixture[str], command: str, typed: Sequence[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        _main(command)(typed)
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert said in told.err
    lines = told.err.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) <= 2
    assert all(line.startswith(" hint: ") for line in lines[1:])
    assert told.out == ""


@pytest.mark.parametrize("typed", [(), ("bundle",)], ids=str)
def test_words_that_are_missing_are_named(capsys: pytest.CaptureFixture[str], typed: Sequence[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _main(ROUNDING)(typed)
    assert ended.value.code == 2
    assert "Missing argument" in capsys.readouterr().err


def test_rounded_weights_are_not_written_where_there_is_no_folder(
    enlarged_before: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And are, where there is one."""
    bundle = shutil.copytree(enlarged_before.directory, tmp_path / "bundle")
    small = ("--calib", "samples", "--crops", "3", "--crop-size", "24x24", "--effort", "fast")
    quantize([str(bundle), *small, "--without", "kernel-layouts"])
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        _main(ROUNDING)([str(bundle), str(tmp_path / "file" / "where.safetensors")])
    assert ended.value.code == 2
    assert "cannot write" in capsys.readouterr().err
    _main(ROUNDING)([str(bundle), str(tmp_path / "here.safetensors")])
    assert (tmp_path / "here.safetensors").stat().st_size > 1000


def test_rounded_weights_are_not_taken_from_a_graph_that_is_laid_out_for_kernels(
    quantized: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        _main(ROUNDING)([str(quantized.directory), str(tmp_path / "here.safetensors")])
    assert ended.value.code == 2
    assert "--without kernel-layouts" in capsys.readouterr().err
    assert not (tmp_path / "here.safetensors").exists()
