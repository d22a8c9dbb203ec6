"""The compilers `litert` and `ethos-u`, and the backend of .tflite files: engines of a real bundle, by the real libraries."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'sredge[litert]'")

from calibration.ranges import Method
from export.engine.cli import main
from export.engine.compilers import find_compiler
from export.engine.ethos_u.shuffles import FORMS, Form, operators_with
from export.engine.ethos_u.vela import run_vela
from export.engine.litert.flatbuffer import serialize
from export.engine.litert.operators import OPERATORS
from export.engine.litert.walk import write_tflite
from export.graph.pixel_io import add_pixel_io, with_pixel_io
from quantize.options import Effort, Int8Options
from quantize.stage import load_fp32, quantize_bundle
from runtime.backends import open_backend
from runtime.backends.compiled_engines import CompiledRecord, read_compiled, record_path
from runtime.backends.litert_layers import read_layers
from runtime.bundle import ENGINES, Bundle
from runtime.errors import BackendError, PipelineError
from runtime.targets import find_target
from runtime.upscaler import Upscaler
from runtime.verify.precision import verify_precision
from tests.document_blocks import DOCS, blocks
from tests.graphs import Graph
from tests.small_int8 import measured_on
from tests.test_litert_writer import quantized as quantized_for_litert
from tests.tflite_files import operators_of, read_tflite, run_tflite

vela = pytest.mark.skipif(bool(find_compiler("ethos-u").missing), reason="pip install 'sredge[ethos-u]'")
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 33, 3), np.uint8)
_SIZE = (16, 24)
Make = Callable[..., CompiledRecord]


@pytest.fixture(scope="module")
def for_litert(exported_small: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """`exported_small`, quantized for LiteRT, with ends for pixels too; not to be written to."""
    directory = tmp_path_factory.mktemp("for_litert") / "small"
    shutil.copytree(exported_small.directory, directory)
    bundle = Bundle.open(directory)
    rng = np.random.default_rng(3)
    crops = [rng.integers(0, 256, (1, 3, 32, 32)).astype(np.float32) / np.float32(255) for _ in range(2)]
    options = Int8Options(target=find_target("litert"), method=Method.MINMAX, effort=Effort.FAST)
    bundle = quantize_bundle(bundle, measured_on(load_fp32(bundle), crops), options, crops=crops)
    return add_pixel_io(bundle, bundle.variant("int8", target="litert"))


@pytest.fixture
def bundle(for_litert: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.open(Path(shutil.copytree(for_litert.directory, tmp_path / "small")))


@pytest.fixture
def make(bundle: Bundle) -> Make:
    """Types `python -m export.engine BUNDLE …`, and reads the record of what it made."""

    def type_in(compiler: str, *options: str, file: str = "model.int8-litert.onnx") -> CompiledRecord:
        main([str(bundle.directory), "--for", compiler, *options])
        record = read_compiled(record_path(bundle.directory / ENGINES, compiler, file))
        assert record is not None
        return record

    return type_in


@pytest.mark.parametrize(("precision", "io"), [("int8", "float32"), ("int8", "uint8"), ("fp32", "float32")])
def test_an_engine_runs_on_the_backend_and_holds_the_values(make: Make, bundle: Bundle, precision: str, io: str) -> None:
    file = bundle.variant(precision, target="litert" if precision == "int8" else None, io=io).file  # type: ignore[arg-type]
    make("litert", "--precision", precision, "--io", io, file=file)
    graph = {"precision": precision, "io": io, "threads": 1}
    with Upscaler.open(bundle, backend="litert", verify="always", **graph) as upscaler:  # type: ignore[arg-type]
        assert upscaler.backend_name == "litert"
        assert upscaler.value_check is not None
        assert upscaler.value_check.passed
        assert upscaler.precision_report.verified
        made = upscaler(PIXELS)
    with Upscaler.open(bundle, backend="onnxruntime", verify="never", **graph) as upscaler:  # type: ignore[arg-type]
        assert np.abs(made.astype(int) - upscaler(PIXELS)).max() <= 1


def test_the_layers_of_a_record_are_the_file_s_and_as_asked(make: Make, bundle: Bundle) -> None:
    record = make("litert")
    variant = bundle.variant("int8", target="litert")
    assert verify_precision(bundle.manifest, variant, record.precisions).verified
    plan = (bundle.directory / ENGINES / "litert" / record.plan.file).read_bytes()
    assert [layer.name for layer in record.layers] == [layer.name for layer in read_layers(plan)]
    assert record.other_precision == ()


def test_a_file_names_what_it_is(make: Make, bundle: Bundle) -> None:
    record = make("litert")
    model = read_tflite((bundle.directory / ENGINES / "litert" / record.plan.file).read_bytes())
    told = {entry.name.decode(): bytes(model.buffers[entry.buffer].data).decode() for entry in model.metadata}
    assert told["name"] == "model.int8-litert.onnx"
    assert told["scale"] == "2"
    assert told["sredge"]


def test_the_same_engine_is_not_written_twice(make: Make, bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    first = make("litert")
    capsys.readouterr()
    assert make("litert") == first
    assert "up to date" in capsys.readouterr().out


def test_an_engine_of_one_size_runs_larger_pictures_in_windows(make: Make, bundle: Bundle) -> None:
    make("litert", "--window", "24x32")
    with Upscaler.open(bundle, backend="litert", precision="int8", verify="always") as upscaler:
        made = upscaler(PIXELS)
    with Upscaler.open(bundle, backend="onnxruntime", precision="int8", verify="never") as upscaler:
        assert np.abs(made.astype(int) - upscaler(PIXELS)).max() <= 1


def test_a_graph_without_an_engine_is_refused_with_what_to_type(bundle: Bundle) -> None:
    with (
        pytest.raises(BackendError, match="holds no int8 engine") as caught,
        Upscaler.open(bundle, backend="litert", precision="int8"),
    ):
        pass
    assert "--for litert" in caught.value.hint


def test_a_file_that_is_none_is_one_error(make: Make, bundle: Bundle) -> None:
    record = make("litert")
    path = bundle.directory / ENGINES / "litert" / record.plan.file
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BackendError, match="sha256 differs"), Upscaler.open(bundle, backend="litert", precision="int8"):
        pass
    with pytest.raises(BackendError, match=r"not a \.tflite file"):
        read_layers(b"something else")


def test_runs_at_a_time_of_several_sizes_give_each_its_own(make: Make, bundle: Bundle) -> None:
    make("litert")
    variant = bundle.variant("int8", target="litert")
    graph, engines = bundle.read(variant), bundle.directory / ENGINES
    arrays = [np.random.default_rng(size).random((1, 3, size, 40), np.float32) for size in (16, 24, 32, 40)] * 3
    with (
        open_backend("onnxruntime", graph, precision="int8") as reference,
        open_backend("litert", graph, precision="int8", threads=2, parallel=2, engines=engines) as backend,
        ThreadPoolExecutor(4) as pool,
    ):
        for array, made in zip(arrays, pool.map(backend.run, arrays), strict=True):
            assert np.abs(made - reference.run(array)).max() <= 1.01 / 255


def test_nothing_of_litert_s_own_is_printed(make: Make, bundle: Bundle) -> None:
    make("litert")
    program = f"from runtime.upscaler import Upscaler\nUpscaler.open({str(bundle.directory)!r}, backend='litert', precision='int8')"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")


def test_the_listing_of_the_guide_gives_what_the_backend_gives(
    make: Make, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("litert", "--io", "uint8", file="model.int8-litert.uint8-io.onnx")
    bundle.directory.rename(tmp_path / "lesrcnn_x2")
    monkeypatch.chdir(tmp_path)
    (listing,) = [block for block in blocks(DOCS / "litert.md", "python") if "Interpreter" in block.text]
    names: dict[str, Any] = {"picture": PIXELS}
    exec(compile(listing.text, str(listing), "exec"), names)
    graph = Bundle.open(tmp_path / "lesrcnn_x2").path(bundle.variant("int8", target="litert", io="uint8")).read_bytes()
    with open_backend("litert", graph, precision="int8", io="uint8", engines=tmp_path / "lesrcnn_x2" / ENGINES) as backend:
        (enlarged,) = backend.run(PIXELS[np.newaxis])
    np.testing.assert_array_equal(names["larger"], enlarged)


def test_a_range_of_sizes_is_refused(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(bundle.directory), "--for", "litert", "--min", "16x16", "--max", "32x32"])
    assert ended.value.code == 2
    assert "one size or of every size" in capsys.readouterr().err


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("mode", "convolution"), [("CRD", True), ("CRD", False), ("DCR", True), ("DCR", False)])
def test_the_forms_of_a_shuffle_for_the_npu_are_exact(form: Form, mode: str, convolution: bool) -> None:
    graph = Graph(0, channels=3)
    wide = graph.conv("input", 12, 3)
    if not convolution:
        wide = graph.add("Add", wide, graph.conv("input", 12, 3))
    model = quantized_for_litert(graph.proto(graph.conv(graph.shuffle(wide, 2, mode), 3, 3)), side=12)
    array = np.random.default_rng(1).random((1, 3, *_SIZE), np.float32)
    files = [
        serialize(write_tflite(model, size=_SIZE, operators=operators), description="", metadata={})
        for operators in (OPERATORS, operators_with(form))
    ]
    assert not {"DEPTH_TO_SPACE", "GATHER"} & operators_of(files[1]).keys()
    np.testing.assert_array_equal(run_tflite(files[1], array), run_tflite(files[0], array))


@vela
@pytest.mark.parametrize("form", FORMS)
def test_a_shuffle_stays_on_the_npu(form: Form) -> None:
    graph = Graph(0, channels=3)
    model = quantized_for_litert(graph.proto(graph.conv(graph.shuffle(graph.conv("input", 12, 3)), 3, 3)), side=12)
    tables = (OPERATORS, operators_with(form))
    left = []
    for operators in tables:
        file = serialize(write_tflite(with_pixel_io(model), size=_SIZE, operators=operators), description="", metadata={})
        left.append(run_vela(file, "ethos-u85-512", name="a test").on_cpu)
    assert left == [("depthtospace1",), ()]


@vela
def test_what_vela_says_is_an_estimate(make: Make, bundle: Bundle) -> None:
    options = ("--io", "uint8", "--architecture", "u55-128,u85-512", "--window", "32x32")
    record = make("ethos-u", *options, file="model.int8-litert.uint8-io.onnx")
    assert {layer.unit for layer in record.layers} == {"NPU"}
    assert {estimate.by.split()[0] for estimate in record.estimates} == {"Vela"}
    told = {(estimate.architecture, estimate.what): estimate.value for estimate in record.estimates}
    for architecture, clock in (("u55-128", 500), ("u85-512", 1000)):
        cycles = told[architecture, "cycles"]
        assert told[architecture, f"latency at {clock} MHz"] == pytest.approx(cycles / clock / 1e3, abs=0.01)
        assert told[architecture, "left on the CPU"] == 0
    assert any("no Ethos-U has run this" in sentence for sentence in record.unproven)
    with zipfile.ZipFile(bundle.directory / ENGINES / "ethos-u" / record.plan.file) as archive:
        assert archive.namelist() == ["u55-128.tflite", "u85-512.tflite"]
        assert {layer.op for layer in read_layers(archive.read("u55-128.tflite"))} == {"CUSTOM"}


@vela
def test_float_ends_are_left_on_the_cpu_and_said_to_be(make: Make) -> None:
    record = make("ethos-u", "--architecture", "u55-128", "--window", "32x32")
    assert record.plan.file.endswith(".tflite")
    assert {layer.op for layer in record.layers if layer.unit == "CPU"} == {"QUANTIZE", "DEQUANTIZE"}
    assert any("left on the CPU" in sentence for sentence in record.unproven)


@vela
def test_a_vela_that_fails_is_one_error_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PipelineError, match=r"Vela .* does not compile broken for ethos-u55-128") as caught:
        run_vela(b"no .tflite file", "ethos-u55-128", name="broken")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
