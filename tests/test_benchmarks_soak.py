"""python -m benchmarks.soak, and what it holds: memory does not grow with the number of picture sizes."""

from __future__ import annotations

import json

import pytest

from benchmarks import soak
from runtime.backends import BACKENDS, choose_backend
from runtime.bundle import Bundle

_OPENING = [entry.name for entry in BACKENDS if entry.opens_graphs]
# Of 160 pictures of random sizes; 600 KB a size, which openvino kept before it was bounded, are 48 MB in the half that counts.
_MOST_GROWTH_MB = 16


@pytest.mark.parametrize("backend", _OPENING)
def test_memory_is_flat_over_pictures_of_random_sizes(quantized: Bundle, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backend", backend, "--pictures", "160", "--smallest", "8x8", "--largest", "40x40", "--threads", "1"]
    precision = "int8" if "int8" in choose_backend(backend).precisions else "fp32"
    soak.main([str(quantized.directory), *arguments, "--precision", precision, "--json"])
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["backend"], result["precision"]) == (backend, precision)
    assert [sample["pictures"] for sample in result["samples"]] == [16 * part for part in range(11)]
    first, middle, last = (result["samples"][index]["rss_bytes"] for index in (0, 5, 10))
    assert (result["growth_bytes"], result["late_growth_bytes"]) == (last - first, last - middle)
    assert result["pictures_per_second"] > 0
    assert result["late_growth_bytes"] < _MOST_GROWTH_MB * 1e6, result


def test_every_backend_is_soaked_in_turn(exported_small: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    soak.main([str(exported_small.directory), "--precision", "fp32", "--pictures", "20", "--threads", "1"])
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if " grew by " in line] == _OPENING
    assert "srcnn x2, 20 pictures of 16x16 to 64x64, 1 threads" in said


def test_sizes_that_are_none_are_refused(exported_small: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        soak.main([str(exported_small.directory), "--smallest", "32x16", "--largest", "16x32"])
    assert stopped.value.code == 2
    assert "--smallest 32x16 is larger than --largest 16x32" in capsys.readouterr().err
