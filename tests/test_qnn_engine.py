"""The compiler and the backend `qnn`: context binaries of real bundles, made by the real compiler and run by its emulator."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

pytest.importorskip("onnxruntime_qnn", reason="pip install 'sredge[qnn]', with Python 3.11 or later")

from benchmarks import cli as benchmarks
from benchmarks.report.table import COLUMNS
from calibration.ranges import Method
from export.engine.cli import main
from export.engine.compiled import CompileRequest
from export.engine.compilers import find_compiler
from export.engine.qnn import compile_graph
from export.engine.qnn.contexts import compile_context
from export.engine.qnn.htp_form import bring_into_htp_form
from export.engine.sizes import fix_quantized
from export.graph.pixel_io import add_pixel_io
from export.models import find_network
from export.stage import export_network
from export.weights import find_weights
from quantize.int8 import quantize_int8
from quantize.options import Effort, Int8Options
from quantize.stage import load_fp32, quantize_bundle
from runtime.backends import EMULATED, choose_entry
from runtime.backends.compiled_engines import CompiledRecord, read_compiled, record_path
from runtime.backends.engines import ShapeProfile
from runtime.backends.onnxruntime import run_as_written
from runtime.backends.qnn_library import htp_options
from runtime.bundle import ENGINES, Bundle
from runtime.errors import BackendError, PipelineError
from runtime.targets import find_target
from runtime.targets.operators import Row
from runtime.upscaler import Upscaler
from runtime.verify.value_check import check_picture, psnr_db
from tests.graphs import Array, Graph
from tests.row_graphs import COLOURS, GRAPHS, SIDE, operator_graph
from tests.small_int8 import measured_on

emulator = pytest.mark.skipif(not choose_entry("qnn").emulated, reason="on a Snapdragon the NPU itself would run")
TARGETS = ("qnn", "qnn-a16")
NOT_THERE = {"Div", "Tile", "Resize nearest", "Resize cubic"}
"""What neither target's table has; `qnn-a16` lacks HardSigmoid too."""
LEAST_DB = {"qnn": 50.0, "qnn-a16": 60.0}  # of an operator: the emulator rounds a code otherwise here and there
_SIDE = 32  # pixels of pictures: a second of emulation
PICTURE = check_picture((_SIDE, _SIDE))
Make = Callable[..., CompiledRecord]


def int8_of(model: onnx.ModelProto, target: str, *, side: int = SIDE) -> onnx.ModelProto:
    rng = np.random.default_rng(5)
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    crops = [rng.random((1, channels, side, side), np.float32) for _ in range(2)]
    options = Int8Options(target=find_target(target), method=Method.MINMAX, effort=Effort.FAST)
    return quantize_int8(model, measured_on(model, crops), options).model


def htp_form(model: onnx.ModelProto, *, side: int = SIDE) -> onnx.ModelProto:
    fixed = ir.from_proto(fix_quantized(model, (1, side, side)))
    bring_into_htp_form(fixed)
    return ir.to_proto(fixed)


def quantized_for_qnn(bundle: Bundle, directory: Path, *targets: str) -> Bundle:
    """A copy of `bundle` with int8 graphs for these targets."""
    shutil.copytree(bundle.directory, directory)
    copy = Bundle.open(directory)
    channels = copy.manifest.contract.channels
    crops = [check_picture((_SIDE, _SIDE))[..., :channels].transpose(2, 0, 1)[np.newaxis].astype(np.float32) / np.float32(255)]
    for target in targets:
        options = Int8Options(target=find_target(target), method=Method.MINMAX, effort=Effort.FAST)
        copy = quantize_bundle(copy, measured_on(load_fp32(copy), crops), options, crops=crops)
    return copy


