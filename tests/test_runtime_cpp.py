"""The C++ example in deploy_docs, built with OpenVINO's wheel: its pixels are Python's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from export.graph.pixel_io import add_pixel_io
from runtime.backends import BACKENDS
from runtime.bundle import IOS, Bundle, Io
from runtime.pictures.pixels import Picture
from runtime.targets import Precision
from runtime.upscaler import Upscaler

SOURCES = Path(__file__).resolve().parents[1] / "deploy_docs" / "cpp"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled."""
    if not shutil.which("cmake") or not shutil.which("c++"):
        pytest.skip("cmake and a C++ compiler are not on this machine")
    if not any(entry.name == "openvino" and entry.installed for entry in BACKENDS):
        pytest.skip("openvino is not installed")
    import openvino.utils

    folder = tmp_path_factory.mktemp("cpp")
    for step in (
        ["-S", str(SOURCES), "-B", str(folder), f"-DOpenVINO_DIR={openvino.utils.get_cmake_path()}"],
        ["--build", str(folder)],
    ):
        done = subprocess.run(["cmake", *step], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / "upscale_openvino"


def _write_ppm(path: Path, picture: Picture) -> None:
    path.write_bytes(b"P6\n%d %d\n255\n" % (picture.shape[1], picture.shape[0]) + picture.tobytes())


def _read_ppm(path: Path) -> Picture:
    magic, size, largest, pixels = path.read_bytes().split(b"\n", 3)
    assert (magic, largest) == (b"P6", b"255")
    width, height = (int(side) for side in size.split())
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


@pytest.mark.parametrize("io", IOS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_cpp_program_gives_the_pixels_that_python_gives(
    program: Path, quantized: Bundle, bundle_copy: Bundle, picture: Picture, precision: Precision, io: Io, tmp_path: Path
) -> None:
    _write_ppm(tmp_path / "in.ppm", picture)
    bundle = add_pixel_io(bundle_copy, bundle_copy.variant(precision))
    graph = bundle.path(bundle.variant(precision, io=io))
    done = subprocess.run([program, graph, tmp_path / "in.ppm", tmp_path / "out.ppm"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Upscaler.open(quantized, precision=precision, backend="openvino") as upscaler:
        assert np.array_equal(_read_ppm(tmp_path / "out.ppm"), upscaler(picture))


def test_the_cpp_program_refuses_what_is_no_picture(program: Path, quantized: Bundle, tmp_path: Path) -> None:
    (tmp_path / "in.ppm").write_text("dear diary")
    graph = quantized.path(quantized.variant("int8"))
    done = subprocess.run([program, graph, tmp_path / "in.ppm", tmp_path / "out.ppm"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "expected a binary 8-bit PPM" in done.stderr
    assert not (tmp_path / "out.ppm").exists()
