"""The built wheel with its base dependencies alone, in an environment of its own: a bundle copied there upscales a picture."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.images import read_picture, write_picture
from runtime.pictures.pixels import Picture
from runtime.upscaler import Upscaler

ROOT = Path(__file__).resolve().parents[1]


def _run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel in it; skips where the package index cannot be reached."""
    folder = tmp_path_factory.mktemp("wheel")
    built = _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    made = _run(sys.executable, "-m", "venv", folder / "env", folder=folder)
    assert made.returncode == 0, made.stderr
    python = folder / "env" / "bin" / "python"
    done = _run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel, folder=folder)
    if done.returncode != 0 and "No matching distribution" in done.stderr and "Failed to establish" in done.stderr:
        pytest.skip("the package index cannot be reached from here")
    assert done.returncode == 0, done.stderr
    return python


def test_a_base_install_upscales_as_the_workstation_does(
    clean_python: Path, quantized: Bundle, picture: Picture, tmp_path: Path
) -> None:
    shutil.copytree(quantized.directory, tmp_path / "bundle")
    write_picture(tmp_path / "in.png", picture)
    done = _run(clean_python, *["-m", "runtime", "upscale", "in.png", "-o", "out.png", "--bundle", "bundle"], folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "int8 on onnxruntime" in done.stdout
    with Upscaler.open(quantized, backend="onnxruntime") as upscaler:
        assert np.array_equal(read_picture(tmp_path / "out.png"), upscaler(picture))


def test_a_base_install_brings_no_package_of_a_workstation(clean_python: Path, tmp_path: Path) -> None:
    listed = _run(clean_python, "-m", "pip", "list", "--format", "freeze", folder=tmp_path).stdout.lower()
    assert "sredge==" in listed
    names = {line.partition("==")[0] for line in listed.splitlines()}
    assert not names & {"torch", "onnx", "onnx-ir", "onnxscript", "scipy", "scikit-image", "openvino", "matplotlib"}
