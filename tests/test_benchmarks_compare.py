"""The comparison end to end, on real bundles, backends and pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import runtime.verify.pairs
from benchmarks import cli
from benchmarks.latency import summarise
from benchmarks.report import write_report
from benchmarks.report.table import COLUMNS, cells, notes
from benchmarks.result import Result
from benchmarks.worker import Case, Worker
from export.models import find_network
from export.stage import export_network
from export.weights import find_weights
from quantize.cli import main as quantize
from runtime.backends import BACKENDS
from runtime.bundle import Bundle
from runtime.errors import PipelineError, SredgeError

INSTALLED = [entry.name for entry in BACKENDS if entry.opens_graphs]
# What the issue promises that every row carries.
PROMISED = {
    "bundle", "model", "scale", "precision", "target", "backend", "dataset", "protocol", "images", "psnr_db", "ssim",
    "psnr_vs_fp32_db", "latency", "macs", "int8_mac_share", "precision_verified", "size_bytes", "peak_rss_bytes",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two smooth pictures, too plain to be anybody's calibration data."""
    made = tmp_path_factory.mktemp("pictures")
    for index in range(2):
        noise = np.random.default_rng(index).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        cv2.imwrite(str(made / f"{index}.png"), cv2.resize(noise, (64, 48), interpolation=cv2.INTER_CUBIC))
    return made


