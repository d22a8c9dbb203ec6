"""Checkpoints: found offline where they are, verified, refused with a reason, and never run."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pooch
import pytest
import torch

import export.weights
from export.checkpoints import load_state_dict
from export.models import NETWORKS, Network, find_network
from export.weights import find_weights, load_module
from runtime.bundle import sha256_file
from runtime.errors import WeightsError

ROOT = Path(__file__).resolve().parents[1]
SHIPPED_X2 = ROOT / "export" / "shipped" / "lesrcnn_x2.safetensors"
NO_ONE_LISTENS = "http://127.0.0.1:9"
published_cases = pytest.mark.parametrize(
    ("network", "scale"),
    [pytest.param(network, scale, id=f"{network.name}_x{scale}") for network in NETWORKS for scale in network.published],
)


@pytest.fixture
def lesrcnn() -> Network:
    return find_network("lesrcnn", scale=2)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download cache, on a machine that reaches no network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HTTPS_PROXY", NO_ONE_LISTENS)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    folder = Path(pooch.os_cache("sredge")) / "weights"
    assert folder.is_relative_to(tmp_path)
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def checkpoint(lesrcnn: Network, tmp_path: Path) -> Path:
    """LESRCNN x2 with random weights, as a .pth."""
    path = tmp_path / "lesrcnn_x2.pth"
    torch.manual_seed(0)
    torch.save(lesrcnn.build(2).state_dict(), path)
    return path


def _published_file(shared: Path, network: Network, scale: int) -> Path:
    """The development machine's copy of the published checkpoint, found by its sha256."""
    sums = dict(line.split() for line in (shared / "weights" / "SHA256SUMS").read_text().splitlines())
    sha256 = network.published[scale].sha256
    if sha256 not in sums:
        pytest.skip(f"{network.published[scale].url} is not among the development data")
    return shared / "weights" / sums[sha256]


def _load(network: Network, path: Path, *, scale: int = 2) -> torch.nn.Module:
    return load_module(network, scale=scale, weights=find_weights(network, scale=scale, choice=str(path)))


def _refusal(network: Network, path: Path, *, scale: int = 2) -> WeightsError:
    with pytest.raises(WeightsError) as caught:
        _load(network, path, scale=scale)
    assert str(path) in str(caught.value)
    return caught.value


