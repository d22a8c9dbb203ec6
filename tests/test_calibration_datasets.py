"""Where pictures are looked for, how folders are read, and how high and low resolution are paired."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.datasets import DATASETS, Dataset, MissingDatasetError, dataset_names, find_images
from calibration.layouts import Use
from calibration.pairs import Pair, load_low, load_pair, picture_sha256, shrink
from runtime.errors import DatasetError, UnknownNameError
from runtime.images import Picture, read_picture, write_picture
from runtime.sizes import upscaled_size

EACH_DATASET = pytest.mark.parametrize("dataset", DATASETS, ids=[dataset.name for dataset in DATASETS])
USES: tuple[Use, ...] = ("calibration", "evaluation")
EACH_USE = pytest.mark.parametrize("use", USES)
Found = list[tuple[str, str | None, str | None]]
"""Name, high and low file of each picture, the files as paths under the folder."""


def place(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        write_picture(folder / file, np.zeros((4, 4, 3), np.uint8))


def found_in(folder: Path, *, scale: int = 2, use: Use) -> Found:
    def relative(path: Path | None) -> str | None:
        return None if path is None else path.relative_to(folder).as_posix()

    pairs = find_images(str(folder), scale=scale, use=use).pairs
    return [(pair.name, relative(pair.high), relative(pair.low)) for pair in pairs]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sredge" / "data"


TRAIN_HIGH, VALID_HIGH = "DIV2K_train_HR/0001.png", "DIV2K_valid_HR/0801.png"
TRAIN_LOW, VALID_LOW = "DIV2K_train_LR_bicubic/X2/0001x2.png", "DIV2K_valid_LR_bicubic/X2/0801x2.png"
TRAIN_LOW_3 = "DIV2K_train_LR_bicubic/X3/0001x3.png"


@pytest.mark.parametrize(
    ("files", "use", "expected"),
    [
        pytest.param(
            (TRAIN_HIGH, TRAIN_LOW, TRAIN_LOW_3, VALID_HIGH, VALID_LOW),
            "calibration",
            [("0001", TRAIN_HIGH, TRAIN_LOW)],
            id="DIV2K: calibration takes train",
        ),
        pytest.param(
            (TRAIN_HIGH, TRAIN_LOW, VALID_HIGH, VALID_LOW),
            "evaluation",
            [("0801", VALID_HIGH, VALID_LOW)],
            id="DIV2K: evaluation takes valid",
        ),
        pytest.param((VALID_HIGH, VALID_LOW), "calibration", [("0801", VALID_HIGH, VALID_LOW)], id="DIV2K: valid alone"),
        pytest.param((TRAIN_HIGH,), "evaluation", [("0001", TRAIN_HIGH, None)], id="DIV2K: high alone, evaluation"),
        pytest.param((TRAIN_HIGH,), "calibration", [("0001", TRAIN_HIGH, None)], id="DIV2K: high alone, calibration"),
        pytest.param((TRAIN_LOW,), "calibration", [("0001", None, TRAIN_LOW)], id="DIV2K: low alone"),
        pytest.param(
            (TRAIN_LOW, "DIV2K_train_HR/0004.png", "DIV2K_train_LR_bicubic/X2/0004x2.png"),
            "calibration",
            [
                ("0001", None, TRAIN_LOW),
                ("0004", "DIV2K_train_HR/0004.png", "DIV2K_train_LR_bicubic/X2/0004x2.png"),
            ],
            id="DIV2K: some without high",
        ),
        pytest.param(
            (TRAIN_LOW, "DIV2K_train_HR/0004.png"),
            "evaluation",
            [("0004", "DIV2K_train_HR/0004.png", None)],
            id="DIV2K: evaluation needs high",
        ),
        pytest.param(
            ("image_SRF_2/a_SRF_2_HR.png", "image_SRF_2/a_SRF_2_LR.png", "image_SRF_3/a_SRF_3_HR.png"),
            "evaluation",
            [("a_SRF_2", "image_SRF_2/a_SRF_2_HR.png", "image_SRF_2/a_SRF_2_LR.png")],
            id="SelfExSR",
        ),
        pytest.param(
            ("b_HR.png", "b_LR.png", "a_HR.png"),
            "evaluation",
            [("a", "a_HR.png", None), ("b", "b_HR.png", "b_LR.png")],
            id="pairs by name in one folder",
        ),
        pytest.param(
            ("HR/baby.png", "LR_bicubic/X2/babyx2.png", "LR_bicubic/X3/babyx3.png"),
            "evaluation",
            [("baby", "HR/baby.png", "LR_bicubic/X2/babyx2.png")],
            id="EDSR's benchmark folders",
        ),
        pytest.param(
            ("train/1.jpg", "test/2.jpg"), "calibration", [("1", "train/1.jpg", None)], id="BSDS500: calibration takes train"
        ),
        pytest.param(("train/1.jpg", "test/2.jpg"), "evaluation", [("2", "test/2.jpg", None)], id="BSDS500: evaluation takes test"),
        pytest.param(("b.png", "a.bmp"), "calibration", [("a", None, "a.bmp"), ("b", None, "b.png")], id="plain: fed as is"),
        pytest.param(("a.png",), "evaluation", [("a", "a.png", None)], id="plain: ground truth"),
    ],
)
def test_a_layout_is_recognised(tmp_path: Path, files: tuple[str, ...], use: Use, expected: Found) -> None:
    place(tmp_path, *files)

    assert found_in(tmp_path, use=use) == expected


def test_files_that_are_no_pictures_are_passed_over(tmp_path: Path) -> None:
    place(tmp_path, "a.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".b.png").write_bytes(b"what a file manager left")

    assert found_in(tmp_path, use="calibration") == [("a", None, "a.png")]


@EACH_DATASET
@EACH_USE
def test_a_known_name_is_a_folder_under_the_root(tmp_path: Path, cache: Path, dataset: Dataset, use: Use) -> None:
    place(tmp_path / dataset.folder, "a.png")

    found = find_images(dataset.name.upper(), scale=2, use=use, root=tmp_path)

    assert (found.name, [pair.name for pair in found.pairs]) == (dataset.name, ["a"])


@EACH_DATASET
def test_the_root_may_be_the_data_set_itself(tmp_path: Path, cache: Path, dataset: Dataset) -> None:
    place(tmp_path / dataset.folder, "a.png")

    found = find_images(dataset.name, scale=2, use="calibration", root=tmp_path / dataset.folder)

    assert [pair.name for pair in found.pairs] == ["a"]


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_the_search_goes_from_the_option_to_the_variable_to_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    places = {"option": tmp_path / "option", "variable": tmp_path / "variable", "cache": cache}
    monkeypatch.setenv("SREDGE_DATA", str(places["variable"]))
    places["option"].mkdir()
    for name in list(places)[missing:]:
        place(places[name] / "Set5", f"{name}.png")

    found = find_images("set5", scale=2, use="calibration", root=places["option"])

    assert [pair.name for pair in found.pairs] == [list(places)[missing]]


@EACH_DATASET
def test_a_missing_data_set_is_reported_with_the_places_searched(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset
) -> None:
    root, variable = tmp_path / "root", tmp_path / "variable"
    root.mkdir()
    monkeypatch.setenv("SREDGE_DATA", str(variable))

    with pytest.raises(MissingDatasetError) as raised:
        find_images(dataset.name, scale=2, use="calibration", root=root)

    for expected in (dataset.name, dataset.folder, str(root), str(variable), str(cache)):
        assert expected in str(raised.value)
    assert "--data" in raised.value.hint


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as raised:
        find_images("div4k", scale=2, use="calibration")

    assert all(name in str(raised.value) for name in ("div4k", *dataset_names()))


@pytest.mark.parametrize("choice", ["no/such/folder", "/missing"])
def test_a_path_that_is_no_folder_is_named(choice: str) -> None:
    with pytest.raises(DatasetError, match="no such folder") as raised:
        find_images(choice, scale=2, use="calibration")

    assert str(Path(choice)) in str(raised.value)


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        find_images("set5", scale=2, use="calibration", root=tmp_path / "missing")


@pytest.mark.parametrize("content", [(), ("notes.txt",)], ids=["empty", "no pictures"])
@EACH_USE
def test_a_folder_without_pictures_is_refused(tmp_path: Path, content: tuple[str, ...], use: Use) -> None:
    for name in content:
        (tmp_path / name).write_text("not a picture")

    with pytest.raises(DatasetError, match="has no pictures") as raised:
        find_images(str(tmp_path), scale=2, use=use)

    assert str(tmp_path) in str(raised.value)


@EACH_USE
def test_the_sample_photographs_can_be_read(use: Use) -> None:
    pairs = find_images("samples", scale=2, use=use).pairs

    assert len(pairs) >= 3
    for pair in pairs:
        low, high = load_pair(pair, scale=2)
        assert high.shape == (low.shape[0] * 2, low.shape[1] * 2, 3)
        assert np.ptp(low) > 100  # a photograph, not a placeholder


def test_the_real_div2k_pictures_are_found_for_calibration(shared: Path) -> None:
    found = find_images("div2k", root=shared / "data", scale=2, use="calibration")

    assert [pair.name for pair in found.pairs] == ["0001", "0002", "0003", "0004"]
    assert [pair.high is not None for pair in found.pairs] == [False, False, False, True]
    assert all(pair.low is not None for pair in found.pairs)


@pytest.mark.parametrize(("name", "count"), [("set5", 5), ("set14", 14)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_real_benchmark_sets_are_pairs_at_every_scale(shared: Path, name: str, count: int, scale: int) -> None:
    pairs = find_images(name, root=shared / "data", scale=scale, use="evaluation").pairs

    assert len(pairs) == count
    assert all(pair.high is not None and pair.low is not None for pair in pairs)


def widened_bicubic(row: NDArray[np.float64], scale: int) -> NDArray[np.float64]:
    """Keys' cubic with a = -0.5, stretched by `scale`, along the last axis; weights cut off at the border are renormalised."""
    length = row.shape[-1]
    centres = (np.arange(length // scale) + 0.5) * scale
    distance = np.abs(np.arange(length)[:, np.newaxis] + 0.5 - centres) / scale
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    shrunk: NDArray[np.float64] = row @ (weights / weights.sum(axis=0))
    return np.clip(np.rint(shrunk), 0, 255)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(24, 36), (25, 39), (31, 17)])
