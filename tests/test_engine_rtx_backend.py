"""Backend tensorrt-rtx where it cannot run: no pycuda, no GPU, a GPU that the engine was not built for, no engine.

pycuda is the real one, over a driver of ours; what an engine computes, only a GPU can tell.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from calibration.steps import ignore_step
from export.engine.compilers import find_compiler
from export.engine.stage import CompileOptions, compile_engine
from runtime.backends import BACKENDS, choose_backend
from runtime.bundle import Bundle
from runtime.errors import BackendError
from runtime.images import write_picture
from tests.rtx import CAPABILITIES, FIXED, needs_rtx
from tests.stand_ins.libraries import joined, pycuda

pytestmark = needs_rtx
ENTRY = next(entry for entry in BACKENDS if entry.name == "tensorrt-rtx")


def _upscale(bundle: Path, **environment: str) -> str:
    """What the command line says that cannot upscale."""
    write_picture(bundle / "in.png", np.zeros((16, 16, 3), np.uint8))
    command = ["upscale", "in.png", "-o", "out.png", "--bundle", str(bundle), "--backend", "tensorrt-rtx", "--precision", "fp32"]
    done = subprocess.run(
        [sys.executable, "-m", "runtime", *command],
        env={**joined(pycuda()), **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=bundle,
    )
    assert done.returncode == 2, done.stderr
    assert " hint: " in done.stderr
    return done.stderr


@pytest.fixture
def with_engine(small_copy: Bundle) -> Path:
    options = CompileOptions(architectures=CAPABILITIES, profile=FIXED)
    compile_engine(small_copy, find_compiler("tensorrt-rtx"), "fp32", options, on_step=ignore_step)
    return small_copy.directory


def test_without_pycuda_the_error_says_how_to_get_it() -> None:
    if ENTRY.installed:
        pytest.skip("pycuda is installed here")
    with pytest.raises(BackendError, match="'tensorrt-rtx' is not installed: pycuda cannot be found") as caught:
        choose_backend("tensorrt-rtx")
    assert "pip install pycuda" in caught.value.hint


def test_without_an_engine_the_error_says_what_to_type(small_copy: Bundle) -> None:
    said = _upscale(small_copy.directory)
    assert "holds no fp32 engine of this graph" in said
    assert f"python -m export.engine {small_copy.directory} --for tensorrt-rtx --precision fp32" in said


def test_without_a_gpu_an_engine_is_refused_with_the_reason(with_engine: Path) -> None:
    assert "no NVIDIA GPU can be used here" in _upscale(with_engine, SREDGE_NO_GPU="1")


def test_a_gpu_that_the_engine_was_not_built_for_is_named_before_the_plan_is_read(with_engine: Path) -> None:
    said = _upscale(with_engine)
    assert "it was built for compute capability 86, 89, 120, and Stand-In GPU has 87" in said
    assert "--for tensorrt-rtx --precision fp32 --architecture 87" in said
