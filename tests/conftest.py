"""Fixtures: real bundles, made once a worker, and the development data where it is present."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from calibration.ranges import Method
from calibration.shipped_tables import SHIPPED_TABLES
from calibration.table import read_table
from export.models import find_network
from export.models.srcnn import SRCNN
from export.stage import export_network
from export.weights import find_weights
from quantize.cli import main as quantize
from quantize.options import Int8Options
from quantize.stage import quantize_bundle
from runtime.bundle import Bundle
from runtime.images import Picture, write_picture
from runtime.targets import find_target
from tests.typed import Ran

SHARED = Path(__file__).resolve().parents[2] / "shared"

# How long an example takes is the machine's affair: a busy one is no failure.
settings.register_profile("sredge", deadline=None)
settings.load_profile("sredge")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development data; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the development data {SHARED} is not on this machine")
    return SHARED


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests see no data or weights folder, and no download cache, of the machine they run on."""
    for variable in ("SREDGE_DATA", "SREDGE_WEIGHTS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Starts processes that have the imports of `tests.bundle_processes` already, and no threads of this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.bundle_processes"])
    return context


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """LESRCNN x2 with the shipped weights, exported; not to be written to."""
    network = find_network("lesrcnn", scale=2)
    weights = find_weights(network, scale=2, choice="shipped")
    return export_network(network, scale=2, weights=weights, directory=tmp_path_factory.mktemp("exported") / "lesrcnn_x2")


@pytest.fixture(scope="session")
def quantized(exported: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """`exported`, quantized for the CPU with the shipped calibration table; not to be written to."""
    directory = tmp_path_factory.mktemp("quantized") / "lesrcnn_x2"
    shutil.copytree(exported.directory, directory)
    table = read_table(SHIPPED_TABLES / "lesrcnn_x2.json")
    return quantize_bundle(
        Bundle.open(directory),
        table,
        Int8Options(target=find_target("cpu"), method=Method.PERCENTILE),
    )


@pytest.fixture(scope="session")
def for_tensorrt(quantized: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """`quantized`, quantized for TensorRT as well; not to be written to."""
    directory = tmp_path_factory.mktemp("for_tensorrt") / "lesrcnn_x2"
    shutil.copytree(quantized.directory, directory)
    table = read_table(SHIPPED_TABLES / "lesrcnn_x2.json")
    options = Int8Options(target=find_target("tensorrt"), method=Method.PERCENTILE)
    return quantize_bundle(Bundle.open(directory), table, options)


@pytest.fixture(scope="session")
def enlarged_before(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small SRCNN at 1.5 with random weights, `weights.pth` beside it, exported; not to be written to."""
    folder = tmp_path_factory.mktemp("enlarged_before")
    torch.manual_seed(0)
    torch.save(SRCNN((9, 1, 5), (8, 4)).state_dict(), folder / "weights.pth")
    network = find_network("srcnn", scale=1.5)
    weights = find_weights(network, scale=1.5, choice=str(folder / "weights.pth"))
    return export_network(network, scale=1.5, weights=weights, directory=folder / "srcnn_x1.5")


@pytest.fixture(scope="session")
def exported_small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small SRCNN x2 that gives what it is given, nearly, exported; not to be written to."""
    folder = tmp_path_factory.mktemp("exported_small")
    torch.manual_seed(0)
    weights = SRCNN((9, 1, 5), (8, 4)).state_dict()
    for name, weight in weights.items():
        weight *= 0.02
        if name.endswith("weight"):
            middle = weight.shape[2] // 2
            for channel in range(3):
                weight[channel, channel, middle, middle] = 1
    torch.save(weights, folder / "weights.pth")
    network = find_network("srcnn", scale=2)
    found = find_weights(network, scale=2, choice=str(folder / "weights.pth"))
    return export_network(network, scale=2, weights=found, directory=folder / "srcnn_x2")


@pytest.fixture
def small_copy(exported_small: Bundle, tmp_path: Path) -> Bundle:
    """A copy of `exported_small` to write to."""
    return Bundle.open(Path(shutil.copytree(exported_small.directory, tmp_path / "small")))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Types `python -m quantize …` in an empty folder; anything but an exit is a traceback, and fails the test."""
    monkeypatch.chdir(tmp_path)

    def type_in(*arguments: object) -> Ran:
        code: object = 0
        try:
            quantize([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code
        return Ran(code, *capsys.readouterr())

    return type_in


@pytest.fixture
def bundle_copy(quantized: Bundle, tmp_path: Path) -> Bundle:
    """A copy of `quantized` that a test may damage."""
    return Bundle.open(Path(shutil.copytree(quantized.directory, tmp_path / "bundle")))


@pytest.fixture
def picture() -> Picture:
    """A 40×56 RGB picture with gradients and an edge."""
    rows, columns = np.mgrid[0:40, 0:56]
    planes = (rows * 6, columns * 4, np.where(columns > rows, 220, 30))
    return np.stack(planes, axis=-1).astype(np.uint8)


@pytest.fixture
def picture_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of random pictures of the given (height, width) sizes."""

    def make(*sizes: tuple[int, int]) -> Path:
        folder = tmp_path / "pictures"
        folder.mkdir()
        rng = np.random.default_rng(0)
        for index, size in enumerate(sizes):
            write_picture(folder / f"{index}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        return folder

    return make
