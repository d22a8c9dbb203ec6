"""The whole way from a bundle to pictures through TensorRT's real bindings and pycuda, over stand-ins for a GPU and its engine.

What these tests hold is our side: the calls, their order, their arguments, memory, contexts, threads, files. What a GPU computes,
and what TensorRT's builder makes of a graph, they cannot tell.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.gpu import read_gpu_state
from runtime.backends import BACKENDS, choose_backend
from runtime.bundle import Bundle, sha256_bytes, write_bundle
from runtime.engines import EngineRecord
from runtime.errors import BackendError
from runtime.images import write_picture
from runtime.pixel_io import add_pixel_io
from runtime.targets import Precision
from tests.stand_ins.libraries import BINDINGS, ROOT, bindings, joined, pycuda

NEWEST = "11.4.0.106"

UPSCALE = """
import ctypes, json, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from runtime import Upscaler
from runtime.errors import BackendError
from runtime.images import write_picture

bundle, precision, sizes = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
rng = np.random.default_rng(0)
reference = Upscaler.open(bundle, precision=precision, backend="onnxruntime")
with Upscaler.open(bundle, precision=precision, backend="tensorrt", parallel=2) as upscaler:
    for size in sizes:
        picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        difference = np.abs(upscaler(picture).astype(int) - reference(picture)).max()
        print(json.dumps({"size": size, "windows": upscaler.plan(picture).count, "difference": int(difference)}))
    array = rng.random((1, 3, 48, 64), np.float32)
    with ThreadPoolExecutor(5) as pool:
        outputs = list(pool.map(upscaler.run, [array] * 12))
    expected = reference.run(array)
    times = upscaler.time_on_device(array, 3)
    try:
        upscaler.run(rng.random((1, 3, 300, 64), np.float32))
    except BackendError as error:
        refused = str(error)
    print(json.dumps({
        "threads": max(float(np.abs(output - expected).max()) for output in outputs),
        "ran": dict(upscaler.precision_report.mac_share),
        "times": [len(times.network_ms), all(0 < a <= b for a, b in zip(times.network_ms, times.with_copies_ms))],
        "refused": refused,
    }))
print(json.dumps({"left": ctypes.CDLL("libcuda.so.1").standin_left_over()}))
"""
SAME = """
import sys
import numpy as np
from runtime import Bundle, Upscaler
from runtime.backends import open_backend

bundle, precision = sys.argv[1:3]
array = np.random.default_rng(0).random((1, 3, 48, 64), np.float32)
with Upscaler.open(bundle, precision=precision, backend="tensorrt") as upscaler:
    graph = upscaler.bundle.read(upscaler.variant)
    with open_backend("onnxruntime", graph, precision=precision) as reference:
        print(np.array_equal(upscaler.run(array), reference.run(array)))
"""
RAN = """
import sys, numpy as np
from runtime import Upscaler
with Upscaler.open(sys.argv[1], precision="int8", backend="tensorrt") as upscaler:
    upscaler(np.zeros((20, 30, 3), np.uint8))
    print(upscaler.variant.file, upscaler.backend_name, upscaler.precision_report.verified)
"""

RAW = """
import ctypes, json, sys
import numpy as np
from runtime import Upscaler
from runtime.errors import BackendError

bundle, precision = sys.argv[1:3]
rng = np.random.default_rng(0)
reference = Upscaler.open(bundle, precision=precision, io="uint8", backend="onnxruntime")
with Upscaler.open(bundle, precision=precision, io="uint8", backend="tensorrt", parallel=2) as upscaler:
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((64, 80), (33, 47), (100, 130))]
    frames = rng.integers(0, 256, (1, 48, 64, 3), dtype=np.uint8)
    times = upscaler.time_on_device(frames, 2)
    refused = []
    for wrong in (frames.astype(np.float32), frames.transpose(0, 3, 1, 2), frames[0], np.zeros((2, 48, 64, 3), np.uint8)):
        try:
            upscaler.time_on_device(wrong, 1)
        except BackendError as error:
            refused.append(str(error))
    print(json.dumps({
        "file": upscaler.variant.file,
        "windows": [upscaler.plan(picture).count for picture in pictures],
        "same": [bool((upscaler(picture) == reference(picture)).all()) for picture in pictures],
        "verified": upscaler.precision_report.verified,
        "times": all(0 < a <= b for a, b in zip(times.network_ms, times.with_copies_ms)),
        "refused": refused,
    }))
