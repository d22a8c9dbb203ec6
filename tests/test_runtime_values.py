"""Verified means values: what a backend computes is held against the same graph simulated, before anything else is made with it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from calibration.ranges import Method
from calibration.table import read_table
from export.foreign import read_foreign
from export.stage import export_foreign
from quantize.cli import main as quantize
from quantize.int8 import quantize_int8
from quantize.options import Effort, Int8Options
from quantize.stage import quantize_bundle
from quantize.tables import TableRequest, find_table
from runtime import Upscaler
from runtime.backends import BACKENDS, open_backend
from runtime.backends.onnxruntime import OnnxRuntimeBackend, run_as_written
from runtime.bundle import Bundle, pack_bundle
from runtime.errors import BackendError, PipelineError
from runtime.pictures.pixels import to_floats
from runtime.targets import Precision, find_target
from runtime.verify import value_check
from runtime.verify.faithful import check_backends
from runtime.verify.value_check import TOLERANCE_DB, measure_values, psnr_db
from tests.small_networks import write_attention_network

GRAPHS = [entry.name for entry in BACKENDS if entry.opens_graphs and "int8" in entry.precisions]


@pytest.fixture(scope="module")
def attention(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A network in the form that openvino computes wrongly in int8: the size of what a convolution made is read."""
    folder = tmp_path_factory.mktemp("attention")
    write_attention_network(folder / "attention.onnx")
    foreign = read_foreign(folder / "attention.onnx", scale=2, order=None, value_range=None)
    bundle = export_foreign(foreign, folder / "attention.onnx", directory=folder / "bundle")
    request = TableRequest(calib="samples", root=None, percentile=99.99, crops=4, crop_size=(48, 48))
    table = find_table(bundle, request, on_step=lambda *_: None).table
    with pytest.MonkeyPatch.context() as without_forms:
        without_forms.setattr("quantize.int8.OF_THE_INT8_GRAPH", ())
        return quantize_bundle(bundle, table, Int8Options(target=find_target("cpu"), method=Method.PERCENTILE, effort=Effort.FAST))


def test_an_int8_graph_that_a_backend_computes_wrongly_is_refused_there_with_the_figure(attention: Bundle) -> None:
    with pytest.raises(BackendError, match=r"openvino computes model.int8-cpu.onnx wrongly: \d+\.\d dB from the graph simulated"):
        Upscaler.open(attention, precision="int8", backend="openvino", verify="always")


def test_auto_takes_the_backend_that_computes_it_right(attention: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), Upscaler.open(attention, precision="int8") as opened:
        assert opened.backend_name == "onnxruntime"
        assert opened.value_check is not None
        assert opened.value_check.passed
    assert "openvino computes model.int8-cpu.onnx wrongly" in caplog.text


