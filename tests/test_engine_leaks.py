"""Nothing of the GPU is left when an engine cannot be opened or run, wherever it fails, over the stand-ins of test_engine_stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.bundle import Bundle, sha256_bytes
from tests.stand_ins.commands import built, run_python

# Each line is one try: the error, and what was left of the GPU while that error was still in hand.
LEFT = """
import ctypes, json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from runtime.backends import open_backend
from runtime.bundle import Bundle
from runtime.errors import BackendError

bundle = Bundle.open(Path(sys.argv[1]))
graph = bundle.read(bundle.variant("fp32"))
driver = ctypes.CDLL("libcuda.so.1")

def open_it(parallel=2):  # with a cache, as every backend takes one
    engines = bundle.directory / "engines"
    return open_backend("tensorrt", graph, precision="fp32", parallel=parallel, engines=engines, cache=bundle.directory / "cache")

def tell(error=None):
    names = ("standin_retained", "standin_left_over", "standin_has_context", "standin_dropped_outside")
    left = {name: count for name in names if (count := getattr(driver, name)())}
    print(json.dumps({"error": type(error).__name__, "message": str(error), "left": left}))

def attempt(work):
    try:
        work()
    except Exception as error:
        tell(error)
    else:
        tell()
"""
UNREADABLE = LEFT + "for _ in range(3): attempt(open_it)\n"
FAILING = """
def open_and_run():
    with open_it() as backend:
        try:
            backend.run(np.zeros((1, 3, 48, 64), np.float32))
        finally:
            reached.append(driver.standin_waits_to_fail() == 0)
            driver.standin_fail_at(0)  # what gives back does not fail

call, reached = 0, [True]
while reached[-1] and call < 100:
    call += 1
    driver.standin_fail_at(call)
    attempt(open_and_run)
"""
OTHER_THREAD = """
with ThreadPoolExecutor(1) as pool:
    pool.submit(lambda: None).result()
    opened_here, opened_there = open_it(), pool.submit(open_it).result()
    pool.submit(opened_here.__exit__, None, None, None).result()
    opened_there.__exit__(None, None, None)
    attempt(lambda: pool.submit(tell).result())
"""
# An application that has a context of its own current with pycuda finds it current again.
OWN_CONTEXT = """
import pycuda.driver as cuda
cuda.init()
own = cuda.Device(0).retain_primary_context()
own.push()
open_it().__exit__(None, None, None)
assert cuda.Context.get_current() == own
cuda.mem_alloc(16).free()
own.pop()
own.detach()
driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))  # the application's own affair
tell()
"""


def _damage(plan: Path, data: bytes) -> None:
    plan.write_bytes(data)


def _with_its_sum(plan: Path, data: bytes) -> None:
    record = json.loads((plan.parent / "model.fp32.json").read_text())
    record["plan"]["sha256"] = sha256_bytes(data)
    (plan.parent / "model.fp32.json").write_text(json.dumps(record))
    plan.write_bytes(data)


def _no_file(plan: Path) -> None:
    plan.unlink()
    plan.mkdir()


UNREADABLE_PLANS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "cannot be read: No such file"),
    "a folder": (_no_file, "cannot be read: it is not a regular file"),
    "cut off": (lambda plan: _damage(plan, plan.read_bytes()[:100]), "sha256 differs"),
    "no plan": (lambda plan: _with_its_sum(plan, b"no plan"), "cannot read this engine: Magic tag does not match"),
}


@pytest.fixture(scope="module")
def with_engine(quantized: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with an engine of one shape, which is captured as a graph; not to be written to."""
    bundle = Path(shutil.copytree(quantized.directory, tmp_path_factory.mktemp("with_engine") / "bundle"))
    built(bundle, "--precision", "fp32", "--min", "48x64", "--opt", "48x64", "--max", "48x64")
    return bundle


def _tries(bundle: Path, code: str) -> list[dict[str, object]]:
    done = run_python("-c", code, str(bundle))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("kind", UNREADABLE_PLANS)
def test_a_plan_that_cannot_be_read_leaves_nothing_of_the_gpu(with_engine: Path, tmp_path: Path, kind: str) -> None:
    bundle = Path(shutil.copytree(with_engine, tmp_path / "bundle"))
    damage, says = UNREADABLE_PLANS[kind]
    damage(next((bundle / "engines").glob("*.plan")))
    tries = _tries(bundle, UNREADABLE)
    assert [(line["error"], line["left"]) for line in tries] == [("BackendError", {})] * 3, tries
    assert says in str(tries[0]["message"])


def test_whichever_call_fails_nothing_is_left_of_the_gpu(with_engine: Path) -> None:
    *failed, succeeded = _tries(with_engine, LEFT + FAILING)
    assert len(failed) > 20  # init, device, context, runtime, engine, two lanes, memory, copies, and pushes between
    assert [line for line in failed if line["error"] not in ("BackendError", "NoneType") or line["left"]] == []
    # Done without: two calls of a capture. Tried again by pycuda: two allocations on the device.
    assert sum(line["error"] == "NoneType" for line in failed) == 4, failed
    assert (succeeded["error"], succeeded["left"]) == ("NoneType", {})


def test_an_engine_is_closed_in_another_thread_than_it_was_opened_in(with_engine: Path) -> None:
    lines = _tries(with_engine, LEFT + OTHER_THREAD)
    assert [line["left"] for line in lines] == [{}, {}], lines


def test_the_context_of_an_application_is_current_again_after_an_engine_was_closed(with_engine: Path) -> None:
    (line,) = _tries(with_engine, LEFT + OWN_CONTEXT)
    assert line["left"] == {}, line