@pytest.fixture(scope="module")
def for_qnn(exported_small: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """`exported_small`, quantized for both targets, with engines of the default architecture; not to be written to."""
    bundle = quantized_for_qnn(exported_small, tmp_path_factory.mktemp("for_qnn") / "small", *TARGETS)
    bundle = add_pixel_io(bundle, bundle.variant("int8", target="qnn"))
    for target in TARGETS:
        main([str(bundle.directory), "--for", "qnn", "--target", target, "--window", f"{_SIDE}x{_SIDE}"])
    return bundle


@pytest.fixture
def bundle(for_qnn: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.open(Path(shutil.copytree(for_qnn.directory, tmp_path / "small")))


@pytest.fixture
def make(bundle: Bundle) -> Make:
    """Types `python -m export.engine BUNDLE --for qnn …`, and reads the record of what it made."""

    def type_in(*options: str) -> CompiledRecord:
        main([str(bundle.directory), "--for", "qnn", *options])
        record = read_compiled(record_path(bundle.directory / ENGINES, "qnn", "model.int8-qnn.onnx"))
        assert record is not None
        return record

    return type_in


@cache
def picture_of(channels: int = COLOURS, side: int = SIDE) -> Array:
    return np.random.default_rng(5).random((1, channels, side, side), np.float32)


@emulator
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", [name for name in GRAPHS if name not in NOT_THERE])
def test_the_emulator_computes_every_operator_of_the_table_as_onnx_does(name: str, target: str, tmp_path: Path) -> None:
    if (target, name) == ("qnn-a16", "HardSigmoid"):
        pytest.skip("the table of qnn-a16 has no such")
    check_on_the_emulator(operator_graph(GRAPHS[name]), target, tmp_path)


@emulator
@pytest.mark.parametrize("scale", [0.5, 1.5, 2.0])
@pytest.mark.parametrize("row", [row for row in find_target("qnn").operators if dict(row.attributes).get("mode") == ("nearest",)])
def test_the_emulator_takes_the_nearest_pixel_that_onnx_takes(row: Row, scale: float, tmp_path: Path) -> None:
    def resized(graph: Graph, source: str) -> str:
        attributes: dict[str, Any] = {name: values[0] for name, values in row.attributes}
        return graph.add("Resize", source, "", graph.constant(np.array([1, 1, scale, scale], np.float32)), **attributes)

    check_on_the_emulator(operator_graph(resized), "qnn", tmp_path)


def check_on_the_emulator(network: onnx.ModelProto, target: str, folder: Path) -> None:
    """Every node is in integers, and what comes out is what the int8 graph says."""
    model = int8_of(network, target)
    wanted = run_as_written(model.SerializeToString(), picture_of())
    options = htp_options({"htp_arch": "73", "dump_json_qnn_graph": "1", "json_qnn_graph_dir": str(folder)})
    session = ort.InferenceSession(htp_form(model).SerializeToString(), options)
    (made,) = session.run(None, {"input": picture_of()})
    assert psnr_db(made.astype(np.float64), wanted.astype(np.float64)) >= LEAST_DB[target]
    (graph,) = [found["graph"] for path in folder.glob("*.json") if "graph" in (found := json.loads(path.read_text()))]
    types = {graph["tensors"][node["input_names"][0]]["data_type"]: node["type"] for node in graph["nodes"].values()}
    assert types.pop(0x232) == "Quantize"  # floats are the picture alone
    assert types.keys() == {0x408 if target == "qnn" else 0x416}


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bounds", [(0.0, None), (0.0, 6.0), (-0.3, 0.4), (0.1, 0.35), (-9.0, 9.0)])
@pytest.mark.parametrize("zero_point", [0, 77, 255])
def test_the_form_for_the_htp_changes_no_code(dtype: str, bounds: tuple[float, float | None], zero_point: int) -> None:
    graph = Graph(0, channels=3, sides=(SIDE, SIDE))
    wide = graph.conv("input", 4, 3)
    low, high = bounds
    given = [graph.constant(np.array(bound, np.float32)) for bound in (low, high) if bound is not None]
    clipped = graph.add("Relu", wide) if high is None else graph.add("Clip", wide, *given)
    code = [graph.constant(0.0123), graph.constant(np.array(zero_point, dtype))]
    integers = graph.add("QuantizeLinear", clipped, *code)
    model = graph.proto(graph.add("Mul", graph.add("DequantizeLinear", integers, *code), graph.constant(0.3)), opset=21)
    formed = ir.from_proto(model)
    assert bring_into_htp_form(formed) == ()
    made, wanted = (run_as_written(one.SerializeToString(), picture_of()) for one in (ir.to_proto(formed), model))
    np.testing.assert_allclose(made, wanted, rtol=1e-6)
    clamps = [node.inputs[0] for node in formed.graph if node.op_type in ("Clip", "Relu", "Max", "Min")]
    assert {value.producer().op_type for value in clamps} <= {"DequantizeLinear"}  # type: ignore[union-attr] # none is left out


def test_constants_get_codes_of_their_own_and_those_of_several_values_are_named() -> None:
    graph = Graph(0, channels=3, sides=(SIDE, SIDE))
    wide = graph.conv("input", 4, 3)
    same = graph.add("Add", wide, graph.add("Mul", wide, graph.constant(np.full((1, 4, 1, 1), -0.3, np.float32))))
    several = graph.add("Add", same, graph.constant(np.array([0.1, -0.2, 0.3, 0], np.float32).reshape(1, 4, 1, 1)))
    model = int8_of(graph.proto(graph.conv(several, 3, 3)), "qnn")
    formed = ir.from_proto(model)
    assert bring_into_htp_form(formed) == (several,)
    read = [
        value.producer() for node in formed.graph if node.op_type in ("Mul", "Add") for value in node.inputs if value is not None
    ]
    assert {node.op_type for node in read if node is not None} == {"DequantizeLinear"}
    wanted, made = (run_as_written(one.SerializeToString(), picture_of()) for one in (model, ir.to_proto(formed)))
    assert psnr_db(made.astype(np.float64), wanted.astype(np.float64)) >= LEAST_DB["qnn"]


@emulator
@pytest.mark.parametrize("target", TARGETS)
def test_an_engine_runs_on_the_emulator_and_holds_the_values(for_qnn: Bundle, target: str) -> None:
    with Upscaler.open(for_qnn, backend="qnn", precision="int8", target=target, verify="always") as upscaler:
        assert upscaler.backend_name == "qnn"
        assert upscaler.value_check is not None
        assert upscaler.value_check.passed
        assert upscaler.precision_report.verified
        made = upscaler(PICTURE)
    with Upscaler.open(for_qnn, backend="onnxruntime", precision="int8", target=target, verify="never") as upscaler:
        wanted = upscaler(PICTURE)
    assert psnr_db(made / 255.0, wanted / 255.0) >= 50


@emulator
@pytest.mark.parametrize(("name", "scale"), [("lesrcnn", 2), ("espcn", 3)])
def test_a_network_with_its_own_weights_is_on_the_npu_and_right(name: str, scale: int, tmp_path: Path) -> None:
    network = find_network(name, scale=scale)
    weights = find_weights(network, scale=scale, choice="shipped")
    exported = export_network(network, scale=scale, weights=weights, directory=tmp_path / "fp32")
    bundle = quantized_for_qnn(exported, tmp_path / "int8", "qnn")
    main([str(bundle.directory), "--for", "qnn", "--window", f"{_SIDE}x{_SIDE}"])
    record = read_compiled(record_path(bundle.directory / ENGINES, "qnn", "model.int8-qnn.onnx"))
    assert record is not None
    assert {(layer.unit, layer.precision) for layer in record.layers} == {("HTP", "int8")}
    variant = bundle.variant("int8", target="qnn")
    assert set(variant.int8_layers) <= {layer.name for layer in record.layers}
    outputs = []
    for backend in ("qnn", "onnxruntime"):
        with Upscaler.open(bundle, backend=backend, precision="int8", verify="never") as upscaler:
            outputs.append(upscaler(PICTURE) / 255.0)
    assert psnr_db(*outputs) >= 50


def test_every_architecture_is_compiled_and_one_is_chosen_by_name(make: Make, bundle: Bundle) -> None:
    architectures = find_compiler("qnn").architectures
    record = make("--architecture", ",".join(architectures), "--window", f"{_SIDE}x{_SIDE}")
    files = [path.name for path in (bundle.directory / ENGINES / "qnn").iterdir() if path.suffix != ".json"]
    assert len(files) == 2  # the former plan is gone, that of qnn-a16 is untouched
    with zipfile.ZipFile(bundle.directory / ENGINES / "qnn" / record.plan.file) as archive:
        for name in architectures:
            model = onnx.load_model_from_string(archive.read(f"{name}.onnx"))
            assert [node.op_type for node in model.graph.node] == ["EPContext"]
            (built_for,) = [entry.value for entry in model.metadata_props if entry.key.startswith("ep_compatibility_info")]
            assert f":{name.removeprefix('v')}:" in built_for
    if choose_entry("qnn").emulated:
        made = []
        for device in (None, "v81", "v68"):
            with Upscaler.open(bundle, backend="qnn", precision="int8", target="qnn", device=device, verify="never") as upscaler:
                made.append(upscaler(PICTURE))
        np.testing.assert_array_equal(made[0], made[1])  # the latest, where none is named
        assert psnr_db(made[2] / 255.0, made[1] / 255.0) >= 50
    with (
        pytest.raises(BackendError, match="not for v66") as caught,
        Upscaler.open(bundle, backend="qnn", precision="int8", target="qnn", device="v66"),
    ):
        pass
    assert "--device" in caught.value.hint


@emulator
def test_nothing_of_qnn_s_own_is_printed(for_qnn: Bundle) -> None:
    program = (
        "from runtime.upscaler import Upscaler\n"
        f"Upscaler.open({str(for_qnn.directory)!r}, backend='qnn', precision='int8', target='qnn', verify='never')"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", f"qnn: {EMULATED}\n")


@emulator
def test_benchmarks_give_decibels_and_no_latency(for_qnn: Bundle, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "picture.png"), check_picture((2 * _SIDE, 2 * _SIDE)))
    options = ["--precision", "int8", "--target", "qnn", "--backend", "qnn", "--backend", "onnxruntime", "--runs", "2"]
    benchmarks.main([str(for_qnn.directory), "--data", str(tmp_path), "--out", str(tmp_path / "report"), *options])
    rows = {row["backend"]: row for row in json.loads((tmp_path / "report" / "result.json").read_text())["rows"]}
    assert rows["qnn"]["latency"] is rows["qnn"]["speedup"] is None
    assert rows["onnxruntime"]["latency"]["p50_ms"] > 0
    assert abs(rows["qnn"]["psnr_db"] - rows["onnxruntime"]["psnr_db"]) < 0.5
    report = (tmp_path / "report" / "report.md").read_text()
    (line,) = [line for line in report.splitlines() if "| qnn |" in line and "| int8 |" in line and "| onnxruntime |" not in line]
    assert line.strip("| ").split(" | ")[COLUMNS.index("p50 ms")] == "–"
    assert f"- qnn: {EMULATED}" in report


def test_a_compiler_that_is_missing_says_how_to_get_it() -> None:
    with pytest.raises(BackendError, match="'qnn' is not installed: no_such_package cannot be found") as caught:
        replace(find_compiler("qnn"), packages=("no_such_package",)).check_installed()
    assert "sredge[qnn]" in caught.value.hint


def test_an_architecture_that_does_not_exist_is_named(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(bundle.directory), "--for", "qnn", "--architecture", "v66"])
    assert ended.value.code == 2
    assert "v66" in (told := capsys.readouterr().err)
    assert "v68, v69, v73" in told


def test_a_target_that_the_compiler_does_not_take_is_named(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(bundle.directory), "--for", "qnn", "--target", "litert"])
    assert ended.value.code == 2
    assert "qnn, qnn-a16" in capsys.readouterr().err


