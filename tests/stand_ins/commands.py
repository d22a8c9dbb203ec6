"""Our own commands, run in processes that have the stand-ins for a GPU and its engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from runtime.backends.engines import EngineRecord
from tests.stand_ins.libraries import ROOT, bindings, joined, pycuda

NEWEST = "11.4.0.106"


def stand_in_environment(version: str = NEWEST, python: str = sys.executable, **more: str) -> dict[str, str]:
    return {**joined(bindings(version, python), pycuda(python)), "OMP_NUM_THREADS": "1", "SREDGE_STAND_IN": "1", **more}


def run_python(
    *arguments: str, version: str = NEWEST, python: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Python with those arguments, over the stand-ins for that version of TensorRT."""
    return subprocess.run(
        [python, *arguments],
        env=stand_in_environment(version, python, **environment),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def build(bundle: Path, *options: str, version: str = NEWEST, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m export.engine`."""
    return run_python("-m", "export.engine", str(bundle), *options, version=version, **environment)


def built(bundle: Path, *options: str, version: str = NEWEST, **environment: str) -> str:
    """What a build that succeeds prints."""
    done = build(bundle, *options, version=version, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_record(bundle: Path, name: str = "model.fp32") -> EngineRecord:
    return EngineRecord.model_validate_json((bundle / "engines" / f"{name}.json").read_bytes())