def test_shrinking_is_antialiased_bicubic_of_the_largest_multiple(size: tuple[int, int], scale: int) -> None:
    picture = np.random.default_rng(scale).integers(0, 256, (*size, 3), dtype=np.uint8)
    height, width = size[0] // scale * scale, size[1] // scale * scale

    shrunk = shrink(picture, scale)

    planes = picture[:height, :width].astype(np.float64).transpose(2, 0, 1)
    columns_done = widened_bicubic(planes, scale)
    expected = widened_bicubic(columns_done.transpose(0, 2, 1), scale).transpose(2, 1, 0)
    assert shrunk.shape == (height // scale, width // scale, 3)
    # PIL's weights are fixed-point: a value at a rounding boundary may go the other way, by one step.
    assert np.abs(shrunk - expected).max() <= 1


def test_a_shrunk_div2k_picture_is_the_one_its_authors_made(shared: Path) -> None:
    pair = find_images("div2k", root=shared / "data", scale=2, use="evaluation").pairs[0]
    assert pair.high is not None

    made = shrink(read_picture(pair.high), 2).astype(np.int16)

    # MATLAB's imresize rounds once, PIL after each direction; a border row differs in how the kernel is cut off.
    difference = np.abs(made - load_low(pair, scale=2))[4:-4, 4:-4]
    assert difference.mean() < 0.5
    assert difference.max() <= 3


def test_a_picture_smaller_than_the_scale_cannot_be_shrunk() -> None:
    with pytest.raises(DatasetError, match="too small"):
        shrink(np.zeros((2, 9, 3), np.uint8), 3)


def pair_of(folder: Path, *, high: tuple[int, int] | None, low: tuple[int, int] | None) -> Pair:
    files: list[Path | None] = []
    for name, size in (("high", high), ("low", low)):
        path = folder / f"{name}.png"
        if size is not None:
            write_picture(path, np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
        files.append(None if size is None else path)
    return Pair("pair", *files)


@pytest.mark.parametrize("low", [None, (4, 5)], ids=["low made", "low read"])
def test_a_larger_high_picture_is_cropped_at_right_and_bottom(tmp_path: Path, low: tuple[int, int] | None) -> None:
    pair = pair_of(tmp_path, high=(9, 11), low=low)
    assert pair.high is not None

    loaded_low, loaded_high = load_pair(pair, scale=2)

    assert loaded_low.shape == (4, 5, 3)
    np.testing.assert_array_equal(loaded_high, read_picture(pair.high)[:8, :10])


@pytest.mark.parametrize("scale", [1.1, 1.5, 1.65, 2.5])
@pytest.mark.parametrize("side", range(3, 40, 3))
def test_at_any_real_scale_the_high_picture_is_the_low_ones_size_times_it(tmp_path: Path, side: int, scale: float) -> None:
    low, high = load_pair(pair_of(tmp_path, high=(side, side + 1), low=None), scale=scale)
    assert high.shape[:2] == upscaled_size(low.shape[:2], scale)
    assert 0 <= side - high.shape[0] < scale + 0.5  # what does not fill a low pixel, and half of one for rounding


@pytest.mark.parametrize(
    ("high", "low", "reason"),
    [(None, (4, 5), "no high-resolution picture"), ((7, 11), (4, 5), "not 2 times")],
    ids=["no high", "high too small"],
)
def test_a_pair_that_cannot_be_compared_is_refused(
    tmp_path: Path, high: tuple[int, int] | None, low: tuple[int, int], reason: str
) -> None:
    pair = pair_of(tmp_path, high=high, low=low)

    with pytest.raises(DatasetError, match=reason):
        load_pair(pair, scale=2)


def test_the_same_pixels_have_the_same_hash_in_any_format(tmp_path: Path, picture: Picture) -> None:
    hashes = set()
    for name in ("one.png", "two.bmp", "three.tiff"):
        write_picture(tmp_path / name, picture)
        hashes.add(picture_sha256(read_picture(tmp_path / name)))

    assert hashes == {picture_sha256(picture)}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda picture: picture.reshape(56, 40, 3), id="shape"),
        pytest.param(lambda picture: picture[:, ::-1].copy(), id="order"),
        pytest.param(lambda picture: picture ^ np.uint8(1), id="lowest bit"),
    ],
)
def test_other_pixels_or_another_shape_have_another_hash(picture: Picture, change: Callable[[Picture], Picture]) -> None:
    assert picture_sha256(change(picture)) != picture_sha256(picture)
