"""Engines at work, over the stand-ins of test_engine_stage: pictures, windows, threads, raw pixels, times."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from export.graph.pixel_io import add_pixel_io
from runtime.bundle import Bundle
from runtime.images import write_picture
from runtime.targets import Precision
from tests.stand_ins.commands import NEWEST, built, read_record, run_python
from tests.stand_ins.libraries import BINDINGS

COPY_MS = 20  # of the stand-in driver, where it is to be slow
UPSCALE = """
import ctypes, json, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from runtime import Upscaler
from runtime.errors import BackendError
from runtime.images import write_picture

bundle, precision, sizes = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
driver = ctypes.CDLL("libcuda.so.1")
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
    first = driver.standin_allocations()
    upscaler.time_on_device(array, 1)  # with the stream of one run at a time or the other
    upscaler.run(array)
    allocated_again = driver.standin_allocations() - first
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
        "allocated_again": allocated_again,
        "launches": driver.standin_launches(),
    }))
print(json.dumps({"left": driver.standin_left_over()}))
"""
BATCHES = """
import sys
import numpy as np
from runtime import Upscaler
from runtime.errors import BackendError

arrays = [np.random.default_rng(0).random((batch, 3, 40, 56), np.float32) for batch in (1, 2, 3, 4)]
with Upscaler.open(sys.argv[1], precision="fp32", backend="tensorrt") as upscaler:
    with Upscaler.open(sys.argv[1], precision="fp32", backend="onnxruntime") as reference:
        for array in arrays[:3]:
            print(np.array_equal(upscaler.run(array), reference.run(array)))
    try:
        upscaler.run(arrays[3])
    except BackendError as error:
        print(error)
"""
SEVERAL = """
import ctypes, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from runtime import Upscaler

array = np.random.default_rng(0).random((1, 3, 40, 56), np.float32)
first, second = (Upscaler.open(sys.argv[1], precision="fp32", backend="tensorrt") for _ in range(2))
expected = first.run(array)
with ThreadPoolExecutor(4) as pool:
    runs = [pool.submit(upscaler.run, array) for upscaler in (first, second) * 8]
    print(all(np.array_equal(run.result(), expected) for run in runs))
first.close()
print(np.array_equal(second.run(array), expected))
with Upscaler.open(sys.argv[1], precision="fp32", backend="tensorrt") as third:
    print(np.array_equal(third.run(array), expected))
second.close()
print(ctypes.CDLL("libcuda.so.1").standin_left_over())
"""
TIMES = """
import json, sys
import numpy as np
from runtime import Upscaler

with Upscaler.open(sys.argv[1], precision="fp32", backend="tensorrt") as upscaler:
    times = upscaler.time_on_device(np.zeros((1, 3, 16, 16), np.float32), 5)
    print(json.dumps(list(zip(times.network_ms, times.with_copies_ms))))
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
def bundle(bundle_copy: Bundle) -> Path:
    return bundle_copy.directory


def _upscale(
    bundle: Path, *sizes: tuple[int, int], precision: str = "fp32", version: str = NEWEST, **environment: str
) -> subprocess.CompletedProcess[str]:
    return run_python("-c", UPSCALE, str(bundle), precision, json.dumps(sizes), version=version, **environment)


@pytest.mark.parametrize(("version", "precision"), [*((version, "fp32") for version in BINDINGS), (NEWEST, "fp16")])
def test_an_engine_is_built_verified_and_run_in_windows_and_threads(bundle: Path, version: str, precision: str) -> None:
    printed = built(bundle, "--precision", precision, "--max", "64x80", "--workspace", "64", "--refit", version=version)
    assert f"{precision} engine for Stand-In GPU, TensorRT {version}" in printed
    record = read_record(bundle, f"model.{precision}")
    variant = Bundle.open(bundle).variant("fp32" if precision == "fp32" else "fp16")
    assert (record.key.graph_sha256, record.key.tensorrt, record.key.compute_capability) == (variant.sha256, version, (8, 7))
    assert (record.key.workspace_mib, record.key.refit, record.key.tf32, record.other_precision) == (64, True, False, ())
    done = _upscale(bundle, (64, 80), (33, 47), (100, 130), precision=precision, version=version)
    assert done.returncode == 0, done.stderr
    *pictures, rest, end = map(json.loads, done.stdout.splitlines())
    assert [(line["windows"] > 1, line["difference"]) for line in pictures] == [(False, 0), (False, 0), (True, 0)]
    assert (rest["threads"], rest["allocated_again"], rest["launches"]) == (0, 0, 0)
    assert rest["ran"] == {precision: 1.0}
    assert rest["times"] == [3, True]
    assert "batch 1 to 1, height×width min 16×16, opt 64×80, max 64×80; got (1, 3, 300, 64)" in rest["refused"]
    assert end["left"] == 0  # every allocation and stream was given back


def test_int8_is_built_from_the_graph_for_tensorrt_and_verified_layer_by_layer(for_tensorrt: Bundle, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(for_tensorrt.directory, tmp_path / "bundle"))
    built(bundle, "--precision", "int8", "--max", "64x80")
    int8 = for_tensorrt.variant("int8", target="tensorrt")
    record = read_record(bundle, "model.int8-tensorrt")
    assert (record.key.graph_sha256, record.other_precision) == (int8.sha256, ())
    done = run_python("-c", RAN, str(bundle))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [int8.file, "tensorrt", "True"]  # not the CPU's int8 graph, which the bundle has too