@pytest.fixture(scope="module")
def measured(quantized: Bundle, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report folder of all precisions on all backends."""
    out = tmp_path_factory.mktemp("report")
    cli.main([str(quantized.directory), "--data", str(folder), "--runs", "6", "--out", str(out)])
    return out


def _rows(report: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((report / "result.json").read_text())["rows"]
    return rows


def test_every_precision_runs_on_every_backend(measured: Path) -> None:
    cases = {(row["precision"], row["backend"]) for row in _rows(measured)}
    assert cases == {(precision, entry.name) for entry in BACKENDS if entry.name in INSTALLED for precision in entry.precisions}


def test_every_row_carries_what_was_promised(measured: Path) -> None:
    for row in _rows(measured):
        assert row.keys() >= PROMISED
        assert row["latency"].keys() == {"p50_ms", "p90_ms", "p99_ms", "n", "warm_up", "shape", "threads"}
        assert (row["latency"]["n"], row["latency"]["shape"]) == (6, [1, 3, 128, 128])
        assert row["latency"]["p50_ms"] > 0
        assert row["latency"]["p90_ms"] is row["latency"]["p99_ms"] is None  # of 6 runs
        assert row["macs"] == pytest.approx(17.6e9, rel=5e-3)


def test_published_figures_stand_beside_the_measured_ones_and_say_whose_they_are(
    quantized: Bundle, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """VastModelZOO's LESRCNN x2; Set5's protocol has nothing published here, and fp32 alone is measured."""
    arguments = [str(quantized.directory), "--data", str(folder), "--precision=fp32", "--backend=onnxruntime", "--runs=1"]
    cli.main([*arguments, "--protocol=vacc", "--out", str(tmp_path / "vacc")])
    cli.main([*arguments, "--protocol=rgb", "--out", str(tmp_path / "rgb")])

    assert [row["precision"] for row in _rows(tmp_path / "vacc")] == ["fp32"]  # what was measured, and nothing else
    markdown, page = ((tmp_path / "vacc" / name).read_text() for name in ("report.md", "report.html"))
    assert "| published lesrcnn_x2 | int8 | – | – | – | 27.575 | 0.877 | 2.188 |" in markdown
    assert all(
        "VastModelZOO, for its int8 accelerator; on DIV2K validation, not these pictures" in text for text in (markdown, page)
    )
    assert "27.575" in page
    assert "27.575" in capsys.readouterr().out
    assert "published" not in (tmp_path / "rgb" / "report.md").read_text()


def test_a_network_before_which_pictures_are_enlarged_is_compared_at_its_real_scale(
    enlarged_before: Bundle, folder: Path, tmp_path: Path
) -> None:
    cli.main([str(enlarged_before.directory), "--data", str(folder), "--runs=2", "--backend=onnxruntime", f"--out={tmp_path}"])
    (row,) = _rows(tmp_path)
    assert (row["scale"], row["images"]) == (1.5, 2)
    assert row["latency"]["shape"] == [1, 3, 192, 192]  # what 128×128 pictures become


def test_int8_and_fp32_are_verified_and_a_half_is_called_what_it_ran_in(measured: Path) -> None:
    for row in _rows(measured):
        assert sum(row["precision_ran"].values()) == pytest.approx(1.0, abs=1e-4)
        ran_as_asked = row["precision_ran"].get(row["precision"], 0) == 1.0
        assert row["precision_verified"] == ran_as_asked
        if row["precision"] not in ("fp16", "bf16"):  # which a processor has or has not
            assert row["precision_verified"], row


def test_int8_is_close_to_fp32_and_smaller(measured: Path) -> None:
    by_case = {(row["precision"], row["backend"]): row for row in _rows(measured)}
    for backend in (entry.name for entry in BACKENDS if entry.name in INSTALLED and "int8" in entry.precisions):
        int8, fp32 = by_case["int8", backend], by_case["fp32", backend]
        assert int8["psnr_vs_fp32_db"] > 40
        assert int8["int8_mac_share"] == 1.0
        assert int8["size_bytes"] < fp32["size_bytes"] / 2.5
        assert int8["drop_db"] == pytest.approx(by_case["fp32", "onnxruntime"]["psnr_db"] - int8["psnr_db"], abs=1e-3)


def test_peak_memory_is_the_cases_own(measured: Path) -> None:
    for row in _rows(measured):
        # More than an interpreter with numpy, less than the parent, which has torch and matplotlib loaded.
        assert 60e6 < row["peak_rss_bytes"] < 700e6


def test_the_report_has_its_pictures_and_says_what_did_not_run_as_asked(measured: Path) -> None:
    result = Result.model_validate_json((measured / "result.json").read_bytes())
    markdown, page = (measured / "report.md").read_text(), (measured / "report.html").read_text()
    for row in result.rows:
        for cell in cells(row):
            assert cell in markdown
            assert cell in page
    assert all(name in markdown for name in COLUMNS)
    for name in ("pictures.png", "latency.png"):
        image = cv2.imread(str(measured / name))
        assert image is not None
        assert image.std() > 10
    for row in result.rows:
        if not row.precision_verified:
            assert f"(!) not {row.precision}" in "\n".join(notes(result))


def test_nothing_changed_is_not_measured_again(
    measured: Path, quantized: Bundle, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (measured / "result.json").stat().st_mtime_ns
    cli.main([str(quantized.directory), "--data", str(folder), "--runs", "6", "--out", str(measured)])
    assert "nothing changed" in capsys.readouterr().err
    assert (measured / "result.json").stat().st_mtime_ns == before


def test_a_changed_picture_is_measured_again(exported_small: Bundle, folder: Path, tmp_path: Path) -> None:
    arguments = [str(exported_small.directory), "--precision", "fp32", "--backend", "onnxruntime", "--runs", "1"]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    figures = []
    for name in ("0.png", "1.png"):
        (pictures / "only.png").write_bytes((folder / name).read_bytes())
        cli.main([*arguments, "--data", str(pictures), "--out", str(tmp_path / "report")])
        figures.append(_rows(tmp_path / "report")[0]["psnr_db"])
    assert figures[0] != figures[1]


def test_a_machine_reads_the_same_figures_from_the_json_option(
    quantized: Bundle, measured: Path, folder: Path, tmp_path: Path
) -> None:
    wanted = tmp_path / "figures.json"
    cli.main([str(quantized.directory), "--data", str(folder), "--runs", "6", "--out", str(measured), "--json", str(wanted)])
    assert json.loads(wanted.read_text()) == json.loads((measured / "result.json").read_text())


def test_pictures_that_were_calibrated_on_are_refused_unless_one_insists(
    small_copy: Bundle, picture_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = picture_folder((60, 60))
    bundle, data = str(small_copy.directory), str(pictures)
    quantize([bundle, "--calib", data, "--crops", "2"])
    arguments = [bundle, "--data", data, "--precision", "int8", "--backend", "onnxruntime", "--runs", "1"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "calibrated on 1 of these pictures" in capsys.readouterr().err
    cli.main([*arguments, "--allow-calibration-images"])
    assert "flattered" in capsys.readouterr().out


@pytest.mark.parametrize("size", [(60, 60), (61, 63)])
def test_a_picture_calibrated_on_is_known_again_by_its_high_or_low_file(
    small_copy: Bundle, tmp_path: Path, size: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Calibrated through DIV2K's layout with high and low files, evaluated from a plain folder of the high ones, as BMP."""
    high = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for folder, name, image in (
        ("DIV2K_train_HR", "0001.png", high),
        ("DIV2K_train_LR_bicubic/X2", "0001x2.png", high[: size[0] // 2, : size[1] // 2]),
        ("plain", "renamed.bmp", high),
    ):
        (tmp_path / "DIV2K" / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "DIV2K" / folder / name), image)
    quantize([str(small_copy.directory), "--calib", "div2k", "--data", str(tmp_path), "--crops", "1"])
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(small_copy.directory), "--data", str(tmp_path / "DIV2K" / "plain")])
    assert stopped.value.code == 2
    assert "calibrated on 1 of these pictures (renamed…)" in capsys.readouterr().err