def test_an_engine_of_another_graph_is_refused_with_what_to_type(bundle: Bundle) -> None:
    options = Int8Options(target=find_target("qnn"), method=Method.MINMAX, effort=Effort.FAST)
    crops = [0.7 * picture_of(side=_SIDE)]
    other = quantize_bundle(bundle, measured_on(load_fp32(bundle), crops), options, crops=crops)
    with (
        pytest.raises(BackendError, match="built from another graph") as caught,
        Upscaler.open(other, backend="qnn", precision="int8", target="qnn"),
    ):
        pass
    assert "--for qnn" in caught.value.hint


def test_a_graph_of_raw_pixels_is_refused(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted((bundle.directory / ENGINES / "qnn").iterdir())
    with pytest.raises(SystemExit) as ended:
        main([str(bundle.directory), "--for", "qnn", "--io", "uint8", "--window", f"{_SIDE}x{_SIDE}"])
    assert ended.value.code == 2
    assert "--io float32" in capsys.readouterr().err
    assert sorted((bundle.directory / ENGINES / "qnn").iterdir()) == before


def test_an_operator_that_the_htp_lacks_is_named_with_the_reason() -> None:
    graph = Graph(0, channels=3, sides=(SIDE, SIDE))
    model = htp_form(graph.proto(graph.conv(graph.add("Celu", graph.conv("input", 4, 3)), 3, 3)))
    with pytest.raises(PipelineError, match=r"model for v73: 1 nodes would stay on the CPU: Celu \(celu1\): .+") as caught:
        compile_context(model, "v73", name="model")
    assert caught.value.hint


def test_an_operator_in_floats_is_named(bundle: Bundle) -> None:
    model = operator_graph(GRAPHS["Softmax"])
    size = (SIDE, SIDE)
    request = CompileRequest(
        name="model",
        graph=model.SerializeToString(),
        precision="int8",
        io="float32",
        target=find_target("qnn"),
        manifest=bundle.manifest,
        architectures=("v73",),
        profile=ShapeProfile(min=size, opt=size, max=size),
    )
    with pytest.raises(PipelineError, match=r"would compute in floats: .*Conv2d \(conv0\), .*Softmax \(softmax1\)"):
        compile_graph(request, on_step=lambda *_: None)