def _from_folder(file: Path, name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = cache.parent / "my weights"
    folder.mkdir()
    monkeypatch.setenv("SREDGE_WEIGHTS", str(folder))
    return Path(shutil.copy(file, folder / name))


def _from_cache(file: Path, name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return Path(shutil.copy(file, cache / name))


Placing = Callable[[Path, str, Path, pytest.MonkeyPatch], Path]


@published_cases
@pytest.mark.parametrize("place", [_from_folder, _from_cache])
def test_published_weights_that_are_here_need_no_network(
    shared: Path, network: Network, scale: int, place: Placing, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = place(_published_file(shared, network, scale), network.published[scale].file, cache, monkeypatch)
    weights = find_weights(network, scale=scale, choice="published")
    assert weights.path == placed
    assert weights.checkpoint.source == "published"
    assert weights.checkpoint.sha256 == sha256_file(placed)
    load_module(network, scale=scale, weights=weights)


def test_a_file_in_the_weights_folder_that_is_not_the_published_one_is_refused(
    lesrcnn: Network, checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = _from_folder(checkpoint, "lesrcnn_x2.pth", cache, monkeypatch)
    with pytest.raises(WeightsError, match="sha256 differs") as caught:
        find_weights(lesrcnn, scale=2, choice="published")
    assert str(placed) in str(caught.value)
    assert lesrcnn.published[2].url in caught.value.hint


def test_a_damaged_file_in_the_cache_is_not_used(
    lesrcnn: Network, checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _from_cache(checkpoint, "lesrcnn_x2.pth", cache, monkeypatch)
    with pytest.raises(WeightsError, match="cannot be downloaded"):
        find_weights(lesrcnn, scale=2, choice="published")


@published_cases
def test_published_weights_that_cannot_be_downloaded_name_the_folder_variable(network: Network, scale: int, cache: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be downloaded") as caught:
        find_weights(network, scale=scale, choice="published")
    assert "SREDGE_WEIGHTS" in caught.value.hint
    assert network.published[scale].file in caught.value.hint
    assert not list(cache.iterdir())


def test_without_shipped_weights_the_hint_is_what_to_add() -> None:
    with pytest.raises(WeightsError, match="no weights for srgan x4 ship") as caught:
        find_weights(find_network("srgan", scale=4), scale=4, choice=None)
    assert "--weights published" in caught.value.hint
    assert "--weights FILE" in caught.value.hint


def test_shipped_weights_asked_for_where_there_are_none_lists_those_there_are(lesrcnn: Network) -> None:
    without = replace(lesrcnn, shipped={2: lesrcnn.shipped[2]})
    with pytest.raises(WeightsError, match="shipped: x2"):
        find_weights(without, scale=3, choice="shipped")


def test_shipped_weights_that_were_damaged_are_refused(lesrcnn: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / SHIPPED_X2.name
    damaged.write_bytes(SHIPPED_X2.read_bytes()[:-1] + b"\x01")
    monkeypatch.setattr(export.weights, "_SHIPPED", tmp_path)
    with pytest.raises(WeightsError, match="missing or damaged") as caught:
        find_weights(lesrcnn, scale=2, choice="shipped")
    assert "reinstall" in caught.value.hint


@pytest.mark.parametrize("place", ["nowhere.pth", ".", ""])
def test_a_choice_that_is_neither_a_name_nor_a_file_lists_the_names(lesrcnn: Network, tmp_path: Path, place: str) -> None:
    with pytest.raises(WeightsError, match="shipped and published"):
        find_weights(lesrcnn, scale=2, choice=str(tmp_path / place))


def test_a_checkpoint_file_is_loaded_as_it_is(lesrcnn: Network, checkpoint: Path) -> None:
    weights = find_weights(lesrcnn, scale=2, choice=str(checkpoint))
    assert weights.checkpoint.source == "file"
    assert weights.checkpoint.file == checkpoint.name
    assert weights.checkpoint.sha256 == sha256_file(checkpoint)
    saved = torch.load(checkpoint, weights_only=True)
    loaded = load_module(lesrcnn, scale=2, weights=weights).state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(value, loaded[key]) for key, value in saved.items())


def test_half_precision_weights_are_computed_with_in_fp32(lesrcnn: Network, tmp_path: Path) -> None:
    path = tmp_path / "half.pth"
    torch.save({key: value.half() for key, value in lesrcnn.build(2).state_dict().items()}, path)
    assert {value.dtype for value in _load(lesrcnn, path).state_dict().values()} == {torch.float32}


class _MakesFolder:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._folder),)


def _pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("save", [torch.save, _pickle], ids=["torch.save", "pickle"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "bin"])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(
    lesrcnn: Network, save: Callable[[object, Path], None], suffix: str, tmp_path: Path
) -> None:
    sign_of_life, path = tmp_path / "it ran", tmp_path / f"evil.{suffix}"
    save({"conv1.0.weight": _MakesFolder(sign_of_life)}, path)
    error = _refusal(lesrcnn, path)
    assert not sign_of_life.exists()
    assert error.hint
    pickle.loads(pickle.dumps(_MakesFolder(sign_of_life)))
    assert sign_of_life.exists(), "the code is harmless: this test shows nothing"


@pytest.mark.parametrize("save", [torch.save, _pickle], ids=["torch.save", "pickle"])
def test_the_refusal_of_code_does_not_advise_to_run_it(
    lesrcnn: Network, save: Callable[[object, Path], None], tmp_path: Path
) -> None:
    save({"conv1.0.weight": _MakesFolder(tmp_path / "it ran")}, tmp_path / "evil.pth")
    message = str(_refusal(lesrcnn, tmp_path / "evil.pth"))
    assert "weights_only" not in message
    assert "can still be loaded" not in message
    assert "\x1b" not in message


@pytest.mark.parametrize("kept", [0.0, 0.00001, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_checkpoint_that_was_cut_short_is_refused(lesrcnn: Network, form: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut.{'safetensors' if form == 'safetensors' else 'pth'}"
    if form == "safetensors":
        shutil.copy(SHIPPED_X2, path)
    else:
        torch.save(lesrcnn.build(2).state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert _refusal(lesrcnn, path).hint


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "text",
    [b"dear diary\n" * 100, b"12", b".", b"\x80\x02N.", b"PK\x03\x04 but no zip", b"version https://git-lfs.github.com/spec/v1\n"],
    ids=["text", "a number", "a stop", "pickled None", "half a zip", "a Git LFS pointer"],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_of_something_else_is_refused(lesrcnn: Network, suffix: str, text: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"other.{suffix}"
    path.write_bytes(text)
    assert _refusal(lesrcnn, path).hint


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/mem: a file that is there and whose first byte nobody can read")
def test_a_file_that_cannot_be_read_is_refused(lesrcnn: Network) -> None:
    _refusal(lesrcnn, Path("/proc/self/mem"))


@pytest.mark.parametrize(
    "content", [[1, 2], torch.zeros(3), {"conv1.0.weight": torch.zeros(3), "epoch": 3}, {"epoch": 3}, {}], ids=str
)
def test_a_file_that_holds_no_state_dict_is_refused(lesrcnn: Network, content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    assert "expected a state dict" in str(_refusal(lesrcnn, tmp_path / "other.pth"))


@pytest.mark.parametrize(
    "pack",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"params": state},
        lambda state: {"model": {"generator": state, "discriminator": {"conv1.0.weight": torch.zeros(3)}}},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
    ids=["state_dict", "params", "beside another network", "parallel"],
)
@pytest.mark.parametrize("suffix", ["pth", "pt"])
def test_weights_are_found_inside_what_training_scripts_save(
    lesrcnn: Network, pack: Callable[[dict[str, torch.Tensor]], object], suffix: str, tmp_path: Path
) -> None:
    state = lesrcnn.build(2).state_dict()
    torch.save(pack(state), tmp_path / f"saved.{suffix}")
    loaded = _load(lesrcnn, tmp_path / f"saved.{suffix}").state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in state.items())


def test_two_state_dicts_that_fit_alike_are_not_chosen_between(lesrcnn: Network, tmp_path: Path) -> None:
    state = lesrcnn.build(2).state_dict()
    torch.save({"generator": state, "generator_before": state}, tmp_path / "both.pth")
    error = _refusal(lesrcnn, tmp_path / "both.pth")
    assert "generator, generator_before" in str(error)
    assert "torch.save" in error.hint


def test_a_folder_is_looked_in_for_the_file_that_its_authors_name(tmp_path: Path) -> None:
    network = find_network("mdsr", scale=3)
    state = network.build(3).state_dict()
    torch.save(state, tmp_path / "pytorch_model_3x.pt")
    weights = find_weights(network, scale=3, choice=str(tmp_path))
    assert weights.path == tmp_path / "pytorch_model_3x.pt"
    with pytest.raises(WeightsError, match=r"pytorch_model_2x\.pt: there is no such file"):
        find_weights(network, scale=2, choice=str(tmp_path))


def test_a_network_that_is_given_an_enlarged_picture_has_one_checkpoint_for_every_scale(tmp_path: Path) -> None:
    network = find_network("srcnn", scale=1.5)
    torch.save(network.build(2).state_dict(), tmp_path / "srcnn.pth")
    weights = find_weights(network, scale=1.5, choice=str(tmp_path / "srcnn.pth"))
    load_module(network, scale=1.5, weights=weights)


def test_a_checkpoint_of_another_scale_is_told_which(lesrcnn: Network, tmp_path: Path) -> None:
    torch.save(lesrcnn.build(3).state_dict(), tmp_path / "x3.pth")
    error = _refusal(lesrcnn, tmp_path / "x3.pth")
    assert "upsample.up.body.0.weight is (576, 64, 3, 3), expected (256, 64, 3, 3)" in str(error)
    assert error.hint == "it looks like lesrcnn x3"


def test_a_checkpoint_of_no_known_network_is_described(lesrcnn: Network, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(5, 7).state_dict(), tmp_path / "linear.pth")
    error = _refusal(lesrcnn, tmp_path / "linear.pth")
    assert "sub_mean.shifter.weight is missing" in str(error)
    assert "no network known here" in error.hint
    assert "weight (7, 5)" in error.hint


def test_a_checkpoint_with_one_key_too_many_is_refused(lesrcnn: Network, checkpoint: Path) -> None:
    torch.save({**load_state_dict(checkpoint), "conv99.0.weight": torch.zeros(1)}, checkpoint)
    assert "conv99.0.weight is not one of its keys" in str(_refusal(lesrcnn, checkpoint))


def test_weights_that_are_not_real_numbers_are_refused(lesrcnn: Network, checkpoint: Path) -> None:
    torch.save({key: value.to(torch.complex64) for key, value in load_state_dict(checkpoint).items()}, checkpoint)
    _refusal(lesrcnn, checkpoint)
