"""Every name of TensorRT's that we use exists in the real bindings of JetPack 6's version, the last 10 and an 11."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.backends.engines import HardwareCompatibility
from tests.stand_ins.libraries import BINDINGS, bindings, joined

ROOT = Path(__file__).resolve().parents[1]
USERS = (
    *sorted((ROOT / "export" / "engine" / "tensorrt").glob("*.py")),
    ROOT / "export" / "engine" / "strongly_typed.py",
    *(ROOT / "runtime" / "backends" / name for name in ("tensorrt.py", "gpu_engine.py")),
)
versions = pytest.mark.parametrize("version", BINDINGS)

LOOK_UP = """
import json, sys, tensorrt
missing = []
for name in json.load(sys.stdin):
    found = tensorrt
    for part in name.split(".")[1:]:
        found = getattr(found, part, None)
    if found is None:
        missing.append(name)
print(json.dumps({"version": tensorrt.__version__, "missing": missing}))
"""
WITHOUT_A_DEVICE = """
import threading, types, sys
pycuda = sys.modules["pycuda"] = types.ModuleType("pycuda")  # which this does not call
pycuda.driver = sys.modules["pycuda.driver"] = types.ModuleType("pycuda.driver")
import tensorrt as trt
from export.engine.strongly_typed import make_monitor
from export.engine.tensorrt.build import _LEVELS, build_plan
from export.engine.tensorrt.refit import refit_plan
from runtime.backends.tensorrt import Logger, create
from runtime.errors import BackendError

logger = Logger()
logger.log(trt.ILogger.Severity.ERROR, "a reason")
assert logger.reasons == "a reason"
told, cancelled = [], threading.Event()
monitor = make_monitor(trt, lambda *step: told.append(step), cancelled)
monitor.phase_start("Building", None, 2)
monitor.phase_start("inner", "Building", 9)
assert monitor.step_complete("inner", 0) and monitor.step_complete("Building", 0)
cancelled.set()
assert not monitor.step_complete("Building", 1)
monitor.phase_finish("Building")
assert told == [("Building", 0, 2), ("Building", 1, 2)], told
for call in (
    lambda: build_plan(b"", None, timing_cache=b"", on_step=print, cancelled=cancelled),
    lambda: create(trt.Runtime, logger),
):
    try:
        call()
    except BackendError as error:
        print(error)
print(refit_plan(b"", b"", None).why_not)
print(*(level for level, name in _LEVELS.items() if name in trt.HardwareCompatibilityLevel.__members__))
"""
# What the stand-ins of tests/test_engine_stage.py are to refuse, and what they are to take.
WRONG_AND_RIGHT = """
import tensorrt as trt
from tests.stand_ins.signatures import CallError, Checked, check_call

cache, config = Checked(trt.ITimingCache, None), trt.IBuilderConfig
wrong = [
    (config, "set_timing_cache", (cache,), {}),
    (config, "set_timing_cache", (cache, False, 1), {}),
    (config, "set_timing_cache", (cache,), {"ignore": False}),
    (config, "set_timing_cache", (config, False), {}),
    (config, "set_flag", (trt.MemoryPoolType.WORKSPACE,), {}),
    (config, "set_memory_pool_limit", (trt.MemoryPoolType.WORKSPACE, "64"), {}),
    (trt.IOptimizationProfile, "set_shape", ("input", (1, 2), (1, 2)), {}),
    (trt.IExecutionContext, "set_input_shape", ("input", "shape"), {}),
    (trt.Runtime, "deserialize_cuda_engine", ("plan",), {}),
    (trt.Builder, "__init__", (), {}),
]
for real, name, arguments, named in wrong:
    try:
        check_call(real, name, arguments, named)
    except CallError:
        continue
    raise SystemExit(f"{real.__name__}.{name} took {arguments} {named}")
check_call(config, "set_timing_cache", (cache,), {"ignore_mismatch": False})
check_call(config, "set_flag", (trt.BuilderFlag.REFIT,), {})
check_call(trt.IOptimizationProfile, "set_shape", ("input", (1, 2), (1, 2), (1, 2)), {})
check_call(trt.IExecutionContext, "set_input_shape", ("input", (1, 2)), {})
check_call(trt.Builder, "__init__", (trt.Logger(),), {})
for attempt in (lambda: Checked(config, None).set_calibrator, lambda: setattr(Checked(trt.ICudaEngine, None), "num_layers", 1)):
    try:
        attempt()
    except (AttributeError, CallError):
        continue
    raise SystemExit("what is not there was there")
"""


def _names(path: Path) -> Iterator[str]:
    """Each `trt.A.B` of a module, as far as it is written out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        parts: list[str] = []
        inner: ast.expr | ast.AST = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if parts and isinstance(inner, ast.Name) and inner.id == "trt":
            yield ".".join(("trt", *reversed(parts)))


def _run(version: str, code: str, given: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=given,
        env=joined(bindings(version)),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@versions
def test_every_name_that_is_used_exists(version: str) -> None:
    names = sorted({name.partition(".__members__")[0] for path in USERS for name in _names(path)})
    assert len(names) > 15, "they are looked for as trt.NAME"
    found = json.loads(_run(version, LOOK_UP, json.dumps(names)))
    assert found["version"] == version
    assert not found["missing"]


@versions
def test_what_derives_from_their_classes_works_and_the_rest_ends_at_the_missing_device(version: str) -> None:
    builder, runtime, refit, levels = _run(version, WITHOUT_A_DEVICE).splitlines()
    assert builder.startswith(f"TensorRT {version} gives no Builder")
    assert runtime.startswith(f"TensorRT {version} gives no Runtime")
    assert refit == runtime
    expected: tuple[HardwareCompatibility, ...] = ("none", "same-compute-capability", "ampere-plus")
    assert levels.split() == [level for level in expected if version != "10.3.0" or level != "same-compute-capability"]


@versions
def test_the_stand_ins_refuse_what_the_real_classes_would(version: str) -> None:
    _run(version, WRONG_AND_RIGHT)
