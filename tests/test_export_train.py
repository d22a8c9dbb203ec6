"""Training: the patches fit, the network learns, and a run that was cut off ends as one that was not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch.nn import functional

from calibration.pairs import shrink
from export.checkpoints import load_state_dict
from export.models import NETWORKS, Network, find_network
from export.train.cli import main
from export.train.log import read_log, write_log
from export.train.patches import Photograph, draw_batch, find_photographs, load_photographs
from export.train.recipe import Progress, Recipe, Training, measure_psnr_db, run
from runtime.errors import DatasetError
from runtime.images import Picture, write_picture

cases = pytest.mark.parametrize(
    ("network", "scale"),
    [pytest.param(network, scale, id=f"{network.name}_x{scale}") for network in NETWORKS for scale in network.scales],
)
networks = pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
LESRCNN = find_network("lesrcnn", scale=2)
SIZES = ((70, 66), (64, 72), (64, 64))


def _smooth(height: int, width: int, seed: int) -> Picture:
    """A picture that is the same everywhere at a few pixels' distance, so that its halves can be compared."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "photographs"
    (path / "below").mkdir(parents=True)
    for index, size in enumerate(SIZES):
        write_picture(path / "below" / f"{index}.png", _smooth(*size, seed=index))
    return path


def _photographs(folder: Path, network: Network, scale: int) -> list[Photograph]:
    files = sorted(folder.rglob("*.png"))
    return load_photographs(files, network, scale=scale, smallest=8, on_step=lambda *_: None)


def _recipe(network: Network, scale: int, **changes: int | float) -> Recipe:
    return Recipe(**{"model": network.name, "scale": scale, "steps": 6, "batch": 2, "patch": 8, **changes})  # type: ignore[arg-type]


def _run(training: Training, photographs: list[Photograph], *, stop_at: int | None = None) -> list[Progress]:
    reports: list[Progress] = []
    run(
        training,
        photographs,
        photographs[:1],
        report_every=2,
        on_step=lambda *_: None,
        on_report=reports.append,
        should_stop=lambda: training.step == stop_at,
    )
    return reports


def _arguments(folder: Path, out: Path, *more: str, model: str = "espcn", scale: int = 3, steps: int = 40) -> list[str]:
    return [model, f"--scale={scale}", f"--data={folder}", f"--steps={steps}", "--batch=1", "--patch=8", f"--out={out}", *more]


def _fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


# Patches


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_low_half_of_a_photograph_is_the_one_pillow_makes(folder: Path, scale: int) -> None:
    for photograph, size in zip(_photographs(folder, LESRCNN, scale), SIZES, strict=True):
        high = photograph.high.permute(1, 2, 0).numpy()
        low = photograph.low.permute(1, 2, 0).numpy()
        assert high.shape == (size[0] // scale * scale, size[1] // scale * scale, 3)
        assert np.abs(low.astype(int) - shrink(high, scale)).max() <= 1  # fixed point there, floating point here


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_both_patches_of_a_pair_show_the_same_place_turned_the_same_way(folder: Path, scale: int) -> None:
    photographs = _photographs(folder, LESRCNN, scale)
    low, high = draw_batch(photographs, batch=24, patch=8, rng=np.random.default_rng(0))
    assert low.shape == (24, 3, 8, 8)
    assert high.shape == (24, 3, 8 * scale, 8 * scale)
    again = functional.interpolate(high, (8, 8), mode="bicubic", antialias=True)
    assert (again - low)[
        ..., 2:-2, 2:-2
    ].abs().max() < 6 / 255  # inside, where both see nearly the same; turned otherwise: a hundred


def test_patches_are_turned_every_way(folder: Path) -> None:
    picture = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)
    photograph = Photograph(picture, picture.repeat_interleave(2, 1).repeat_interleave(2, 2))
    low, _ = draw_batch([photograph], batch=200, patch=8, rng=np.random.default_rng(0))
    assert len({tuple(patch.flatten().tolist()) for patch in low}) == 8


def test_a_luma_network_learns_from_luma(folder: Path) -> None:
    (photograph, *_) = _photographs(folder, find_network("espcn", scale=3), 3)
    luma = np.asarray(Image.open(folder / "below" / "0.png").convert("YCbCr"))[: photograph.high.shape[1], :, 0]
    assert np.abs(photograph.high[0].numpy().astype(int) - luma[:, : photograph.high.shape[2]]).max() <= 1


@pytest.mark.parametrize("scale", [2, 3])
def test_a_network_that_is_given_an_enlarged_picture_learns_from_enlarged_ones(folder: Path, scale: int) -> None:
    enlarged = _photographs(folder, find_network("srcnn", scale=scale), scale)
    for given, plain in zip(enlarged, _photographs(folder, LESRCNN, scale), strict=True):
        assert torch.equal(given.high, plain.high)
        low = plain.low.permute(1, 2, 0).numpy()
        expected = Image.fromarray(low).resize((given.high.shape[2], given.high.shape[1]), Image.Resampling.BICUBIC)
        assert np.abs(given.low.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)).max() <= 1


