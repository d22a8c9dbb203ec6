"""No warning of a library reaches the user: commands run with warnings as errors, on ordinary and on odd pictures and weights."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import calibration_cost, onnxruntime_quantizer
from benchmarks.cli import main as benchmarks
from export.cli import main as export
from export.models.srcnn import SRCNN
from export.train.cli import main as train
from quantize.cli import main as quantize
from runtime.bundle import Bundle
from runtime.cli import main as runtime
from runtime.images import Picture, write_picture

SIDE = 48


def _flat(*colour: int) -> Picture:
    return np.full((SIDE, SIDE, 3), colour, np.uint8)


PICTURES: dict[str, Picture] = {
    "black": _flat(0, 0, 0),
    "white": _flat(255, 255, 255),
    "red": _flat(200, 0, 0),
    "noise": np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
}
NETWORKS = ("ordinary", "all zero", "one channel dead")


@pytest.fixture(autouse=True)
def _warnings_are_errors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONWARNINGS", "error")  # of processes that are started
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small SRCNN x2 for each of NETWORKS, exported; not to be written to."""
    folder = tmp_path_factory.mktemp("networks")
    found = {}
    for name in NETWORKS:
        torch.manual_seed(0)
        weights = SRCNN((9, 1, 5), (8, 4)).state_dict()
        first = next(iter(weights))
        for key, weight in weights.items():
            if name == "all zero":
                weight.zero_()
            elif name == "one channel dead" and key == first:
                weight[0].zero_()
        torch.save(weights, folder / f"{name}.pth")
        export(["srcnn", "--scale=2", "--weights", str(folder / f"{name}.pth"), "--out", str(folder / name)])
        found[name] = folder / name
    return found


def _pictures(folder: Path, *kinds: str) -> Path:
    folder.mkdir()
    for index, kind in enumerate(kinds):
        write_picture(folder / f"{index}.png", PICTURES[kind])
    return folder


def _quantized(bundle: Path, tmp_path: Path, pictures: Path, *more: str) -> Path:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    quantize([str(copy), "--calib", str(pictures), "--effort=fast", "--crops=2", "--crop-size=24x24", *more])
    return copy


@pytest.mark.parametrize(("network", "kind"), list(product(NETWORKS, PICTURES)), ids=str)
def test_quantizing_and_explaining_warn_of_nothing(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], network: str, kind: str
) -> None:
    pictures = _pictures(tmp_path / "pictures", kind)
    quantized = _quantized(bundles[network], tmp_path, pictures)
    quantize(["explain", str(quantized), "--data", str(pictures), "--crops=2", "--sensitivity"])
    told = capsys.readouterr()
    assert told.err == ""
    assert "nan" not in told.out
    assert "inf" not in told.out.replace("info", "")


@pytest.mark.parametrize(
    "more", [("--method=mse",), ("--method=entropy",), ("--target=tensorrt",), ("--target=npu-pow2",)], ids=str
)
def test_ranges_of_tensors_that_are_nothing_but_zero_warn_of_nothing(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: Sequence[str]
) -> None:
    _quantized(bundles["all zero"], tmp_path, _pictures(tmp_path / "pictures", "black"), *more)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("network", ["ordinary", "all zero"])
def test_comparing_pictures_that_come_out_exactly_warns_of_nothing(
    bundles: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], network: str
) -> None:
    """A network of zeros makes black of black: an infinite PSNR."""
    quantized = _quantized(bundles[network], tmp_path, _pictures(tmp_path / "seen", "noise"))
    evaluated = _pictures(tmp_path / "evaluated", "black", "red")
    benchmarks([str(quantized), "--data", str(evaluated), "--runs=1", "--backend=onnxruntime", "--out", str(tmp_path / "out")])
    told = capfd.readouterr()
    assert told.err == ""
    assert "nan" not in told.out
    if network == "all zero":
        assert "1 of 2 pictures came out equal to the truth" in told.out


def test_upscaling_odd_pictures_warns_of_nothing(
    bundles: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = _pictures(tmp_path / "in", *PICTURES)
    for name, shape in {"one": (1, 1), "thin": (1, 90), "tall": (90, 1)}.items():
        write_picture(folder / f"{name}.png", np.full((*shape, 3), 9, np.uint8))
    runtime(["upscale", str(folder), "--bundle", str(bundles["ordinary"]), "-o", str(tmp_path / "out"), "--compare"])
    assert capfd.readouterr().err == ""


def test_training_on_one_colour_warns_of_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is learnt exactly: there is no logarithm of its loss."""
    pictures = _pictures(tmp_path / "pictures", "black", "black", "black")
    train(
        [
            "espcn",
            "--scale=3",
            "--data",
            str(pictures),
            "--steps=40",
            "--batch=1",
            "--patch=8",
            "--out",
            str(tmp_path / "w.safetensors"),
        ]
    )
    assert capfd.readouterr().err == ""


def test_onnxruntimes_quantizer_is_heard_nowhere(bundles: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    """It prints as it goes, and asks on stderr for what was done."""
    graph = Bundle.open(bundles["ordinary"])
    crops = [np.random.default_rng(index).random((1, 3, 24, 24), np.float32) for index in range(2)]
    onnxruntime_quantizer.quantize(graph.path(graph.variant("fp32")), crops)
    onnxruntime_quantizer.calibrate(graph.path(graph.variant("fp32")), crops)
    told = capfd.readouterr()
    assert (told.out, told.err) == ("", "")


def test_calibration_cost_prints_its_table_alone(
    bundles: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pictures = _pictures(tmp_path / "pictures", "noise")
    calibration_cost.main([str(bundles["ordinary"]), "--data", str(pictures), "--crops=1", "--crop-size=24x24", "--turns=1"])
    told = capfd.readouterr()
    assert told.err == ""
    assert [line.split()[0] for line in told.out.splitlines()] == ["calibrator", "sredge", "onnxruntime", "the", "1"]
