"""What int8 loses and what calibration costs, as the benchmarks measure them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import calibration_cost, int8_loss
from runtime.bundle import Bundle


@pytest.fixture(scope="module")
def losses(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    out = tmp_path_factory.mktemp("losses")
    few = ["--network", "espcn_x3", "--target", "cpu", "--target", "openvino", "--effort", "fast", "--calib", "bsds500"]
    int8_loss.main(["--data", str(shared / "data"), "--weights", str(shared / "weights"), "--out", str(out), *few])
    rows: list[dict[str, object]] = json.loads((out / "int8-loss.json").read_text())["losses"]
    return rows


def test_each_backend_has_a_row_and_onnxruntimes_quantizer_one(losses: list[dict[str, object]]) -> None:
    """And what is lifted where there is room: on openvino the input of a layer, on both backends no layer."""
    rows = [(row["how"], row["target"], row["backend"]) for row in losses]
    ours = [("sredge fast", "cpu", "openvino"), ("sredge fast", "cpu", "onnxruntime"), ("sredge fast", "openvino", "openvino")]
    mixed = ("sredge fast, 98.8% int8", "openvino", "openvino")
    assert rows == [*ours, mixed, ("onnxruntime quantize_static", "", "onnxruntime")]


def test_the_average_is_that_of_the_sets(losses: list[dict[str, object]]) -> None:
    for row in losses:
        by_set = row["loss_db"]
        assert isinstance(by_set, dict)
        assert by_set.keys() == {"set5", "set14"}
        assert row["average_db"] == pytest.approx(sum(by_set.values()) / 2, abs=1e-4)


def test_ours_is_closer_to_fp32_than_theirs_and_with_something_in_float_closer_still(losses: list[dict[str, object]]) -> None:
    (*ours, plain, mixed, theirs) = [float(str(row["psnr_vs_fp32_db"])) for row in losses]
    assert min(*ours, plain) > theirs
    assert mixed > plain + 1


def test_pictures_that_are_evaluated_are_not_calibrated_on(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--data", str(shared / "data"), "--weights", str(shared / "weights"), "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        int8_loss.main([*folders, "--network", "espcn_x3", "--calib", "set5"])
    assert stopped.value.code == 2
    assert "has pictures of set5" in capsys.readouterr().err


def test_an_unknown_network_is_refused_with_those_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        int8_loss.main(["--data", str(tmp_path), "--weights", str(tmp_path), "--network", "lesrcnn"])
    assert stopped.value.code == 2
    assert "lesrcnn_x2" in capsys.readouterr().err


def test_calibration_is_measured_beside_onnxruntimes(exported: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    calibration_cost.main([str(exported.directory), "--crops", "2", "--crop-size", "32x32", "--turns", "1"])
    rows = {line.rsplit(maxsplit=3)[0].strip(): line.split()[-3:] for line in capsys.readouterr().out.splitlines()}
    ours, theirs = rows["sredge"], rows["onnxruntime percentile"]
    assert float(ours[1]) == 1
    assert float(theirs[1]) == pytest.approx(float(theirs[0]) / float(ours[0]), rel=0.05)
    assert min(int(ours[2]), int(theirs[2])) > 50
