"""The benchmark on engines, over the stand-ins of test_engine_stage, and what is told of the GPU meanwhile."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu import read_gpu_state
from runtime.bundle import Bundle
from runtime.images import write_picture
from tests.stand_ins.commands import built, run_python


def test_the_benchmark_compares_the_precisions_on_the_engines(for_tensorrt: Bundle, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(for_tensorrt.directory, tmp_path / "bundle"))
    for precision in ("fp32", "fp16", "int8"):
        built(bundle, "--precision", precision, "--max", "128x128")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(2):
        write_picture(pictures / f"{index}.png", np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    out = tmp_path / "report"
    command = ("benchmarks", str(bundle), "--backend", "tensorrt", "--data", str(pictures), "--runs", "2", "--out", str(out))
    smi = _program(tmp_path, "nvidia-smi", "Stand-In GPU, 580.1, P0, 1980 MHz, 2619 MHz, 1980 MHz, 112.40 W, [N/A], 41, 0x0")
    done = run_python("-m", *command, PATH=f"{smi}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / "result.json").read_text())["rows"]
    assert [(row["precision"], row["backend"], row["precision_verified"]) for row in rows] == [
        ("fp32", "tensorrt", True),
        ("fp16", "tensorrt", True),
        ("int8", "tensorrt", True),
    ]
    assert rows[2]["target"] == "tensorrt"
    for row in rows:
        timed = row["device_latency"]
        assert 0 < timed["network_p50_ms"] <= timed["with_copies_p50_ms"]
        assert timed["n"] == 2
        assert timed["after"] == timed["before"]
        assert [timed["before"][field] for field in ("pstate", "clocks.sm", "clocks.mem")] == ["P0", "1980 MHz", "2619 MHz"]
        assert timed["before"]["power.draw"] == "112.40 W"
        assert "power.limit" not in timed["before"]
    asked = (smi / "asked").read_text().splitlines()
    assert len(asked) == 2 * len(rows)  # before and after, of each
    assert all(line.startswith("--query-gpu=") for line in asked), "clocks are read, never set"
    assert "CUDA events: network alone" in done.stdout
    assert "GPU before: name Stand-In GPU" in (out / "report.md").read_text()


def test_without_a_gpu_no_state_of_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(_program(tmp_path, "nvidia-smi", "NVIDIA-SMI has failed")))
    assert "clocks.sm" not in read_gpu_state()
    monkeypatch.setenv("PATH", str(_program(tmp_path, "nvpmodel", "NV Power Mode: MAXN\n0")))
    assert read_gpu_state()["power mode"] == "MAXN 0"


def test_a_jetson_tells_its_power_mode_and_clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "17000000.gpu").mkdir()
    (tmp_path / "17000000.gpu" / "cur_freq").write_text("1300500000\n")
    (tmp_path / "emc").mkdir()
    (tmp_path / "emc" / "cur_freq").write_text("3199000000\n")
    monkeypatch.setattr("benchmarks.gpu._JETSON_CLOCKS", tmp_path)
    folder = _program(tmp_path, "nvpmodel", "NV Power Mode: 30W\n2")
    monkeypatch.setenv("PATH", str(folder))
    assert read_gpu_state() == {"power mode": "30W 2", "17000000.gpu clock": "1300 MHz"}
    assert (folder / "asked").read_text() == "-q\n"


def _program(folder: Path, name: str, prints: str) -> Path:
    """A folder with a program of that name that prints that, and writes what it is asked into `asked` there."""
    made = folder / "bin"
    made.mkdir(exist_ok=True)
    (made / name).write_text(f"#!/bin/sh\necho \"$@\" >>'{made}/asked'\n/bin/cat <<'END'\n{prints}\nEND\n")
    (made / name).chmod(0o755)
    return made