@pytest.mark.parametrize(
    ("version", "precision"), [*((version, "fp32") for version in BINDINGS), (NEWEST, "fp16"), (NEWEST, "int8")]
)
def test_an_engine_of_raw_pixels_gives_the_pixels(for_tensorrt: Bundle, tmp_path: Path, version: str, precision: Precision) -> None:
    copy = Bundle.open(Path(shutil.copytree(for_tensorrt.directory, tmp_path / "bundle")))
    floats = copy.variant(precision, target="tensorrt")
    raw = add_pixel_io(copy, floats)
    shapes = ("--min", "16x24", "--max", "64x80")
    printed = built(raw.directory, "--precision", precision, "--io", "uint8", *shapes, version=version)
    assert f"{precision} engine of raw pixels for Stand-In GPU" in printed
    variant = raw.variant(precision, target="tensorrt", io="uint8")
    record = read_record(raw.directory, Path(variant.file).stem)
    assert (record.key.io, record.key.graph_sha256, record.key.profile.min) == ("uint8", variant.sha256, (16, 24))
    done = run_python("-c", RAW, str(raw.directory), precision, version=version)
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
    add_pixel_io(Bundle.open(bundle), Bundle.open(bundle).variant("fp32"))
    missing = _upscale_raw(bundle)
    assert "holds no fp32 engine of this graph" in missing
    assert f"python -m export.engine {bundle} --precision fp32 --io uint8" in missing
    built(bundle, "--precision", "fp32", "--max", "64x64")
    assert "holds no fp32 engine of this graph" in _upscale_raw(bundle)
    built(bundle, "--precision", "fp32", "--max", "64x64", "--io", "uint8")
    assert _upscale_raw(bundle) == ""
    assert "up to date" in built(bundle, "--precision", "fp32", "--max", "64x64")
    assert "up to date" in built(bundle, "--precision", "fp32", "--max", "64x64", "--io", "uint8")


def _upscale_raw(bundle: Path) -> str:
    """What `python -m runtime upscale --io uint8` says on stderr."""
    write_picture(bundle / "in.png", np.zeros((20, 30, 3), np.uint8))
    files = (str(bundle / "in.png"), "-o", str(bundle / "out.png"), "--overwrite")
    command = ("upscale", *files, "--bundle", str(bundle), "--precision", "fp32")
    done = run_python("-m", "runtime", *command, "--backend", "tensorrt", "--io", "uint8")
    assert (done.returncode == 0) == (done.stderr == ""), done.stderr
    return done.stderr


@pytest.mark.parametrize("captured", [True, False])
def test_an_engine_of_one_shape_is_captured_where_it_can_be(bundle: Path, captured: bool) -> None:
    built(bundle, "--precision", "fp32", "--min", "48x64", "--opt", "48x64", "--max", "48x64")
    done = _upscale(bundle, (48, 64), (70, 64), **({} if captured else {"SREDGE_NO_CAPTURE": "1"}))
    assert done.returncode == 0, done.stderr
    first, second, rest, end = map(json.loads, done.stdout.splitlines())
    assert (first["windows"], second["windows"]) == (1, 2)
    assert (first["difference"], second["difference"], end["left"]) == (0, 0, 0)
    assert (rest["threads"], rest["allocated_again"]) == (0, 0)
    assert (rest["launches"] > 15) == captured  # every run
    assert ("cannot be captured" in done.stderr) != captured


def test_what_is_asked_of_the_builder_reaches_it(bundle: Path) -> None:
    options = ("--max", "64x80", "--opt", "32x48", "--batch", "3", "--workspace", "64", "--hardware-compatible", "ampere-plus")
    built(bundle, "--precision", "fp32", *options)
    plan = json.loads((bundle / "engines" / read_record(bundle).plan.file).read_bytes())
    assert plan["profile"] == [[1, 3, 16, 16], [3, 3, 32, 48], [3, 3, 64, 80]]
    assert (plan["workspace_bytes"], plan["hardware"]) == (64 << 20, "AMPERE_PLUS")
    done = run_python("-c", BATCHES, str(bundle))
    assert done.returncode == 0, done.stderr
    *same, refused = done.stdout.splitlines()
    assert same == ["True"] * 3
    assert refused.startswith("this engine takes batch 1 to 3")


def test_several_upscalers_share_the_gpu(bundle: Path) -> None:
    built(bundle, "--precision", "fp32", "--max", "64x80")
    done = run_python("-c", SEVERAL, str(bundle))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"] * 3 + ["0"]


def test_device_times_are_of_the_network_alone_and_with_both_copies(bundle: Path) -> None:
    built(bundle, "--precision", "fp32", "--max", "64x80")
    done = run_python("-c", TIMES, str(bundle), SREDGE_SLOW_COPIES="1")
    assert done.returncode == 0, done.stderr
    for alone, whole in json.loads(done.stdout):
        assert whole - alone >= 2 * COPY_MS


def test_a_version_compatible_plan_may_bring_code_of_the_host_and_no_other(bundle: Path) -> None:
    built(bundle, "--precision", "fp32", "--max", "64x64", "--version-compatible")
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
    built(bundle, "--precision", "fp32", "--max", "64x64")
    path = bundle / "engines" / "model.fp32.json"
    record = json.loads(path.read_text())
    record["key"].update(edit)
    path.write_text(json.dumps(record))
    (bundle / "engines" / record["plan"]["file"]).unlink()
    done = _upscale(bundle, (20, 30))
    assert says in done.stderr
    assert "cannot run here" in done.stderr


def test_an_engine_that_was_not_built_says_what_to_type(bundle: Path) -> None:
    done = _upscale(bundle, (20, 30))
    assert "holds no fp32 engine of this graph" in done.stderr
