"""`python -m export.engine` through TensorRT's real bindings and pycuda, over stand-ins for a GPU and its engine.

What these tests, and those of test_engine_run and test_engine_refit, hold is our side: the calls, their order, their arguments,
memory, contexts, threads, files. What a GPU computes, and what TensorRT's builder makes of a graph, they cannot tell.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from export.engine.compilers import find_compiler
from export.engine.stage import best_precision
from runtime.backends import BACKENDS, choose_backend
from runtime.bundle import Bundle
from runtime.errors import BackendError
from runtime.images import write_picture
from tests.stand_ins.commands import NEWEST, build, built, read_record, run_python, stand_in_environment
from tests.stand_ins.libraries import ROOT, bindings, joined, pycuda


@pytest.fixture
def bundle(bundle_copy: Bundle) -> Path:
    return bundle_copy.directory


def test_the_same_key_is_not_built_twice_and_another_says_what_differs(bundle: Path) -> None:
    built(bundle, "--precision", "fp32", "--max", "64x64", version="10.16.1.11")
    first = read_record(bundle)
    assert "up to date" in built(bundle, "--precision", "fp32", "--max", "64x64", version="10.16.1.11")
    printed = built(bundle, "--precision", "fp32", "--max", "96x64", version=NEWEST)
    assert f"built anew: tensorrt: 10.16.1.11, not {NEWEST}" in printed
    assert "built anew: profile: batch 1 to 1, height×width min 16×16, opt 64×64, max 64×64, not" in printed
    assert "graph_sha256" not in printed
    assert not (bundle / "engines" / first.plan.file).exists()


def test_the_timing_cache_is_kept_and_one_of_another_version_is_begun_anew(bundle: Path, tmp_path: Path) -> None:
    cache = tmp_path / "timings"
    built(bundle, "--precision", "fp32", "--timing-cache", str(cache), version="10.16.1.11")
    assert cache.read_bytes() == b"timings of 10.16.1.11"
    done = build(bundle, "--precision", "fp32", "--timing-cache", str(cache), "--max", "64x64", version="10.16.1.11")
    assert (done.returncode, done.stderr) == (0, "")
    done = build(bundle, "--precision", "fp32", "--timing-cache", str(cache))
    assert "the timing cache was of another TensorRT or GPU" in done.stderr
    assert cache.read_bytes() == f"timings of {NEWEST}".encode()
    built(bundle, "--precision", "fp32", "--tf32", SREDGE_TF32="1")
    assert (bundle / "engines" / f"timing-{NEWEST}-sm87.cache").is_file()


def test_a_damaged_plan_is_built_anew(bundle: Path) -> None:
    built(bundle, "--precision", "fp32", "--max", "64x64")
    plan = bundle / "engines" / read_record(bundle).plan.file
    plan.write_bytes(b"")
    printed = built(bundle, "--precision", "fp32", "--max", "64x64")
    assert f"built anew: {plan} is not the plan that its record describes" in printed
    assert plan.stat().st_size > 0
    (bundle / "engines" / "model.fp32.json").write_text("{")
    assert "is not the record of an engine" in built(bundle, "--precision", "fp32", "--max", "64x64")
    assert "up to date" in built(bundle, "--precision", "fp32", "--max", "64x64")


def test_layers_in_another_precision_fail_the_build_unless_they_are_accepted(bundle: Path) -> None:
    name = Bundle.open(bundle).manifest.layers[3].name
    done = build(bundle, "--precision", "fp16", SREDGE_FALLBACK=name)
    assert done.returncode == 1
    assert f"1 layers of this engine do not run in the precision that the fp16 graph has them in: {name}: fp32" in done.stderr
    assert "--allow-fallback" in done.stderr
    assert not (bundle / "engines" / "model.fp16.json").exists()
    done = build(bundle, "--precision", "fp16", "--allow-fallback", SREDGE_FALLBACK=name)
    assert done.returncode == 0, done.stderr
    assert f"(!) not fp16: {name}: fp32" in done.stderr
    assert read_record(bundle, "model.fp16").other_precision == (f"{name}: fp32",)
    again = build(bundle, "--precision", "fp16", SREDGE_FALLBACK=name)
    assert (again.returncode, "do not run in the precision" in again.stderr) == (1, True)


@pytest.mark.parametrize("first", [True, False])
def test_ctrl_c_ends_a_build_and_leaves_what_was_there(bundle: Path, tmp_path: Path, first: bool) -> None:
    if not first:
        built(bundle, "--precision", "fp32", "--max", "64x64")
    before = {path: path.is_file() and path.read_bytes() for path in bundle.rglob("*")}
    process = subprocess.Popen(
        [sys.executable, "-m", "export.engine", str(bundle), "--precision", "fp32"],
        env=stand_in_environment(NEWEST, SREDGE_SLOW=str(tmp_path / "building")),
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    while not (tmp_path / "building").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "nothing half-written" in errors
    assert {path: path.is_file() and path.read_bytes() for path in bundle.rglob("*")} == before


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
    done = build(bundle, *options, **environment)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert " hint: " in done.stderr or "known: " in done.stderr
    assert not (bundle / "engines").exists()


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"SREDGE_PARSE_FAILS": "1"}, "cannot read the fp32 graph: PRelu (act): No importer registered for op: PRelu"),
        ({"SREDGE_BUILD_FAILS": "1"}, "built no fp32 engine: Could not find any implementation for node conv1"),
    ],
    ids=["parser", "builder"],
)
def test_what_tensorrt_refuses_is_told_in_its_words(bundle: Path, environment: dict[str, str], says: str) -> None:
    done = build(bundle, "--precision", "fp32", **environment)
    assert (done.returncode, f"TensorRT {NEWEST} {says}" in done.stderr) == (1, True), done.stderr
    assert not (bundle / "engines").exists()


def test_a_level_that_this_version_lacks_says_which_it_has(bundle: Path) -> None:
    done = build(bundle, "--precision", "fp32", "--hardware-compatible", "same-compute-capability", version="10.3.0")
    assert done.returncode == 2
    assert "TensorRT 10.3.0 has no hardware compatibility 'same-compute-capability'; it has: none, ampere-plus" in done.stderr


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


def test_bindings_without_pycuda_say_that_it_is_pycuda_that_is_missing(bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "export.engine", str(bundle), "--precision", "fp32"],
        env=joined(bindings(NEWEST)),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 2, done.stderr
    assert "'tensorrt' is not installed: pycuda cannot be found" in done.stderr


def test_bindings_without_their_libraries_say_what_is_missing_and_how_to_get_it(bundle: Path) -> None:
    paths = {**joined(bindings(NEWEST), pycuda()), "LD_LIBRARY_PATH": pycuda()["LD_LIBRARY_PATH"]}
    for command in (
        ["export.engine", str(bundle), "--precision", "fp32"],
        ["runtime", "upscale", "in.png", "-o", "out.png", "--bundle", str(bundle), "--backend", "tensorrt", "--precision", "fp32"],
    ):
        write_picture(bundle / "in.png", np.zeros((20, 30, 3), np.uint8))
        done = subprocess.run([sys.executable, "-m", *command], env=paths, capture_output=True, text=True, check=False, cwd=bundle)
        assert done.returncode == 2, done.stderr
        assert "backend 'tensorrt' is installed but cannot be loaded: libnv" in done.stderr
        assert all(machine in done.stderr for machine in ("JetPack 6", "JetPack 7", "workstation"))


def test_without_onnx_nothing_is_built_and_the_error_says_how_to_get_it(bundle: Path) -> None:
    code = "import sys, tensorrt; sys.modules['onnx'] = None; from export.engine.cli import main; main(sys.argv[1:])"
    done = run_python("-c", code, str(bundle), "--precision", "fp32")
    assert done.returncode == 2, done.stderr
    assert "python -m export.engine needs onnx" in done.stderr
    assert "pip install onnx" in done.stderr


def test_without_a_precision_int8_is_built_where_the_bundle_has_it_for_tensorrt(for_tensorrt: Bundle, quantized: Bundle) -> None:
    """So that hints that leave the precision out can be typed; int8 for another target is none."""
    tensorrt = find_compiler("tensorrt")
    assert [best_precision(bundle, tensorrt, io="float32") for bundle in (for_tensorrt, quantized)] == ["int8", "fp32"]