print(json.dumps({"left": ctypes.CDLL("libcuda.so.1").standin_left_over()}))
"""


@pytest.fixture
def bundle(quantized: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(quantized.directory, tmp_path / "bundle"))


def _environment(version: str, **more: str) -> dict[str, str]:
    return {**joined(bindings(version), pycuda()), "OMP_NUM_THREADS": "1", "SREDGE_STAND_IN": "1", **more}


def _build(bundle: Path, *options: str, version: str = NEWEST, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m export.engine`, over the stand-ins."""
    return subprocess.run(
        [sys.executable, "-m", "export.engine", str(bundle), *options],
        env=_environment(version, **environment),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def _built(bundle: Path, *options: str, version: str = NEWEST, **environment: str) -> str:
    done = _build(bundle, *options, version=version, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _record(bundle: Path, name: str = "model.fp32") -> EngineRecord:
    return EngineRecord.model_validate_json((bundle / "engines" / f"{name}.json").read_bytes())


def _upscale(
    bundle: Path, *sizes: tuple[int, int], precision: str = "fp32", version: str = NEWEST, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", UPSCALE, str(bundle), precision, json.dumps(sizes)],
        env=_environment(version, **environment),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.parametrize(("version", "precision"), [*((version, "fp32") for version in BINDINGS), (NEWEST, "fp16")])
def test_an_engine_is_built_verified_and_run_in_windows_and_threads(bundle: Path, version: str, precision: str) -> None:
    printed = _built(bundle, "--precision", precision, "--max", "64x80", "--workspace", "64", "--refit", version=version)
    assert f"{precision} engine for Stand-In GPU, TensorRT {version}" in printed
    record = _record(bundle, f"model.{precision}")
    variant = Bundle.open(bundle).variant("fp32" if precision == "fp32" else "fp16")
    assert (record.key.graph_sha256, record.key.tensorrt, record.key.compute_capability) == (variant.sha256, version, (8, 7))
    assert (record.key.workspace_mib, record.key.refit, record.key.tf32, record.other_precision) == (64, True, False, ())
    done = _upscale(bundle, (64, 80), (33, 47), (100, 130), precision=precision, version=version)
    assert done.returncode == 0, done.stderr
    *pictures, rest, end = map(json.loads, done.stdout.splitlines())
    assert [(line["windows"] > 1, line["difference"]) for line in pictures] == [(False, 0), (False, 0), (True, 0)]
    assert rest["threads"] == 0
    assert rest["ran"] == {precision: 1.0}
    assert rest["times"] == [3, True]
    assert "batch 1 to 1, height×width min 16×16, opt 64×80, max 64×80; got (1, 3, 300, 64)" in rest["refused"]
    assert end["left"] == 0  # every allocation and stream was given back


def test_int8_is_built_from_the_graph_for_tensorrt_and_verified_layer_by_layer(for_tensorrt: Bundle, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(for_tensorrt.directory, tmp_path / "bundle"))
    _built(bundle, "--precision", "int8", "--max", "64x80")
    int8 = for_tensorrt.variant("int8", target="tensorrt")
    record = _record(bundle, "model.int8-tensorrt")
    assert (record.key.graph_sha256, record.other_precision) == (int8.sha256, ())
    done = subprocess.run(
        [sys.executable, "-c", RAN, str(bundle)], env=_environment(NEWEST), capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == [int8.file, "tensorrt", "True"]  # not the CPU's int8 graph, which the bundle has too


@pytest.mark.parametrize(
    ("version", "precision"), [*((version, "fp32") for version in BINDINGS), (NEWEST, "fp16"), (NEWEST, "int8")]
)
def test_an_engine_of_raw_pixels_gives_the_pixels(for_tensorrt: Bundle, tmp_path: Path, version: str, precision: Precision) -> None:
    copy = Bundle.open(Path(shutil.copytree(for_tensorrt.directory, tmp_path / "bundle")))
    floats = copy.variant(precision, target="tensorrt")
    raw = add_pixel_io(copy, floats, parse=onnx.load_model_from_string)
    shapes = ("--min", "16x24", "--max", "64x80")
    printed = _built(raw.directory, "--precision", precision, "--io", "uint8", *shapes, version=version)
    assert f"{precision} engine of raw pixels for Stand-In GPU" in printed
    variant = raw.variant(precision, target="tensorrt", io="uint8")
    record = _record(raw.directory, Path(variant.file).stem)
    assert (record.key.io, record.key.graph_sha256, record.key.profile.min) == ("uint8", variant.sha256, (16, 24))
    done = subprocess.run(
        [sys.executable, "-c", RAW, str(raw.directory), precision],
        env=_environment(version),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    ran, end = map(json.loads, done.stdout.splitlines())
    assert (ran["file"], ran["same"], ran["verified"], ran["times"]) == (variant.file, [True] * 3, True, True)
    assert [count > 1 for count in ran["windows"]] == [False, False, True]
    kind, order, rank, batch = ran["refused"]
    assert "takes uint8 of batch, height, width, channels; got (1, 48, 64, 3) float32" in kind
    assert "got (1, 3, 48, 64) (batch, height, width, channels)" in order
    assert "got (48, 64, 3) uint8" in rank
    assert "batch 1 to 1" in batch
    assert end["left"] == 0


def test_engines_of_floats_and_of_raw_pixels_lie_side_by_side(bundle: Path) -> None:
    add_pixel_io(Bundle.open(bundle), Bundle.open(bundle).variant("fp32"), parse=onnx.load_model_from_string)
    missing = _upscale_raw(bundle)
    assert "holds no fp32 engine of this graph" in missing
    assert f"python -m export.engine {bundle} --precision fp32 --io uint8" in missing
    _built(bundle, "--precision", "fp32", "--max", "64x64")
    assert "holds no fp32 engine of this graph" in _upscale_raw(bundle)
    _built(bundle, "--precision", "fp32", "--max", "64x64", "--io", "uint8")
    assert _upscale_raw(bundle) == ""
    assert "up to date" in _built(bundle, "--precision", "fp32", "--max", "64x64")
    assert "up to date" in _built(bundle, "--precision", "fp32", "--max", "64x64", "--io", "uint8")


def _upscale_raw(bundle: Path) -> str:
    """What `python -m runtime upscale --io uint8` says on stderr."""
    write_picture(bundle / "in.png", np.zeros((20, 30, 3), np.uint8))
    command = ["upscale", "in.png", "-o", "out.png", "--bundle", str(bundle), "--precision", "fp32", "--overwrite"]
    done = subprocess.run(
        [sys.executable, "-m", "runtime", *command, "--backend", "tensorrt", "--io", "uint8"],
        env=_environment(NEWEST),
        capture_output=True,
        text=True,
        check=False,
        cwd=bundle,
    )
    assert (done.returncode == 0) == (done.stderr == ""), done.stderr
    return done.stderr


@pytest.mark.parametrize("captured", [True, False])
def test_an_engine_of_one_shape_is_captured_where_it_can_be(bundle: Path, captured: bool) -> None:
    _built(bundle, "--precision", "fp32", "--min", "48x64", "--opt", "48x64", "--max", "48x64")
    done = _upscale(bundle, (48, 64), (70, 64), **({} if captured else {"SREDGE_NO_CAPTURE": "1"}))
    assert done.returncode == 0, done.stderr
    first, second, rest, end = map(json.loads, done.stdout.splitlines())
    assert (first["windows"], second["windows"]) == (1, 2)
    assert (first["difference"], second["difference"], end["left"]) == (0, 0, 0)
    assert rest["threads"] == 0
    assert ("cannot be captured" in done.stderr) != captured


def test_the_same_key_is_not_built_twice_and_another_says_what_differs(bundle: Path) -> None:
    _built(bundle, "--precision", "fp32", "--max", "64x64", version="10.16.1.11")
    first = _record(bundle)
    assert "up to date" in _built(bundle, "--precision", "fp32", "--max", "64x64", version="10.16.1.11")
    printed = _built(bundle, "--precision", "fp32", "--max", "96x64", version=NEWEST)
    assert f"built anew: tensorrt: 10.16.1.11, not {NEWEST}" in printed
    assert "built anew: profile: batch 1 to 1, height×width min 16×16, opt 64×64, max 64×64, not" in printed
    assert "graph_sha256" not in printed
    assert not (bundle / "engines" / first.plan.file).exists()


def test_the_timing_cache_is_kept_and_one_of_another_version_is_begun_anew(bundle: Path, tmp_path: Path) -> None:
    cache = tmp_path / "timings"
    _built(bundle, "--precision", "fp32", "--timing-cache", str(cache), version="10.16.1.11")
    assert cache.read_bytes() == b"timings of 10.16.1.11"
    done = _build(bundle, "--precision", "fp32", "--timing-cache", str(cache))
    assert "the timing cache was of another TensorRT or GPU" in done.stderr
    assert cache.read_bytes() == f"timings of {NEWEST}".encode()
    _built(bundle, "--precision", "fp32", "--tf32", SREDGE_TF32="1")
    assert (bundle / "engines" / f"timing-{NEWEST}-sm87.cache").is_file()


@pytest.mark.parametrize(
    ("version", "precision"), [*((version, "fp32") for version in BINDINGS), (NEWEST, "fp16"), (NEWEST, "int8")]
)
def test_other_weights_go_into_the_engine_there_is(
    for_tensorrt: Bundle, tmp_path: Path, version: str, precision: Precision
) -> None:
    bundle = Path(shutil.copytree(for_tensorrt.directory, tmp_path / "bundle"))
    options = ("--precision", precision, "--max", "64x80", "--refit")
    _built(bundle, *options, version=version)
    name = Path(Bundle.open(bundle).variant(precision, target="tensorrt").file).stem
    for factor in (0.5, 0.25):  # a refitted engine takes others again
        _reweigh(bundle, precision, factor)
        before, cache = _record(bundle, name), (bundle / "engines" / f"timing-{version}-sm87.cache").stat().st_mtime_ns
        printed = _built(bundle, *options, version=version, SREDGE_NO_BUILD="1")
        record = _record(bundle, name)
        variant = Bundle.open(bundle).variant(precision, target="tensorrt")
        assert f"refitted: graph_sha256: {before.key.graph_sha256}, not {variant.sha256}" in printed
        assert "built anew" not in printed
        assert record.key == before.key.model_copy(update={"graph_sha256": variant.sha256})
        assert record.plan != before.plan
        assert [path.name for path in (bundle / "engines").glob("*.plan")] == [record.plan.file]
        assert (bundle / "engines" / f"timing-{version}-sm87.cache").stat().st_mtime_ns == cache
        assert "up to date" in _built(bundle, *options, version=version)
        assert _runs_as_onnxruntime_does(bundle, precision, version=version)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"SREDGE_FIXED": "conv2.0.weight"}, "cannot exchange conv2.0.weight"),
        ({"SREDGE_REFIT_FAILS": "1"}, "cannot read the weights: Failed to refit weights"),
    ],
    ids=["a weight that is fixed", "a refit that fails"],
)
def test_an_engine_that_cannot_be_refitted_is_built_anew(bundle: Path, environment: dict[str, str], says: str) -> None:
    options = ("--precision", "fp32", "--max", "64x80", "--refit")
    _built(bundle, *options)
    _reweigh(bundle, "fp32", 0.5)
    printed = _built(bundle, *options, **environment)
    assert f"not refitted: TensorRT {NEWEST} {says}" in printed
    assert "built anew: graph_sha256" in printed
    assert _runs_as_onnxruntime_does(bundle, "fp32")


def test_an_engine_is_refitted_for_weights_alone(bundle: Path) -> None:
    options = ("--precision", "fp32", "--max", "64x80")
    _built(bundle, *options)
    _reweigh(bundle, "fp32", 0.5)
    assert "refitted:" not in _built(bundle, *options)  # it was not built for it
    printed = _built(bundle, *options, "--refit")
    assert "built anew: refit: False, not True" in printed
    _reweigh(bundle, "fp32", 0.5)
    printed = _built(bundle, "--precision", "fp32", "--max", "64x96", "--refit")
    assert "built anew: profile" in printed
    assert "refitted:" not in printed
    _rewrite(bundle, "fp32", _without_rectifying)
    printed = _built(bundle, "--precision", "fp32", "--max", "64x96", "--refit")
    assert "built anew: structure_sha256" in printed
    assert "refitted:" not in printed


def test_layers_in_another_precision_fail_a_refit_too(bundle: Path) -> None:
    options, name = ("--precision", "fp16", "--max", "64x80", "--refit"), Bundle.open(bundle).manifest.layers[3].name
    _built(bundle, *options)
    before = {path.name: path.read_bytes() for path in (bundle / "engines").iterdir()}
    _reweigh(bundle, "fp16", 0.5)
    done = _build(bundle, *options, SREDGE_FALLBACK=name)
    assert (done.returncode, f"{name}: fp32" in done.stderr) == (1, True), done.stderr
    assert {path.name: path.read_bytes() for path in (bundle / "engines").iterdir()} == before


def _without_rectifying(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Identity"


def _rewrite(bundle: Path, precision: Precision, edit: Callable[[onnx.ModelProto], object]) -> None:
    """The bundle's graph, edited, as if it had been exported or quantized so."""
    opened = Bundle.open(bundle)
    variant = opened.variant(precision, target="tensorrt")
    model = onnx.load_model_from_string(opened.read(variant))
    edit(model)
    data = model.SerializeToString(deterministic=True)
    changed = variant.model_copy(update={"sha256": sha256_bytes(data)})
    write_bundle(bundle, opened.manifest.with_variant(changed), files={variant.file: data})


def _reweigh(bundle: Path, precision: Precision, factor: float) -> None:
    """Other weights and scales: the last layer's, by `factor`."""

    def scale(model: onnx.ModelProto) -> None:
        last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
        quantizer = next((node for node in model.graph.node if last.input[1] in node.output), None)
        name = last.input[1] if quantizer is None else quantizer.input[1]
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array((array * factor).astype(array.dtype), name))

    _rewrite(bundle, precision, scale)


def _runs_as_onnxruntime_does(bundle: Path, precision: Precision, *, version: str = NEWEST) -> bool:
    done = subprocess.run(
        [sys.executable, "-c", SAME, str(bundle), precision],
        env=_environment(version),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout == "True\n"


def test_a_damaged_plan_is_built_anew(bundle: Path) -> None:
    _built(bundle, "--precision", "fp32", "--max", "64x64")
    plan = bundle / "engines" / _record(bundle).plan.file
    plan.write_bytes(b"")
    _built(bundle, "--precision", "fp32", "--max", "64x64")
    assert plan.stat().st_size > 0


def test_layers_in_another_precision_fail_the_build_unless_they_are_accepted(bundle: Path) -> None:
    name = Bundle.open(bundle).manifest.layers[3].name
    done = _build(bundle, "--precision", "fp16", SREDGE_FALLBACK=name)
    assert done.returncode == 1
    assert f"1 layers of this engine do not run in the precision that the fp16 graph has them in: {name}: fp32" in done.stderr
    assert "--allow-fallback" in done.stderr
    assert not (bundle / "engines" / "model.fp16.json").exists()
    done = _build(bundle, "--precision", "fp16", "--allow-fallback", SREDGE_FALLBACK=name)
    assert done.returncode == 0, done.stderr
    assert f"(!) not fp16: {name}: fp32" in done.stderr
    assert _record(bundle, "model.fp16").other_precision == (f"{name}: fp32",)
    again = _build(bundle, "--precision", "fp16", SREDGE_FALLBACK=name)
    assert (again.returncode, "do not run in the precision" in again.stderr) == (1, True)


def test_a_version_compatible_plan_may_bring_code_of_the_host_and_no_other(bundle: Path) -> None:
    _built(bundle, "--precision", "fp32", "--max", "64x64", "--version-compatible")
    assert _upscale(bundle, (20, 30)).returncode == 0
    path = bundle / "engines" / "model.fp32.json"
    record = json.loads(path.read_text())
    record["key"]["version_compatible"] = False
    path.write_text(json.dumps(record))
    done = _upscale(bundle, (20, 30))
    assert "the engine has host code, which is not allowed" in done.stderr


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ({"tensorrt": "10.3.0"}, f"it was built by TensorRT 10.3.0, and this is {NEWEST}"),
        ({"gpu": "Orin"}, "it was built for Orin (compute capability 8.7), and this is Stand-In GPU (compute capability 8.7)"),
        ({"compute_capability": [8, 6]}, "compute capability 8.6), and this is Stand-In GPU"),
    ],
)
def test_a_plan_of_elsewhere_is_refused_before_it_is_read(bundle: Path, edit: dict[str, object], says: str) -> None:
    _built(bundle, "--precision", "fp32", "--max", "64x64")
    path = bundle / "engines" / "model.fp32.json"
    record = json.loads(path.read_text())
    record["key"].update(edit)
    path.write_text(json.dumps(record))
    (bundle / "engines" / record["plan"]["file"]).unlink()
    done = _upscale(bundle, (20, 30))
    assert says in done.stderr
    assert "cannot run here" in done.stderr


