"""A bundle knows what each graph came from: its own calibration table, its options as they were given."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cli import _cases
from benchmarks.cli import main as benchmarks
from calibration.ranges import Method
from calibration.table import read_table, used_hashes
from export.models.srcnn import NETWORK as SRCNN
from export.stage import export_network
from export.weights import find_weights
from quantize.options import STEPS, Effort, Int8Options
from quantize.records import options_of, recorded_options
from runtime.bundle import Bundle, Manifest, Variant, sha256_bytes
from runtime.bundle.older import upgraded
from runtime.errors import BundleError
from runtime.targets import TARGETS, find_target
from tests.typed import Ran

SMALL = ("--crops", "2", "--crop-size", "24x24", "--effort", "fast")


@pytest.fixture
def on_two(
    run: Callable[..., Ran], exported_small: Bundle, picture_folder: Callable[..., Path], tmp_path: Path
) -> tuple[Bundle, Path]:
    """A bundle quantized for cpu on one folder of pictures, for openvino on another; and the first folder."""
    directory = shutil.copytree(exported_small.directory, tmp_path / "bundle")
    first = picture_folder((40, 50), (30, 70)).rename(tmp_path / "first")
    second = picture_folder((60, 44)).rename(tmp_path / "second")
    for target, folder in (("cpu", first), ("openvino", second)):
        ran = run(directory, "--calib", folder, "--target", target, *SMALL)
        assert ran.code == 0, ran.err
    return Bundle.open(directory), first


def test_each_graph_names_the_table_it_was_made_of(on_two: tuple[Bundle, Path]) -> None:
    bundle, _ = on_two
    tables = {}
    for target in ("cpu", "openvino"):
        part = bundle.variant("int8", target=target).calibration
        assert part is not None
        assert sha256_bytes(bundle.path(part).read_bytes()) == part.sha256
        assert part.sha256[:12] in part.file
        tables[target] = read_table(bundle.path(part)).source
    assert len(tables["cpu"].images) == 2
    assert len(tables["openvino"].images) == 1
    assert not used_hashes(tables["cpu"].images) & used_hashes(tables["openvino"].images)


@pytest.mark.parametrize("target", [(), ("--target", "cpu")], ids=["every target", "cpu"])
def test_pictures_that_any_evaluated_graph_was_calibrated_on_are_refused(
    on_two: tuple[Bundle, Path], target: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, first = on_two
    with pytest.raises(SystemExit) as stopped:
        benchmarks([str(bundle.directory), f"--data={first}", "--runs", "1", *target])
    assert stopped.value.code == 2
    assert "calibrated on 2 of these pictures" in capsys.readouterr().err


def test_a_graph_that_was_made_of_other_pictures_is_evaluated(on_two: tuple[Bundle, Path], tmp_path: Path) -> None:
    bundle, first = on_two
    benchmarks(
        [str(bundle.directory), f"--data={first}", "--runs", "1", "--target", "openvino", f"--json={tmp_path / 'result.json'}"]
    )
    rows = json.loads((tmp_path / "result.json").read_bytes())["rows"]
    assert {row["target"] for row in rows if row["precision"] == "int8"} == {"openvino"}


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_every_graph_can_be_explained(run: Callable[..., Ran], on_two: tuple[Bundle, Path], target: str) -> None:
    bundle, first = on_two
    ran = run("explain", bundle.directory, "--calib", first, "--target", target, "--crops", "2")
    assert ran.code == 0, ran.err
    assert f"int8 for {target}" in ran.out


def test_a_table_that_no_graph_names_any_more_goes(on_two: tuple[Bundle, Path], run: Callable[..., Ran]) -> None:
    bundle, first = on_two
    run(bundle.directory, "--calib", first, "--target", "openvino", *SMALL)
    shared = Bundle.open(bundle.directory)
    names = {variant.calibration.file for variant in shared.manifest.variants if variant.calibration is not None}
    assert len(names) == 1
    assert {path.name for path in bundle.directory.glob("calibration-*.json")} == names


@given(
    lifted=st.frozensets(st.text(min_size=1, max_size=20), max_size=4),
    without=st.frozensets(st.sampled_from(STEPS)),
    target=st.sampled_from(TARGETS),
    method=st.sampled_from(list(Method)),
    effort=st.sampled_from(list(Effort)),
    percentile=st.floats(50, 100),
)
def test_options_come_back_from_the_manifest_as_they_were_given(**options: Any) -> None:  # noqa: ANN401 # as hypothesis draws them
    if options["method"] is not Method.PERCENTILE:
        del options["percentile"]  # the others have none
    given_options = Int8Options(**options)
    variant = Variant(
        file="a.onnx", sha256="0" * 64, precision="int8", parent_sha256="0" * 64, opset=18, options=recorded_options(given_options)
    )
    again = Variant.model_validate_json(variant.model_dump_json())
    assert options_of(again, given_options.target) == given_options


def _as_version_1(bundle: Bundle, *, table_of: str) -> dict[str, Any]:
    """The manifest of `bundle` as version 1 wrote it, with the one table of that target's graph."""
    body = json.loads(bundle.manifest.model_dump_json())
    tables = {one["target"]: one.pop("calibration") for one in body["variants"]}
    for one in body["variants"]:
        options = {key: ", ".join(value) if isinstance(value, list) else value for key, value in one["options"].items()}
        one["options"] = options | ({"calibration_sha256": tables[one["target"]]["sha256"]} if one["precision"] == "int8" else {})
    body["contract"]["value_range"] = [0.0, 1.0]
    return {**body, "schema_version": 1, "calibration": tables[table_of] and {**tables[table_of], "file": "calibration.json"}}


