"""The C++ example in deploy_docs, built with OpenVINO's wheel: its pixels are Python's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from export.graph.pixel_io import add_pixel_io
from runtime.backends import BACKENDS
from runtime.bundle import IOS, Bundle, Contract, Io
from runtime.images import to_network
from runtime.pictures.pixels import Picture
from runtime.targets import Precision
from runtime.tiles.filling import fill_up
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


def _upscale(program: Path, graph: Path, folder: Path, *numbers: str) -> subprocess.CompletedProcess[str]:
    command = [program, graph, folder / "in.ppm", folder / "out.ppm", *numbers]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def _write_ppm(path: Path, picture: Picture) -> None:
    path.write_bytes(b"P6\n%d %d\n255\n" % (picture.shape[1], picture.shape[0]) + picture.tobytes())


def _read_ppm(path: Path) -> Picture:
    magic, size, largest, pixels = path.read_bytes().split(b"\n", 3)
    assert (magic, largest) == (b"P6", b"255")
    width, height = (int(side) for side in size.split())
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


@pytest.mark.parametrize("io", IOS)
@pytest.mark.parametrize("tile", [0, 16], ids=["whole", "in tiles"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_cpp_program_gives_the_pixels_that_python_gives(
    program: Path,
    quantized: Bundle,
    bundle_copy: Bundle,
    picture: Picture,
    precision: Precision,
    tile: int,
    io: Io,
    tmp_path: Path,
) -> None:
    _write_ppm(tmp_path / "in.ppm", picture)
    bundle = add_pixel_io(bundle_copy, bundle_copy.variant(precision))
    graph = bundle.path(bundle.variant(precision, io=io))
    done = _upscale(program, graph, tmp_path, "2", str(tile), str(quantized.manifest.halo))
    assert done.returncode == 0, done.stderr
    with Upscaler.open(quantized, precision=precision, backend="openvino") as upscaler:
        assert np.array_equal(_read_ppm(tmp_path / "out.ppm"), upscaler(picture))


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (29, 17)])
def test_the_cpp_program_fills_a_picture_up_as_python_does(
    program: Path, quantized: Bundle, picture: Picture, size: tuple[int, int], tmp_path: Path
) -> None:
    """As if the contract asked for multiples of 4 and 8 pixels at the least, in tiles and whole."""
    small = np.ascontiguousarray(picture[: size[0], : size[1]])
    _write_ppm(tmp_path / "in.ppm", small)
    graph, halo = quantized.path(quantized.variant("int8")), str(quantized.manifest.halo)
    contract = Contract(multiple_of=4, least_side=8)
    filled = fill_up(to_network(small, contract, scale=2), contract)
    with Upscaler.open(quantized, precision="int8", backend="openvino") as upscaler:
        output = np.rint(upscaler.run(filled)[0].clip(0, 1) * 255).astype(np.uint8)
    expected = output.transpose(1, 2, 0)[: 2 * size[0], : 2 * size[1]]
    for tile in ("0", "16"):
        done = _upscale(program, graph, tmp_path, "2", tile, halo, "1", "4", "8")
        assert done.returncode == 0, done.stderr
        assert np.array_equal(_read_ppm(tmp_path / "out.ppm"), expected)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (("3",), "another factor than 3"),
        (("2", "-5"), "expected a whole number"),
        (("0",), "1 or more"),
        (("2",) * 7, "expected SCALE"),
    ],
)
def test_the_cpp_program_refuses_numbers_that_are_not_the_graphs(
    program: Path, quantized: Bundle, picture: Picture, numbers: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    _write_ppm(tmp_path / "in.ppm", picture)
    done = _upscale(program, quantized.path(quantized.variant("fp32")), tmp_path, *numbers)
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / "out.ppm").exists()


def test_the_cpp_program_refuses_what_is_no_picture(program: Path, quantized: Bundle, tmp_path: Path) -> None:
    (tmp_path / "in.ppm").write_text("dear diary")
    graph = quantized.path(quantized.variant("int8"))
    done = _upscale(program, graph, tmp_path, "2")
    assert done.returncode == 1
    assert "expected a binary 8-bit PPM" in done.stderr
    assert not (tmp_path / "out.ppm").exists()