def test_ctrl_c_ends_a_build_and_leaves_the_engine_there_was(bundle: Path) -> None:
    _built(bundle, "--precision", "fp32", "--max", "64x64")
    before = {path.name: path.read_bytes() for path in (bundle / "engines").iterdir()}
    process = subprocess.Popen(
        [sys.executable, "-m", "export.engine", str(bundle), "--precision", "fp32"],
        env=_environment(NEWEST, SREDGE_SLOW=str(bundle / "building")),
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    while not (bundle / "building").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "nothing half-written" in errors
    assert {path.name: path.read_bytes() for path in (bundle / "engines").iterdir()} == before


@pytest.mark.parametrize(
    ("options", "environment", "code", "says"),
    [
        (("--precision", "fp32"), {"SREDGE_NO_GPU": "1"}, 2, "no NVIDIA GPU can be used here"),
        (("--precision", "fp32", "--device", "cuda:3"), {}, 2, "no GPU cuda:3; this machine has: cuda:0 (Stand-In GPU)"),
        (("--precision", "int8"), {}, 2, "has no int8 graph for target 'tensorrt'"),
        (("--precision", "fp32", "--io", "uint8"), {}, 2, "has no fp32 graph of raw pixels for target 'tensorrt'; it has: fp32, "),
        (("--precision", "fp32", "--io", "int4"), {}, 2, "unknown --io 'int4'; known: float32, uint8"),
        (("--precision", "bf16"), {}, 2, "unknown precision of engines 'bf16'; known: fp32, fp16, int8"),
        (("--precision", "fp32", "--hardware-compatible", "all"), {}, 2, "known: none, same-compute-capability, ampere-plus"),
        (("--precision", "fp32", "--max", "8"), {}, 2, "--max 8: expected HEIGHTxWIDTH"),
    ],
    ids=["no GPU", "another GPU", "no int8", "no raw pixels", "no such ends", "bf16", "no such level", "no size"],
)
def test_what_cannot_be_built_says_why(
    bundle: Path, options: tuple[str, ...], environment: dict[str, str], code: int, says: str
) -> None:
    done = _build(bundle, *options, **environment)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert " hint: " in done.stderr or "known: " in done.stderr
    assert not (bundle / "engines").exists()


def test_a_level_that_this_version_lacks_says_which_it_has(bundle: Path) -> None:
    done = _build(bundle, "--precision", "fp32", "--hardware-compatible", "same-compute-capability", version="10.3.0")
    assert done.returncode == 2
    assert "TensorRT 10.3.0 has no hardware compatibility 'same-compute-capability'; it has: none, ampere-plus" in done.stderr


def test_an_engine_that_was_not_built_says_what_to_type(bundle: Path) -> None:
    done = _upscale(bundle, (20, 30))
    assert "holds no fp32 engine of this graph" in done.stderr


def test_without_the_packages_the_error_says_how_to_get_them_on_each_machine() -> None:
    entry = next(entry for entry in BACKENDS if entry.name == "tensorrt")
    if entry.installed:
        pytest.skip("TensorRT and pycuda are installed here")
    with pytest.raises(BackendError, match="cannot be found") as caught:
        choose_backend("tensorrt")
    assert all(machine in caught.value.hint for machine in ("JetPack 6", "JetPack 7", "workstation"))
    done = subprocess.run(
        [sys.executable, "-m", "export.engine", "bundle", "--precision", "fp16"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert "'tensorrt' is not installed" in done.stderr
    assert "JetPack 6" in done.stderr


def test_the_benchmark_compares_the_precisions_on_the_engines(bundle: Path, tmp_path: Path) -> None:
    for precision in ("fp32", "fp16"):
        _built(bundle, "--precision", precision, "--max", "128x128")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(2):
        write_picture(pictures / f"{index}.png", np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    out = tmp_path / "report"
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        str(bundle),
        "--backend",
        "tensorrt",
        "--precision",
        "fp32",
        "--precision",
        "fp16",
    ]
    smi = _program(tmp_path, "nvidia-smi", "Stand-In GPU, 580.1, P0, 1980 MHz, 2619 MHz, 1980 MHz, 112.40 W, [N/A], 41, 0x0")
    done = subprocess.run(
        [*command, "--data", str(pictures), "--runs", "2", "--out", str(out)],
        env=_environment(NEWEST, PATH=f"{smi}{os.pathsep}{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / "result.json").read_text())["rows"]
    assert [(row["precision"], row["backend"], row["precision_verified"]) for row in rows] == [
        ("fp32", "tensorrt", True),
        ("fp16", "tensorrt", True),
    ]
    for row in rows:
        timed = row["device_latency"]
        assert 0 < timed["network_p50_ms"] <= timed["with_copies_p50_ms"]
        assert timed["n"] == 2
        assert timed["after"] == timed["before"]
        assert timed["before"]["clocks.sm"] == "1980 MHz"
        assert "power.limit" not in timed["before"]
    assert "CUDA events: network alone" in done.stdout
    assert "GPU before: name Stand-In GPU" in (out / "report.md").read_text()


def test_without_a_gpu_no_state_of_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(_program(tmp_path, "nvidia-smi", "NVIDIA-SMI has failed")))
    assert "clocks.sm" not in read_gpu_state()
    monkeypatch.setenv("PATH", str(_program(tmp_path, "nvpmodel", "NV Power Mode: MAXN\n0")))
    assert read_gpu_state()["power mode"] == "MAXN 0"


def _program(folder: Path, name: str, prints: str) -> Path:
    """A folder with a program of that name that prints that."""
    made = folder / "bin"
    made.mkdir(exist_ok=True)
    (made / name).write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{prints}\nEND\n")
    (made / name).chmod(0o755)
    return made