def test_one_picture_in_forty_is_held_out_and_never_trained_on(tmp_path: Path) -> None:
    for index in range(81):
        (tmp_path / f"{index:02}.png").touch()
    files, kept = find_photographs(tmp_path, held_out=None)
    assert [path.name for path in kept] == ["00.png", "40.png", "80.png"]
    assert len(files) == 78
    assert not set(files) & set(kept)


def test_a_folder_held_out_leaves_the_others_to_train_on(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    write_picture(tmp_path / "held" / "a.png", _smooth(40, 40, 9))
    files, kept = find_photographs(folder, held_out=tmp_path / "held")
    assert (len(files), [path.name for path in kept]) == (3, ["a.png"])


def test_a_picture_smaller_than_a_patch_is_named(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"1\.png is smaller than a patch of 33"):
        load_photographs(sorted(folder.rglob("*.png")), LESRCNN, scale=2, smallest=33, on_step=lambda *_: None)


def test_a_picture_is_trained_on_at_several_sizes_where_it_is_large_enough(folder: Path) -> None:
    files = sorted(folder.rglob("*.png"))
    photographs = load_photographs(files, LESRCNN, scale=2, smallest=17, on_step=lambda *_: None, sizes=(1.0, 0.8, 0.5))
    wanted = [tuple(round(side * size) // 2 for side in picture) for picture in SIZES for size in (1.0, 0.8, 0.5)]
    assert [tuple(pair.low.shape[1:]) for pair in photographs] == [size for size in wanted if min(size) >= 17]


# Steps


@cases
def test_every_network_learns(folder: Path, network: Network, scale: int) -> None:
    photographs = _photographs(folder, network, scale)
    training = Training(network, _recipe(network, scale, steps=30, peak_rate=1e-3))
    losses = [training.take_step(photographs) for _ in range(10)]
    while len(losses) < 30 and np.mean(losses[-5:]) > 0.7 * np.mean(losses[:5]):  # most need no more
        losses.append(training.take_step(photographs))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


@networks
def test_a_resumed_run_equals_an_uninterrupted_one(folder: Path, network: Network, tmp_path: Path) -> None:
    scale = network.scales[0]
    photographs = _photographs(folder, network, scale)
    whole = Training(network, _recipe(network, scale))
    reports = _run(whole, photographs)

    first = Training(network, _recipe(network, scale))
    reports_of_both = _run(first, photographs, stop_at=4)
    first.save(tmp_path / "checkpoint.pt")
    second = Training(network, _recipe(network, scale))
    second.resume(tmp_path / "checkpoint.pt")
    assert second.step == 4
    reports_of_both += _run(second, photographs)

    assert reports_of_both == reports
    expected = whole.averaged.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in second.averaged.state_dict().items())


def test_another_seed_takes_other_steps(folder: Path) -> None:
    photographs = _photographs(folder, LESRCNN, 2)
    losses = {Training(LESRCNN, _recipe(LESRCNN, 2, seed=seed)).take_step(photographs) for seed in (0, 0, 1)}
    assert len(losses) == 2


def test_the_mean_colours_stay_what_they_are(folder: Path) -> None:
    training = Training(LESRCNN, _recipe(LESRCNN, 2))
    _run(training, _photographs(folder, LESRCNN, 2))
    fresh = LESRCNN.build(2).state_dict()
    for key, value in training.module.state_dict().items():
        assert torch.equal(value, fresh[key]) == ("shifter" in key), key


@pytest.mark.parametrize("name", ["lesrcnn", "lesrcnn-b"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lesrcnn_trains_in_a_cheaper_form_of_the_same_function(name: str, scale: int) -> None:
    module = find_network(name, scale=scale).build(scale)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        module.get_parameter("sub_mean.shifter.weight").copy_(torch.eye(3).view(3, 3, 1, 1))
        module.get_parameter("add_mean.shifter.weight").copy_(torch.eye(3).view(3, 3, 1, 1))
        picture = torch.rand(1, 3, 12, 15)
        torch.testing.assert_close(module.train()(picture), module.eval()(picture), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "scale"), [("lesrcnn", 2), ("lesrcnn", 3), ("lesrcnn", 4), ("lesrcnn-b", 4), ("espcn", 3)])
def test_an_untrained_network_interpolates(name: str, scale: int) -> None:
    network = find_network(name, scale=scale)
    picture = torch.rand(1, 3 if network.colour == "RGB" else 1, 16, 20)
    expected = picture
    for factor in (2, 2) if scale == 4 else (scale,):
        expected = functional.interpolate(expected, scale_factor=factor, mode="bilinear")
    with torch.no_grad():
        output = network.build(scale).eval()(picture)
    inside = (..., slice(2 * scale, -2 * scale), slice(2 * scale, -2 * scale))
    torch.testing.assert_close(output[inside], expected[inside], rtol=0, atol=1e-5)


def test_psnr_is_that_of_a_known_error() -> None:
    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = torch.nn.Parameter(torch.tensor(110 / 255))

        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            return self.value.expand(1, 3, 2 * picture.shape[2], 2 * picture.shape[3]).clone()

    pair = Photograph(torch.zeros(3, 9, 9, dtype=torch.uint8), torch.full((3, 18, 18), 100, dtype=torch.uint8))
    assert measure_psnr_db(Constant(), [pair], scale=2) == pytest.approx(20 * np.log10(25.5))


# The log


def test_a_log_is_read_as_written_up_to_a_step(tmp_path: Path) -> None:
    reports = [Progress(2, 0.5, 1e-4, 20.25), Progress(4, 0.25, 5e-5, 21.5)]
    write_log(tmp_path / "log.csv", reports)
    assert read_log(tmp_path / "log.csv", up_to=4) == reports
    assert read_log(tmp_path / "log.csv", up_to=3) == reports[:1]
    assert read_log(tmp_path / "none.csv", up_to=3) == []


# The command


def test_the_command_writes_weights_log_plot_and_recipe(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "espcn.safetensors"
    main(_arguments(folder, out, "--report-every=20", "--seed=7"))
    network = find_network("espcn", scale=3)
    network.build(3).load_state_dict(load_state_dict(out))
    described = json.loads(out.with_suffix(".json").read_text())
    assert (described["seed"], described["steps"], described["photographs"]) == (7, 40, 2)
    assert [report.step for report in read_log(out.with_suffix(".csv"), up_to=40)] == [20, 40]
    with Image.open(out.with_suffix(".png")) as plot:
        assert plot.width > 400


@pytest.mark.parametrize("interrupted", [False, True], ids=["uninterrupted", "interrupted"])
def test_ctrl_c_leaves_a_checkpoint_that_the_same_command_goes_on_from(folder: Path, tmp_path: Path, interrupted: bool) -> None:
    arguments = _arguments(folder, tmp_path / "a.safetensors", "--report-every=20", steps=200)
    command = [sys.executable, "-m", "export.train", *arguments]
    if interrupted:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        _wait_for(lambda: (tmp_path / "a.checkpoint.pt").is_file(), process)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 130, error
        assert "Traceback" not in error
        assert not (tmp_path / "a.safetensors").exists()
    main(arguments)
    assert [report.step for report in read_log(tmp_path / "a.csv", up_to=200)] == list(range(20, 201, 20))
    again = tmp_path / "b.safetensors"
    main(_arguments(folder, again, "--report-every=20", steps=200))
    assert again.read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def _wait_for(done: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not done() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def test_at_its_last_step_a_run_whose_log_is_gone_writes_its_weights_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    main(_arguments(folder, out))
    made = out.read_bytes()
    for gone in (out, out.with_suffix(".csv"), out.with_suffix(".png")):
        gone.unlink()

    main(_arguments(folder, out))

    assert out.read_bytes() == made
    assert out.with_suffix(".png").is_file()


def test_a_checkpoint_of_another_recipe_is_not_gone_on_from(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    main(_arguments(folder, out))
    error = _fails(_arguments(folder, out, "--seed=3"), capsys)
    assert "seed 0, now 3" in error
    assert "--restart" in error
    main(_arguments(folder, out, "--seed=3", "--restart"))
    assert json.loads(out.with_suffix(".json").read_text())["seed"] == 3


def test_a_network_starts_from_what_fits_of_anothers_weights(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(1)
    state = {key: torch.randn_like(value) for key, value in LESRCNN.build(2).state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "x2.safetensors")
    main(_arguments(folder, tmp_path / "x3.safetensors", f"--init={tmp_path / 'x2.safetensors'}", "--rate=0", model="lesrcnn"))
    said = capsys.readouterr().out
    made = load_state_dict(tmp_path / "x3.safetensors")
    alike = [key for key, value in made.items() if value.shape == state[key].shape]
    assert f"{len(alike)} of {len(made)} tensors start from" in said
    assert {key.partition(".")[0] for key in made.keys() - set(alike)} == {"upsample"}
    for key in alike:
        torch.testing.assert_close(made[key].float(), state[key], rtol=1e-3, atol=1e-3)  # stored as float16 perhaps


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--init={tmp}/none.pth"], "there is no such file"),
        (["--init={tmp}/other.safetensors"], "none of its tensors fits espcn x3"),
        (["--held-out={tmp}/none"], "there is no such folder"),
        (["--out={tmp}/weights.pth"], "written as .safetensors"),
        (["--out=/proc/x/a.safetensors"], "cannot write"),
        (["--patch=400"], "smaller than a patch of 400"),
    ],
    ids=["no init", "another network's init", "nothing held out", "another suffix", "a folder that cannot be", "large patches"],
)
def test_what_cannot_be_done_is_said_before_training(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], expected: str
) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    arguments = _arguments(folder, tmp_path / "a.safetensors", *(option.format(tmp=tmp_path) for option in more))
    error = _fails(arguments, capsys)
    assert expected in error
    assert not (tmp_path / "a.safetensors").exists()


def test_a_checkpoint_that_is_none_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.checkpoint.pt").write_bytes(b"no checkpoint")
    assert "a.checkpoint.pt" in _fails(_arguments(folder, tmp_path / "a.safetensors"), capsys)