def test_a_known_sets_picture_is_known_again_by_its_name(
    small_copy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """DIV2K's own low-resolution files are not what antialiased bicubic makes of its high ones: no hash tells."""
    root = tmp_path / "DIV2K"
    low = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    (root / "DIV2K_train_LR_bicubic" / "X2").mkdir(parents=True)
    cv2.imwrite(str(root / "DIV2K_train_LR_bicubic" / "X2" / "0001x2.png"), low)
    quantize([str(small_copy.directory), "--calib", "div2k", "--data", str(tmp_path), "--crops", "1"])
    (root / "DIV2K_train_HR").mkdir()
    (root / "DIV2K_train_LR_bicubic" / "X2" / "0001x2.png").unlink()
    cv2.imwrite(str(root / "DIV2K_train_HR" / "0001.png"), low.repeat(2, axis=0).repeat(2, axis=1))
    monkeypatch.setenv("SREDGE_DATA", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(small_copy.directory), "--data", "div2k"])
    assert stopped.value.code == 2
    assert "calibrated on 1 of these pictures (0001…)" in capsys.readouterr().err


def test_the_authors_weights_give_the_papers_figures(shared: Path, tmp_path: Path) -> None:
    """Set5 x2, protocol lesrcnn: 37.65 dB / 0.9586 (FACTS.md; arXiv 2007.04344)."""
    network = find_network("lesrcnn", scale=2)
    weights = find_weights(network, scale=2, choice=str(shared / "weights" / "lesrcnn_x2.pth"))
    bundle = export_network(network, scale=2, weights=weights, directory=tmp_path / "published")
    arguments = ["--data", str(shared / "data" / "Set5"), "--protocol", "lesrcnn", "--backend", "onnxruntime", "--runs", "1"]
    cli.main([str(bundle.directory), *arguments, "--out", str(tmp_path / "report")])
    (row,) = _rows(tmp_path / "report")
    assert (round(row["psnr_db"], 2), round(row["ssim"], 4)) == (37.65, 0.9586)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data", "no/such/folder"], "no such folder"),
        (["--data", "set6"], "known: div2k"),
        (["--protocol", "paper"], "known: paper-y"),
        (["--precision", "int4"], "known: fp32, fp16, bf16, int8"),
        (["--backend", "tpu"], "known: auto"),
    ],
)
def test_a_users_mistake_is_one_clear_error(
    quantized: Bundle, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(quantized.directory), *arguments])
    assert stopped.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("others", [(), ("--precision=fp32",)], ids=["alone", "beside another"])
def test_a_precision_that_no_installed_backend_runs_is_an_error_and_no_empty_table(
    quantized: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], others: tuple[str, ...]
) -> None:
    without = [entry if entry.name == "onnxruntime" else replace(entry, packages=("no_such_package",)) for entry in BACKENDS]
    monkeypatch.setattr(runtime.verify.pairs, "BACKENDS", tuple(without))
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(quantized.directory), f"--data={folder}", "--precision=bf16", *others])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no installed backend runs bf16 (installed: onnxruntime), expected openvino" in captured.err
    assert "hint: pip install 'sredge[openvino]'" in captured.err


def test_a_text_file_called_png_is_named(quantized: Bundle, tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("not a picture")
    command = [sys.executable, "-m", "benchmarks", str(quantized.directory), "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "words.png" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_in_a_worker_reaches_the_parent_as_itself(quantized: Bundle) -> None:
    broken = Case(quantized.directory.parent / "nowhere", "fp32", "onnxruntime", 1)
    with Worker(broken) as worker, pytest.raises(SredgeError, match="no such folder") as caught:
        worker.precision_report()
    assert caught.value.hint


def test_a_worker_that_dies_is_an_error_with_its_case(quantized: Bundle) -> None:
    with Worker(Case(quantized.directory, "fp32", "onnxruntime", 1)) as worker:
        worker.peak_rss_bytes()
        worker._process.kill()
        with pytest.raises(PipelineError, match="fp32 on onnxruntime"):
            worker.peak_rss_bytes()


def test_latency_percentiles_are_numpys() -> None:
    latency = summarise([float(value) for value in range(1, 101)], shape=(1, 3, 8, 8), threads=1)
    assert (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.n) == (50.5, 90.1, None, 100)  # tests/test_figures.py


def test_a_report_folder_that_cannot_be_written_is_an_error(measured: Path, tmp_path: Path) -> None:
    result = Result.model_validate_json((measured / "result.json").read_bytes())
    (tmp_path / "file").write_text("")
    with pytest.raises(SredgeError, match="cannot write the report"):
        write_report(result, [], tmp_path / "file" / "report")


@pytest.mark.parametrize("fewer_first", [False, True])
def test_two_bundles_of_unlike_precisions_share_a_report(
    exported_small: Bundle, small_copy: Bundle, folder: Path, tmp_path: Path, fewer_first: bool
) -> None:
    quantize([str(small_copy.directory), "--calib", "samples", "--crops", "1", "--crop-size", "16x16"])
    bundles = [str(small_copy.directory), str(exported_small.directory)]
    out = tmp_path / "report"
    order = bundles[::-1] if fewer_first else bundles
    cli.main([*order, "--data", str(folder), "--backend", "onnxruntime", "--runs", "1", "--out", str(out)])
    assert [row["precision"] for row in _rows(out)].count("fp32") == 2
    assert {row["precision"] for row in _rows(out)} == {"fp32", "fp16", "int8"}
    assert cv2.imread(str(out / "pictures.png")) is not None
