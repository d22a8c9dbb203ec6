"""python -m benchmarks.throughput: frames through files, three ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import throughput
from runtime.bundle import Bundle


def test_the_three_ways_are_measured_on_the_same_frames(
    quantized: Bundle, picture_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = picture_folder((40, 60), (8, 8), (33, 48))
    arguments = ["--data", str(folder), "--size", "32x48", "--frames", "3", "--turns", "2"]
    throughput.main([str(quantized.directory), *arguments])
    said = capsys.readouterr().out
    rates = {}
    for line in said.splitlines()[1:4]:
        way, frames_a_second, times_faster = line.rsplit(maxsplit=2)
        rates[way.strip()] = float(frames_a_second), float(times_faster)
    first = rates["int8 on openvino"][0]
    assert rates.keys() == {"int8 on openvino", "int8 on openvino, one at a time", "fp32 on onnxruntime"}
    for rate, ratio in rates.values():
        assert ratio == pytest.approx(first / rate, rel=0.02)
    assert "3 PNG files of 48×32 to PNG, 2 turns" in said


def test_a_folder_without_a_picture_that_large_is_refused(
    quantized: Bundle, picture_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        throughput.main([str(quantized.directory), "--data", str(picture_folder((8, 8)))])
    assert stopped.value.code == 2
    assert "no picture of 1920×1080 pixels or more" in capsys.readouterr().err
