"""On Python 3.10, which JetPack 6 has: what ships on the device, and engines over the bindings of JetPack 6's TensorRT."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.images import read_picture, write_picture
from runtime.pictures.pixels import Picture
from runtime.upscaler import Upscaler
from tests.stand_ins.commands import read_record, run_python
from tests.stand_ins.libraries import ROOT

JETPACK_6 = "10.3.0"
OF_EXTRAS = {
    "openvino",
    "ncnn",
    "ai_edge_litert",
    "onnxruntime_qnn",
    "tensorrt_rtx_bindings",
    "tensorrt",
    "pycuda",
    "matplotlib",
    "jinja2",
    "skimage",
    "pooch",
    "safetensors",
    "onnx_ir",
    "tifffile",
}
IMPORTS = """
import importlib, pathlib, sys

for package in ("runtime", "export/engine", "benchmarks", "calibration"):
    for path in sorted(pathlib.Path(package).rglob("*.py")):
        name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        if path.stem != "__main__" and path.parent.name != "scripts":  # those of benchmarks/peers run in environments of their own
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:  # a package that this environment has not
                if error.name.partition(".")[0] in ("runtime", "export", "benchmarks", "calibration", "quantize"):
                    raise
                print(error.name)
"""


def _interpreters() -> Iterator[Path]:
    named = shutil.which("python3.10")
    if named is not None:
        yield Path(named)
    yield from sorted((Path.home() / ".pyenv" / "versions").glob("3.10.*/bin/python"))


@pytest.fixture(scope="module")
def python310(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with sredge's base dependencies, and onnx, which building engines takes."""
    environment = tmp_path_factory.mktemp("python310") / "env"
    tried = (_run(found, "-m", "venv", environment).returncode for found in _interpreters())
    if not any(code == 0 for code in tried):
        pytest.skip("there is no Python 3.10 on this machine")
    python = environment / "bin" / "python"
    done = _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ROOT, "onnx")
    if done.returncode != 0 and "Failed to establish" in done.stderr:
        pytest.skip("the package index cannot be reached from here")
    assert done.returncode == 0, done.stderr
    return python


def _run(*command: str | Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_every_module_of_the_device_can_be_imported(python310: Path) -> None:
    done = _run(python310, "-c", IMPORTS)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= OF_EXTRAS


def test_a_picture_comes_out_as_it_does_here(python310: Path, quantized: Bundle, picture: Picture, tmp_path: Path) -> None:
    write_picture(tmp_path / "in.png", picture)
    command = ["-m", "runtime", "upscale", "in.png", "-o", "out.png", "--bundle", str(quantized.directory), "--precision", "fp32"]
    done = _run(python310, *command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    with Upscaler.open(quantized, precision="fp32", backend="onnxruntime") as upscaler:
        apart = np.abs(read_picture(tmp_path / "out.png").astype(int) - upscaler(picture))
    assert apart.max() <= 1  # another onnxruntime may take its sums in another order


def test_an_engine_is_built_and_run_over_jetpack_6s_bindings(python310: Path, bundle_copy: Bundle, picture: Picture) -> None:
    folder = bundle_copy.directory
    write_picture(folder / "in.png", picture)
    options = ("--precision", "fp16", "--max", "64x80", "--refit")
    made = run_python("-m", "export.engine", str(folder), *options, version=JETPACK_6, python=str(python310))
    assert made.returncode == 0, made.stderr
    assert read_record(folder, "model.fp16").key.tensorrt == JETPACK_6
    command = ["upscale", str(folder / "in.png"), "-o", str(folder / "out.png"), "--bundle", str(folder), "--precision", "fp16"]
    done = run_python("-m", "runtime", *command, "--backend", "tensorrt", version=JETPACK_6, python=str(python310))
    assert done.returncode == 0, done.stderr
    assert "fp16 on tensorrt" in done.stdout
    assert "(!)" not in done.stdout + done.stderr  # every layer ran in fp16, says the inspector
    assert read_picture(folder / "out.png").shape == (80, 112, 3)