def test_quantize_says_which_backend_will_not_run_the_graph(
    attention: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantize.int8.OF_THE_INT8_GRAPH", ())
    bundle = shutil.copytree(attention.directory, tmp_path / "bundle")
    quantize([str(bundle), "--calib", "samples", "--crops", "4", "--crop-size", "48x48", "--effort", "fast", "--force"])
    out = capsys.readouterr().out
    assert "refused on openvino: " in out
    assert "runs on onnxruntime: " in out


def test_such_a_graph_is_written_in_a_form_that_the_backend_computes_right(
    attention: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shutil.copytree(attention.directory, tmp_path / "bundle")
    quantize([str(bundle), "--calib", "samples", "--crops", "4", "--crop-size", "48x48", "--effort", "fast", "--force"])
    out = capsys.readouterr().out
    assert "runs on openvino: " in out
    with Upscaler.open(bundle, precision="int8", verify="always") as opened:
        assert opened.backend_name == "openvino"


def test_a_graph_that_no_backend_computes_right_is_not_written(attention: Bundle) -> None:
    data = attention.read(attention.variant("int8", target="cpu"))
    only_openvino = replace(find_target("cpu"), backends=("openvino",))
    with pytest.raises(PipelineError, match="no backend computes the int8 graph for cpu right: openvino"):
        check_backends(data, attention.read(attention.variant("fp32")), only_openvino, attention.manifest.contract)


@pytest.mark.parametrize("backend", GRAPHS)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "packed"])
def test_what_was_found_is_remembered_on_this_machine(
    quantized: Bundle, tmp_path: Path, backend: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = quantized.directory
    if packed:
        source = tmp_path / "packed.sredge"
        source.write_bytes(pack_bundle(quantized))
    measured = []
    measure = value_check.measure_values

    def counted(*arguments: object, **options: object) -> value_check.ValueCheck:
        measured.append(arguments)
        return measure(*arguments, **options)  # type: ignore[arg-type] # passed on as they come

    monkeypatch.setattr(value_check, "measure_values", counted)
    checks = []
    for verify in ("once", "once", "always", "never"):
        with Upscaler.open(source, precision="int8", backend=backend, cache=tmp_path / "cache", verify=verify) as opened:
            checks.append(opened.value_check)
    assert len(measured) == 2  # the first, and "always"
    assert checks[0] == checks[1] == checks[2] != checks[3]
    assert checks[3] is None


def test_without_a_cache_folder_the_users_own_remembers(quantized: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with Upscaler.open(quantized, precision="int8", backend="onnxruntime") as opened:
        assert opened.value_check is not None
    (record,) = (tmp_path / "sredge" / "verified").iterdir()
    assert json.loads(record.read_bytes()) == opened.value_check.model_dump()


DAMAGED = {
    "empty": b"",
    "no figure": b"{}",
    "no number": b'{"psnr_db": NaN, "expected_db": 40}',
    "text": b'{"psnr_db": "high", "expected_db": 40}',
    "bytes": b"\xff" * 9000,
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_measured_anew(quantized: Bundle, tmp_path: Path, damage: bytes) -> None:
    with Upscaler.open(quantized, precision="int8", backend="onnxruntime", cache=tmp_path) as opened:
        first = opened.value_check
    (record,) = (tmp_path / "verified").iterdir()
    record.write_bytes(damage)
    with Upscaler.open(quantized, precision="int8", backend="onnxruntime", cache=tmp_path) as opened:
        assert opened.value_check == first


def test_a_wrong_result_is_remembered_too(attention: Bundle, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(BackendError, match="wrongly"):
            Upscaler.open(attention, precision="int8", backend="openvino", cache=tmp_path)
    (record,) = (tmp_path / "verified").iterdir()
    assert not value_check.ValueCheck.model_validate_json(record.read_bytes()).passed


def test_where_nothing_can_be_remembered_values_are_checked_all_the_same(quantized: Bundle, tmp_path: Path) -> None:
    (tmp_path / "verified").write_bytes(b"a file where the folder should be")
    with Upscaler.open(quantized, precision="int8", backend="onnxruntime", cache=tmp_path) as opened:
        assert opened.value_check is not None


SPOIL: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "transposed": lambda output: output.swapaxes(2, 3),
    "NaN": lambda output: np.full_like(output, np.nan),
    "channels turned": lambda output: output[:, ::-1],
    "one pixel aside": lambda output: np.roll(output, 1, axis=3),
    "darker": lambda output: output * np.float32(0.96),
}


@pytest.mark.parametrize("spoil", SPOIL.values(), ids=SPOIL)
def test_every_kind_of_wrong_picture_is_found(
    exported: Bundle, tmp_path: Path, spoil: Callable[[NDArray[np.float32]], NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OnnxRuntimeBackend.run
    monkeypatch.setattr(OnnxRuntimeBackend, "run", lambda backend, array: spoil(run(backend, array)))
    with pytest.raises(BackendError, match=r"wrongly|gives"):
        Upscaler.open(exported, precision="fp32", backend="onnxruntime", cache=tmp_path)


def test_the_figure_is_the_psnr_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    simulated = rng.random((1, 3, 8, 8))
    given = simulated + rng.normal(0, 0.01, simulated.shape)
    mean = sum(float(error) ** 2 for error in (given - simulated).ravel()) / given.size
    assert psnr_db(given, simulated) == pytest.approx(10 * np.log10(1 / mean))
    assert psnr_db(given * 100, simulated * 100) == pytest.approx(10 * np.log10(np.ptp(simulated * 100) ** 2 / (mean * 1e4)))
    assert psnr_db(simulated, simulated) == 200


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_of_floats_forty_decibels_are_expected(quantized: Bundle, tmp_path: Path, precision: Precision) -> None:
    with Upscaler.open(quantized, precision=precision, cache=tmp_path) as opened:
        assert opened.value_check is not None
        assert opened.value_check.expected_db == TOLERANCE_DB


@pytest.mark.parametrize("target", ["cpu", "npu-pow2"])
def test_of_int8_is_expected_what_two_independent_roundings_differ_by(quantized: Bundle, target: str) -> None:
    table = read_table(quantized.path(quantized.manifest.parts[-1]))
    options = Int8Options(target=find_target(target), method=Method.MINMAX, effort=Effort.FAST)
    fp32 = quantized.read(quantized.variant("fp32"))
    graph = quantize_int8(onnx.load_model_from_string(fp32), table, options).model.SerializeToString()
    with open_backend("onnxruntime", graph, precision="int8") as backend:
        check = measure_values(backend, graph, fp32, quantized.manifest.contract, precision="int8")
    picture = to_floats(value_check.check_picture((48, 64)))
    exact, own = (run_as_written(one, picture).clip(0, 1).astype(float) for one in (fp32, graph))
    own_db = 10 * np.log10(1 / np.mean((own - exact) ** 2))
    assert check.expected_db == pytest.approx(min(own_db - 3, TOLERANCE_DB), abs=0.06)
