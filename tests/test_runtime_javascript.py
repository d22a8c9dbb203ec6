"""The JavaScript listing in deploy_docs, run by Node with ONNX Runtime's own packages: its pixels are Python's."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from export.graph.pixel_io import add_pixel_io
from runtime.bundle import Bundle
from runtime.pictures.pixels import Picture
from runtime.targets import Precision
from runtime.upscaler import Upscaler

SOURCES = Path(__file__).resolve().parents[1] / "deploy_docs" / "javascript"
PACKAGES = ("onnxruntime-node", "onnxruntime-web")
WHOLE = 10_000


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The listing, and the packages that it names beside it."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not on this machine")
    folder = Path(shutil.copytree(SOURCES, tmp_path_factory.mktemp("javascript") / "listing"))
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0 and any(code in done.stderr for code in ("ENOTFOUND", "ETIMEDOUT", "ECONNREFUSED", "EAI_AGAIN")):
        pytest.skip("the npm registry cannot be reached from here")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def with_pixels(quantized: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """`quantized`, with graphs of raw pixels."""
    bundle = Bundle.open(Path(shutil.copytree(quantized.directory, tmp_path_factory.mktemp("pixels") / "bundle")))
    for precision in ("fp32", "int8"):
        bundle = add_pixel_io(bundle, bundle.variant(precision))
    return bundle


def _run(
    listing: Path, package: str, bundle: Path, precision: str, tile: int, picture: Picture, folder: Path
) -> subprocess.CompletedProcess[str]:
    (folder / "in.ppm").write_bytes(b"P6\n%d %d\n255\n" % (picture.shape[1], picture.shape[0]) + picture.tobytes())
    command = ["node", "upscale_ppm.mjs", package, bundle, precision, str(tile), folder / "in.ppm", folder / "out.ppm"]
    return subprocess.run([str(part) for part in command], cwd=listing, capture_output=True, text=True, check=False)


def _read_ppm(path: Path) -> Picture:
    magic, size, largest, pixels = path.read_bytes().split(b"\n", 3)
    assert (magic, largest) == (b"P6", b"255")
    width, height = (int(side) for side in size.split())
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("tile", [WHOLE, 24], ids=["whole", "in tiles"])
def test_the_listing_gives_the_pixels_that_python_gives(
    listing: Path, with_pixels: Bundle, picture: Picture, package: str, precision: Precision, tile: int, tmp_path: Path
) -> None:
    with Upscaler.open(with_pixels, precision=precision, backend="onnxruntime", io="uint8") as upscaler:
        expected = upscaler(picture)

    done = _run(listing, package, with_pixels.directory, precision, tile, picture, tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    apart = np.abs(_read_ppm(tmp_path / "out.ppm").astype(int) - expected)
    if package == "onnxruntime-web" and precision == "fp32":  # WebAssembly adds up a convolution's products in another order
        assert apart.max() <= 1
        assert (apart > 0).mean() < 1e-3
    else:
        assert apart.max() == 0


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (17, 5)])
def test_a_picture_of_any_size_goes(
    listing: Path, with_pixels: Bundle, picture: Picture, size: tuple[int, int], tmp_path: Path
) -> None:
    """From one pixel on, smaller than a tile and than the network's reach."""
    small = np.ascontiguousarray(picture[: size[0], : size[1]])
    with Upscaler.open(with_pixels, precision="int8", backend="onnxruntime", io="uint8") as upscaler:
        expected = upscaler(small)

    done = _run(listing, "onnxruntime-node", with_pixels.directory, "int8", 16, small, tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert np.array_equal(_read_ppm(tmp_path / "out.ppm"), expected)


def test_its_tiles_are_pythons(listing: Path, tmp_path: Path) -> None:
    """For manifests of every kind that the listing takes, compared with the windows that `runtime/tiles` cuts."""
    from runtime.sizes import round_up
    from runtime.tiles.tiling import GRID, cut_axis

    rng = np.random.default_rng(0)
    cases = []
    for _ in range(300):
        multiple, alignment = int(rng.choice([1, 2, 3, 4, 8])), int(rng.choice([1, 2, 3, 4]))
        step, unit = np.lcm.reduce([GRID, alignment, multiple]), multiple
        length, tile, halo = (int(rng.integers(low, high)) for low, high in ((1, 300), (1, 120), (0, 40)))
        least = int(rng.choice([1, 8, 20]))
        filled = round_up(max(length, least), unit)
        cases.append({"length": length, "filled": filled, "tile": tile, "halo": halo, "step": int(step), "least": least})
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    program = (
        'import { cutAxis } from "./tiles.mjs"; import { readFileSync } from "node:fs";'
        f"const cases = JSON.parse(readFileSync({json.dumps(str(tmp_path / 'cases.json'))}));"
        "console.log(JSON.stringify(cases.map(({ length, ...rest }) => cutAxis(length, rest))));"
    )
    done = subprocess.run(["node", "--input-type=module", "-e", program], cwd=listing, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for case, pieces in zip(cases, json.loads(done.stdout), strict=True):
        cuts = cut_axis(
            case["length"], kept=case["tile"], halo=case["halo"], filled=case["filled"], step=case["step"], least=case["least"]
        )
        assert [{"read": list(cut.read), "kept": list(cut.kept)} for cut in cuts] == pieces, case


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"halo": "global"}, "looks at the whole picture"),
        ({"scale": 1.5}, "takes whole numbers"),
        ({"contract": {"colour": "Y"}}, "takes luma alone"),
        ({"variants": []}, "--io uint8"),
    ],
)
def test_what_the_listing_does_not_do_is_refused_with_a_sentence(
    listing: Path, with_pixels: Bundle, picture: Picture, change: dict[str, object], said: str, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(with_pixels.directory, tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    for key, value in change.items():
        manifest[key] = {**manifest[key], **value} if isinstance(value, dict) else value
    (bundle / "manifest.json").write_text(json.dumps(manifest))

    done = _run(listing, "onnxruntime-node", bundle, "int8", 64, picture, tmp_path)

    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "out.ppm").exists()


def test_a_graph_that_is_not_the_manifests_is_refused(listing: Path, with_pixels: Bundle, picture: Picture, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(with_pixels.directory, tmp_path / "bundle"))
    file = bundle / with_pixels.variant("int8", io="uint8").file
    file.write_bytes(file.read_bytes()[:-1] + b"\0")

    done = _run(listing, "onnxruntime-node", bundle, "int8", 64, picture, tmp_path)

    assert (done.returncode, "is not the graph that the manifest names" in done.stderr) == (2, True)