def _write_version_1(directory: Path, body: dict[str, Any]) -> None:
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    (directory / "manifest.json").write_text(json.dumps({**body, "digest": sha256_bytes(text)}, indent=1))


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_a_bundle_of_version_1_opens_and_knows_the_table_it_has(on_two: tuple[Bundle, Path], target: str) -> None:
    bundle, _ = on_two
    body = _as_version_1(bundle, table_of=target)
    part = bundle.variant("int8", target=target).calibration
    assert part is not None
    bundle.path(part).rename(bundle.directory / "calibration.json")
    _write_version_1(bundle.directory, body)

    opened = Bundle.open(bundle.directory)

    for name in ("cpu", "openvino"):
        now, before = opened.variant("int8", target=name), bundle.variant("int8", target=name)
        assert options_of(now, find_target(name)) == options_of(before, find_target(name))
        assert (now.calibration is not None) == (name == target)


def test_the_lost_table_of_an_older_bundle_is_said_before_figures_are(
    on_two: tuple[Bundle, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, first = on_two
    part = bundle.variant("int8", target="openvino").calibration
    assert part is not None
    bundle.path(part).rename(bundle.directory / "calibration.json")
    _write_version_1(bundle.directory, _as_version_1(bundle, table_of="openvino"))

    with pytest.raises(SystemExit) as stopped:
        benchmarks([str(bundle.directory), f"--data={first}", "--runs", "1"])

    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert "lacks the calibration table of model.int8-cpu.onnx" in err
    assert f"python -m quantize {bundle.directory} --calib div2k --target cpu" in err


@pytest.mark.parametrize("change", [{"variants": 3}, {"contract": []}, {"variants": [None]}, {"variants": [{"options": 1}]}, {}])
def test_what_is_no_manifest_of_version_1_is_an_error(change: dict[str, Any], tmp_path: Path) -> None:
    body = {"schema_version": 1, **change}
    assert upgraded(body)
    _write_version_1(tmp_path, body)
    with pytest.raises(BundleError, match="not a valid manifest"):
        Bundle.open(tmp_path)


def test_the_contract_has_no_value_range_that_means_nothing() -> None:
    assert "value_range" not in json.dumps(Manifest.model_json_schema())


def test_what_a_distillation_with_other_options_left_goes_with_the_next_run(
    run: Callable[..., Ran], on_two: tuple[Bundle, Path]
) -> None:
    bundle, first = on_two
    left, of_another = (bundle.directory / f".distilled-{target}-{'0' * 16}" for target in ("cpu", "openvino"))
    for path in (left, of_another):
        path.write_bytes(b"half")
    run(bundle.directory, "--calib", first, "--target", "cpu", *SMALL, "--seed", "1")
    assert (left.exists(), of_another.exists()) == (False, True)


@pytest.mark.parametrize("targets", [("npu",), ("cpu", "npu")], ids=" ".join)
def test_a_target_that_the_bundle_has_no_graph_for_is_no_shorter_table(
    on_two: tuple[Bundle, Path], targets: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, _ = on_two
    with pytest.raises(SystemExit) as stopped:
        benchmarks([str(bundle.directory), *(f"--target={target}" for target in targets)])
    assert stopped.value.code == 2
    assert "has no int8 graph for target 'npu'" in capsys.readouterr().err


def test_a_target_that_is_given_no_fp32_graph_is_measured_in_its_own(
    run: Callable[..., Ran], enlarged_before: Bundle, picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    weights = find_weights(SRCNN, scale=1.5, choice=str(enlarged_before.directory.parent / "weights.pth"))
    bundle = export_network(SRCNN, scale=1.5, weights=weights, directory=tmp_path / "static", static_shape=(24, 36))
    folder = picture_folder((24, 36), (24, 36))
    assert run(bundle.directory, "--calib", folder, "--target", "vacc", "--effort", "fast", "--crops", "1").code == 0
    cases = _cases(Bundle.open(bundle.directory), None, None, ["vacc"], 1)
    assert {(case.precision, case.target) for case in cases} == {("int8", "vacc"), ("fp16", "vacc")}
