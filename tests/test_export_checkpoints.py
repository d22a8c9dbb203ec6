"""python -m export FILE.pth: whose network it is, found in the file; others' by spandrel, where that is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.any_checkpoint import find_architecture, find_own, read_checkpoint
from export.cli import main
from export.models import NETWORKS, find_network
from export.parity import run_torch
from runtime.bundle import Bundle
from runtime.errors import UserError, WeightsError
from runtime.upscaler import Upscaler

with_spandrel = pytest.mark.skipif(
    importlib.util.find_spec("spandrel") is None,
    reason="spandrel is not installed: its torchvision does not import beside this torch",
)
without_spandrel = pytest.mark.skipif(importlib.util.find_spec("spandrel") is not None, reason="spandrel is installed")


def _type(*words: object) -> int:
    try:
        main([str(word) for word in words])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def _stranger(path: Path) -> Path:
    """A state dict of no network of sredge's own: Real-ESRGAN's small network, 4 channels wide."""
    torch.manual_seed(0)
    shapes = {0: (8, 3, 3, 3), 2: (8, 8, 3, 3), 4: (12, 8, 3, 3)}
    state = {f"body.{index}.weight": torch.randn(shape) * 0.1 for index, shape in shapes.items()}
    state |= {f"body.{index}.bias": torch.zeros(shape[0]) for index, shape in shapes.items()}
    state |= {f"body.{index}.weight": torch.full((8,), 0.2) for index in (1, 3)}
    torch.save({"params": state}, path)
    return path


@pytest.mark.parametrize(
    ("network", "scale"),
    [(network, network.scales[-1]) for network in NETWORKS],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_checkpoint_of_sredges_own_networks_is_known(tmp_path: Path, network: Any, scale: int) -> None:  # noqa: ANN401
    path = tmp_path / "theirs.pth"
    torch.save({"params_ema": network.build(scale).state_dict()}, path)
    assert find_own(path, scale=scale) == (network, scale)


def test_it_is_exported_without_being_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(find_network("espcn", scale=3).build(3).state_dict(), tmp_path / "theirs.pth")
    assert _type(tmp_path / "theirs.pth", "--out", tmp_path / "out") == 0
    assert capsys.readouterr().out.startswith("theirs.pth: espcn x3\n")
    assert Bundle.open(tmp_path / "out").manifest.checkpoint.file == "theirs.pth"


def test_one_that_fits_at_several_scales_asks_for_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(find_network("lesrcnn-b", scale=2).build(2).state_dict(), tmp_path / "theirs.pth")
    assert _type(tmp_path / "theirs.pth", "--out", tmp_path / "out") == 2
    printed = capsys.readouterr().err
    assert "is lesrcnn-b, of 2, 3, 4; --scale is missing" in printed
    assert "hint: --scale 2" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere.pth",), "nowhere.pth: there is no such file"),
        (("theirs.pth", "--weights=theirs.pth"), "--weights has no effect on theirs.pth"),
        (("theirs.pth", "--colour=BGR"), "--colour and --range are for .onnx files"),
        (("broken.pth",), "broken.pth is not a checkpoint"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _stranger(tmp_path / "theirs.pth")
    (tmp_path / "broken.pth").write_bytes(b"no checkpoint at all")
    assert _type(*words) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "hint: " in printed


@without_spandrel
def test_without_spandrel_the_error_says_what_to_install_and_the_other_way(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="spandrel, which knows others, cannot be imported") as caught:
        find_architecture(_stranger(tmp_path / "theirs.pth"))
    assert "pip install 'sredge[spandrel]'; or export it to ONNX" in caught.value.hint


@with_spandrel
def test_spandrel_finds_the_architecture_and_the_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _stranger(tmp_path / "theirs.pth")
    assert _type(path, "--out", tmp_path / "out") == 0
    assert capsys.readouterr().out.startswith("theirs.pth: RealESRGAN Compact x2, found by spandrel\n")
    array = np.random.default_rng(0).random((1, 3, 19, 22), np.float32)
    expected = run_torch(find_architecture(path).module, array)
    with Upscaler.open(tmp_path / "out", precision="fp32", backend="onnxruntime") as upscaler:
        np.testing.assert_allclose(upscaler.run(array), expected, rtol=0, atol=1e-5)


@with_spandrel
def test_another_scale_than_the_networks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is RealESRGAN Compact x2, not x4"):
        read_checkpoint(_stranger(tmp_path / "theirs.pth"), scale=4)


@with_spandrel
@pytest.mark.parametrize("state", [{"weight": torch.zeros(3, 3)}, {"a.weight": torch.zeros(8, 3, 3, 3)}])
def test_what_no_architecture_fits_is_refused(tmp_path: Path, state: Mapping[str, torch.Tensor]) -> None:
    torch.save(state, tmp_path / "theirs.pth")
    with pytest.raises(WeightsError, match="fits no architecture that spandrel knows"):
        find_architecture(tmp_path / "theirs.pth")
