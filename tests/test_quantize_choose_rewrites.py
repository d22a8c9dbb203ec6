"""Which exact rewrites `--effort best` takes: what errs least on pictures that nothing was learned from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from calibration.crops import hold_back, without_held_back
from calibration.table import CalibrationImage, CalibrationSource, CalibrationTable, read_table
from export.models import find_network
from export.models.srcnn import SRCNN
from export.stage import export_network
from export.weights import find_weights
from quantize.choose_rewrites import choose
from runtime.bundle import Bundle
from tests.typed import Ran

_PICTURES = [(48, 48)] * 16
_BEST = ("--effort", "best", "--without", "distil", "--crops", "16", "--crop-size", "24x24")


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small SRCNN x2, one of whose channels is a hundred times as large as the others, exported; not to be written to."""
    folder = tmp_path_factory.mktemp("uneven")
    torch.manual_seed(0)
    weights = SRCNN((9, 1, 5), (8, 4)).state_dict()
    weights["layer_1.weight"][0] *= 100
    weights["layer_1.bias"][0] *= 100
    weights["layer_2.weight"][:, 0] /= 100
    torch.save(weights, folder / "weights.pth")
    network = find_network("srcnn", scale=2)
    found = find_weights(network, scale=2, choice=str(folder / "weights.pth"))
    return export_network(network, scale=2, weights=found, directory=folder / "srcnn_x2")


@pytest.fixture
def uneven_copy(uneven: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(uneven.directory, tmp_path / "uneven"))


def _table(bundle: Path) -> CalibrationTable:
    opened = Bundle.open(bundle)
    calibration = opened.variant("int8").calibration
    assert calibration is not None
    return read_table(opened.path(calibration))


def test_channels_are_scaled_alike_where_held_back_pictures_gain(
    run: Callable[..., Ran], uneven_copy: Path, picture_folder: Callable[..., Path]
) -> None:
    pictures = picture_folder(*_PICTURES)

    ran = run(uneven_copy, "--calib", pictures, *_BEST)

    assert ran.code == 0, ran.err
    assert "equalized: the best on 4 held-back pictures" in ran.out
    table = _table(uneven_copy)
    assert (table.rewrites_chosen, bool(table.equalization)) == (True, True)
    assert len(table.source.images) == 16, "the table is measured on all pictures"
    again = run(uneven_copy, "--calib", pictures, *_BEST)
    assert "up to date" in again.out


@pytest.mark.parametrize(
    "options",
    [("--no-equalize", "--without", "mix-channels"), ("--effort", "balanced"), ("--crops", "12")],
    ids=["refused", "balanced", "few pictures"],
)
def test_nothing_is_chosen_where_that_was_not_asked_for(
    run: Callable[..., Ran], uneven_copy: Path, picture_folder: Callable[..., Path], options: tuple[str, ...]
) -> None:
    ran = run(uneven_copy, "--calib", picture_folder(*_PICTURES), *_BEST, *options)

    assert ran.code == 0, ran.err
    table = _table(uneven_copy)
    assert (table.rewrites_chosen, table.equalization) == (False, None)


def test_a_gain_counts_where_it_is_more_than_chance() -> None:
    usual = np.array([40.0, 41, 42, 43])
    asked = {
        (True, False): usual,
        (False, False): usual + np.array([0.5, -0.4, 0.3, -0.2]),  # +0.05 on average, and as much by chance
        (True, True): usual + np.array([0.2, 0.1, 0.2, 0.1]),
        (False, True): usual + np.array([0.4, 0.2, 0.3, 0.3]),
    }

    assert choose(asked) == (False, True)
    assert choose({one: psnrs for one, psnrs in asked.items() if not one[1]}) == (True, False)


@pytest.mark.parametrize("count", [4, 7, 16])
def test_what_is_judged_on_is_not_learned_from(count: int) -> None:
    images = tuple(CalibrationImage(name=str(index), low_sha256=f"{index:064x}", high_sha256=None) for index in range(count))
    source = CalibrationSource(dataset="any", seed=0, crops=count, crop_size=(8, 8), images=images)
    crops = [np.full((1, 1, 1, 1), index, np.float32) for index in range(count)]

    learned = {int(image.name) for image in without_held_back(source).images}

    split = hold_back(crops, source)
    assert learned == {int(crop.item()) for crop in split.learned_on}
    assert learned.isdisjoint(int(crop.item()) for crop in split.held_back)
