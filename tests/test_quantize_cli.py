"""python -m quantize, as it is typed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from calibration.datasets import DATASETS
from calibration.table import read_table
from export.cli import main as export
from export.models import find_network
from export.stage import export_network
from export.weights import find_weights
from runtime.bundle import MANIFEST, Bundle
from tests.graphs import Graph
from tests.tables import table_in
from tests.typed import Ran

SMALL = ("--crops", "2", "--crop-size", "16x16", "--effort", "fast")
SRCNN = find_network("srcnn", scale=1.5)


@pytest.fixture
def fresh(exported: Bundle, tmp_path: Path) -> Path:
    """A bundle that was exported and not quantized."""
    return Path(shutil.copytree(exported.directory, tmp_path / "build" / "fresh"))


@pytest.fixture
def other_weights(small_copy: Bundle) -> Path:
    """A bundle whose weights are none that ship."""
    return small_copy.directory


def test_without_div2k_the_shipped_weights_use_the_shipped_table(run: Callable[..., Ran], fresh: Path, quantized: Bundle) -> None:
    ran = run(fresh, "--calib", "div2k")

    assert (ran.code, ran.err) == (0, "")
    assert "the table that ships with these weights" in ran.out
    assert "the pictures are not on this machine" in ran.out
    assert (fresh / MANIFEST).read_bytes() == (quantized.directory / MANIFEST).read_bytes()


def test_without_div2k_other_weights_are_told_three_ways_to_provide_it(run: Callable[..., Ran], other_weights: Path) -> None:
    ran = run(other_weights, "--calib", "div2k")

    assert (ran.code, ran.out) == (2, "")
    assert all(way in ran.err for way in ("div2k", "--data", "SREDGE_DATA", "--download", "--calib FOLDER"))


@pytest.mark.parametrize("name", [dataset.name for dataset in DATASETS if not dataset.archives])
def test_a_download_is_only_advised_where_there_is_one(run: Callable[..., Ran], other_weights: Path, name: str) -> None:
    ran = run(other_weights, "--calib", name)

    assert ran.code == 2
    assert "--download" not in ran.err


def test_the_only_bundle_under_build_is_the_default(run: Callable[..., Ran], fresh: Path) -> None:
    assert run("--calib", "div2k").code == 0
    assert Bundle.open(fresh).variant("int8").target == "cpu"


def test_a_second_run_says_up_to_date_and_writes_nothing(run: Callable[..., Ran], fresh: Path) -> None:
    run(fresh, "--calib", "div2k")
    before = {path: path.stat().st_mtime_ns for path in fresh.iterdir()}

    ran = run(fresh, "--calib", "div2k")

    assert (ran.code, "up to date" in ran.out) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in fresh.iterdir()} == before


def test_force_quantizes_again(run: Callable[..., Ran], bundle_copy: Bundle) -> None:
    ran = run(bundle_copy.directory, "--calib", "div2k", "--force")

    assert (ran.code, "up to date" in ran.out, "quantized for target cpu" in ran.out) == (0, False, True)


def test_a_folder_of_pictures_is_calibrated_on(
    run: Callable[..., Ran], other_weights: Path, picture_folder: Callable[..., Path]
) -> None:
    folder = picture_folder((1, 1), (3, 200), (40, 30))

    ran = run(other_weights, "--calib", folder, "--crops", "4", "--crop-size", "16x24", "--seed", "5")

    assert ran.code == 0
    assert f"3 pictures of {folder.name}, 4 crops" in ran.out
    source = read_table(table_in(other_weights)).source
    assert (source.crops, source.crop_size, source.seed, len(source.images)) == (4, (16, 24), 5, 3)


@pytest.mark.parametrize("static", [None, "16x24"])
def test_crops_are_enlarged_for_a_network_that_takes_them_so(
    run: Callable[..., Ran], enlarged_before: Bundle, picture_folder: Callable[..., Path], tmp_path: Path, static: str | None
) -> None:
    weights = find_weights(SRCNN, scale=1.5, choice=str(enlarged_before.directory.parent / "weights.pth"))
    shape = None if static is None else (24, 36)
    bundle = export_network(SRCNN, scale=1.5, weights=weights, directory=tmp_path / "build" / "srcnn", static_shape=shape)

    ran = run(bundle.directory, "--calib", picture_folder((3, 200), (40, 30)), "--crops", "4", "--effort", "fast")

    assert ran.code == 0, ran.err
    assert read_table(table_in(bundle.directory)).source.crop_size == ((64, 64) if static is None else (16, 24))
    assert Bundle.open(bundle.directory).variant("int8").psnr_vs_fp32_db is not None


def test_a_data_set_under_the_data_folder_is_calibrated_on(
    run: Callable[..., Ran], other_weights: Path, picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    picture_folder((20, 20)).rename(tmp_path / "Set5")

    ran = run(other_weights, "--calib", "set5", "--data", tmp_path, *SMALL)

    assert (ran.code, "1 pictures of set5" in ran.out) == (0, True)


def test_statistics_are_not_measured_twice(
    run: Callable[..., Ran], other_weights: Path, picture_folder: Callable[..., Path]
) -> None:
    folder = picture_folder((20, 20))
    run(other_weights, "--calib", folder, *SMALL)

    ran = run(other_weights, "--calib", folder, *SMALL, "--method", "minmax")

    assert (ran.code, "measured before" in ran.out, "quantized for target cpu" in ran.out) == (0, True, True)


def test_a_changed_picture_is_measured_again(
    run: Callable[..., Ran], other_weights: Path, picture_folder: Callable[..., Path]
) -> None:
    folder = picture_folder((20, 20), (24, 24))
    run(other_weights, "--calib", folder, *SMALL)
    (folder / "1.png").replace(folder / "0.png")

    ran = run(other_weights, "--calib", folder, *SMALL)

    assert (ran.code, "measured before" in ran.out, "up to date" in ran.out) == (0, False, False)


@pytest.mark.parametrize("table", [None, "copied.json"], ids=["the bundle's own", "a copy"])
def test_a_table_file_is_reused(run: Callable[..., Ran], fresh: Path, quantized: Bundle, table: str | None) -> None:
    own = table_in(quantized.directory)
    path = fresh.parent / (table or own.name)
    shutil.copy(own, path)

    ran = run(fresh, "--calib", path)

    assert (ran.code, f"read from {path}" in ran.out) == (0, True)
    assert (fresh / MANIFEST).read_bytes() == (quantized.directory / MANIFEST).read_bytes()


def test_a_table_of_other_weights_is_refused(run: Callable[..., Ran], other_weights: Path, quantized: Bundle) -> None:
    ran = run(other_weights, "--calib", table_in(quantized.directory))

    assert (ran.code, "another graph" in ran.err) == (2, True)


@pytest.mark.parametrize(
    "earlier",
    [
        pytest.param(("--percentile", "99.5"), id="another percentile"),
        pytest.param(("--method", "minmax"), id="another method"),
        pytest.param(("--seed", "1"), id="another seed"),
        pytest.param(None, id="its own table as a file"),
    ],
)
def test_the_same_command_gives_the_same_bundle_whatever_ran_before(
    run: Callable[..., Ran],
    other_weights: Path,
    tmp_path: Path,
    picture_folder: Callable[..., Path],
    earlier: tuple[str, ...] | None,
) -> None:
    command = ("--calib", picture_folder((40, 40), (30, 50)), *SMALL)
    straight = Path(shutil.copytree(other_weights, tmp_path / "straight"))
    run(straight, *command)
    run(other_weights, *(("--calib", table_in(straight)) if earlier is None else (*command, *earlier)))

    run(other_weights, *command)

    assert (other_weights / MANIFEST).read_text() == (straight / MANIFEST).read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(("{bundle}", "--calib", "no/such/folder"), "no such folder", id="missing folder"),
        pytest.param(("{bundle}", "--calib", "div4k"), "known: div2k", id="unknown data set"),
        pytest.param(("{bundle}", "--calib", "missing.json"), "missing.json cannot be read", id="missing table"),
        pytest.param(("{bundle}", "--calib", "samples", "--data", "nowhere"), "no such folder", id="missing data folder"),
        pytest.param(("{bundle}", "--calib", "div2k", "--percentile", "30"), "more than 50", id="low percentile"),
        pytest.param(("{bundle}", "--calib", "div2k", "--percentile", "nan"), "more than 50", id="no percentile"),
        pytest.param(("{bundle}", "--calib", "div2k", "--percentile", "99.5"), "99.99", id="percentile not shipped"),
        pytest.param(("{bundle}", "--calib", "div2k", "--target", "abacus"), "known: cpu", id="unknown target"),
        pytest.param(("{bundle}", "--calib", "div2k", "--method", "guess"), "minmax", id="unknown method"),
        pytest.param(("{bundle}", "--calib", "div2k", "--crop-size", "96"), "HEIGHTxWIDTH", id="half a crop size"),
        pytest.param(("{bundle}", "--calib", "div2k", "--crops", "0"), "--crops", id="no crops"),
        pytest.param(("{bundle}", "--calib", "set5", "--download"), "no known download", id="nothing to download"),
        pytest.param(("nowhere", "--calib", "div2k"), "nowhere is not a bundle", id="missing bundle"),
        pytest.param(("{bundle}",), "--calib", id="nothing to calibrate on"),
    ],
)
def test_a_mistake_exits_2_and_says_what_was_expected(
    run: Callable[..., Ran], fresh: Path, arguments: tuple[str, ...], expected: str
) -> None:
    ran = run(*(argument.format(bundle=fresh) for argument in arguments))

    assert ran.code == 2
    assert expected in ran.err


def test_a_file_that_is_no_picture_exits_2_and_is_named(run: Callable[..., Ran], fresh: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "notes.png").write_text("not a picture")

    ran = run(fresh, "--calib", folder)

    assert (ran.code, "notes.png" in ran.err) == (2, True)


def test_without_any_bundle_the_next_command_is_named(run: Callable[..., Ran]) -> None:
    ran = run("--calib", "div2k")

    assert (ran.code, "python -m export" in ran.err) == (2, True)


def test_an_operator_that_the_target_has_not_is_refused_before_anything_is_calibrated(
    run: Callable[..., Ran], tmp_path: Path
) -> None:
    graph = Graph(0, channels=3)
    wide = graph.add("Erf", graph.conv("input", 12, 3))
    onnx.save_model(graph.proto(graph.shuffle(wide)), tmp_path / "theirs.onnx")
    export([str(tmp_path / "theirs.onnx"), "--scale=2", "--out=out"])
    ran = run("out", "--calib", tmp_path / "no such folder", "--target", "npu")  # which calibration would miss
    assert ran.code == 2
    assert "target npu runs everything in int8, and has no Erf (erf_1)" in ran.err
