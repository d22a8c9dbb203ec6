"""Calibration on a real network: which crops it is shown, what is measured on them, and in how much memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from calibration.crops import crops_of, describe_source
from calibration.datasets import find_images
from calibration.fingerprint import graph_fingerprint
from calibration.measure import measure_activations
from calibration.observers import BINS
from calibration.pairs import ImageSet, Pair, picture_sha256
from calibration.table import CalibrationTable, write_table
from quantize.tensor_ranges import observed_tensors
from runtime.bundle import Bundle, Contract
from runtime.errors import ImageError, PipelineError
from runtime.images import Picture, read_picture, write_picture

MIXED_SIZES = ((1, 1), (3, 200), (200, 3), (40, 30), (17, 64))
SMALL = (16, 24)


@pytest.fixture
def graph(exported: Bundle) -> onnx.ModelProto:
    return onnx.load_model(exported.path(exported.variant("fp32")))


@pytest.fixture
def small_graph(exported_small: Bundle) -> onnx.ModelProto:
    """Of a tenth as many tensors."""
    return onnx.load_model(exported_small.path(exported_small.variant("fp32")))


def images_in(folder: Path) -> ImageSet:
    return find_images(str(folder), scale=2, use="calibration")


def crops_from(
    images: ImageSet, *, crops: int, seed: int = 0, crop_size: tuple[int, int] = SMALL, fixed_shape: bool = False
) -> list[NDArray[np.float32]]:
    source = describe_source(images, scale=2, crops=crops, crop_size=crop_size, seed=seed)
    return list(crops_of(images, source, scale=2, contract=Contract(static_shape=SMALL if fixed_shape else None)))


@pytest.mark.parametrize(("static_shape", "sizes"), [(None, {(24, 36), (4, 36), (24, 4)}), ((24, 36), {(24, 36)})], ids=str)
def test_crops_are_enlarged_for_a_network_that_takes_them_so(
    picture_folder: Callable[..., Path], static_shape: tuple[int, int] | None, sizes: set[tuple[int, int]]
) -> None:
    images = images_in(picture_folder((3, 200), (200, 3), (40, 30)))
    contract = Contract(pre_upscale=True, static_shape=static_shape)
    source = describe_source(images, scale=1.5, crops=3, crop_size=SMALL)
    assert {crop.shape[2:] for crop in crops_of(images, source, scale=1.5, contract=contract)} == sizes


def measure(
    graph: onnx.ModelProto, images: ImageSet, *, crops: int = 6, seed: int = 0, fixed_shape: bool = False
) -> CalibrationTable:
    model = ir.from_proto(graph)
    source = describe_source(images, scale=2, crops=crops, crop_size=SMALL, seed=seed)
    return measure_activations(
        model,
        crops_of(images, source, scale=2, contract=Contract(static_shape=SMALL if fixed_shape else None)),
        tensors=observed_tensors(model.graph),
        source=source,
        percentile=99.9999,
    )


def test_pictures_of_mixed_and_tiny_sizes_calibrate(graph: onnx.ModelProto, picture_folder: Callable[..., Path]) -> None:
    table = measure(graph, images_in(picture_folder(*MIXED_SIZES)))

    assert set(table.tensors) == set(observed_tensors(ir.from_proto(graph).graph))
    assert all(statistics.minimum <= statistics.maximum for statistics in table.tensors.values())


def test_a_crop_is_as_large_as_asked_or_as_its_picture(picture_folder: Callable[..., Path]) -> None:
    crops = crops_from(images_in(picture_folder(*MIXED_SIZES)), crops=len(MIXED_SIZES))

    expected = [(1, 3, min(height, SMALL[0]), min(width, SMALL[1])) for height, width in MIXED_SIZES]
    assert [crop.shape for crop in crops] == expected
    assert all(crop.dtype == np.float32 for crop in crops)


def test_a_crop_is_a_piece_of_its_picture_between_0_and_1(tmp_path: Path, picture: Picture) -> None:
    write_picture(tmp_path / "a.png", picture)

    (crop,) = crops_from(images_in(tmp_path), crops=1)

    windows = np.lib.stride_tricks.sliding_window_view(picture / 255, SMALL, axis=(0, 1))
    assert np.isclose(windows, crop[0]).all(axis=(2, 3, 4)).any()


@pytest.mark.parametrize("size", MIXED_SIZES)
def test_a_fixed_shape_gets_small_pictures_mirrored_to_exactly_that_shape(
    picture_folder: Callable[..., Path], size: tuple[int, int]
) -> None:
    folder = picture_folder(size)

    (crop,) = crops_from(images_in(folder), crops=1, fixed_shape=True)

    assert crop.shape == (1, 3, *SMALL)
    height, width = min(size[0], SMALL[0]), min(size[1], SMALL[1])
    restored = np.rint(crop[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    mirrored = cv2.copyMakeBorder(restored[:height, :width], 0, SMALL[0] - height, 0, SMALL[1] - width, cv2.BORDER_REFLECT)
    np.testing.assert_array_equal(restored, mirrored)


def test_a_graph_of_fixed_shape_calibrates_on_pictures_of_other_shapes(
    graph: onnx.ModelProto, picture_folder: Callable[..., Path]
) -> None:
    for dimension, size in zip(graph.graph.input[0].type.tensor_type.shape.dim, (1, 3, *SMALL), strict=True):
        dimension.dim_value = size

    table = measure(graph, images_in(picture_folder(*MIXED_SIZES)), fixed_shape=True)

    assert table.tensors["output"].maximum > table.tensors["output"].minimum


def test_crops_are_shared_out_evenly_over_the_pictures(tmp_path: Path) -> None:
    for grey in (10, 20, 30):
        write_picture(tmp_path / f"{grey}.png", np.full((40, 40, 3), grey, np.uint8))

    crops = crops_from(images_in(tmp_path), crops=7)

    # Every other crop of a picture is its negative.
    assert [round(float(crop.mean()) * 255) for crop in crops] == [10, 245, 10, 20, 235, 30, 225]


def test_crops_are_taken_where_there_is_detail(tmp_path: Path) -> None:
    picture = np.full((64, 64, 3), 128, np.uint8)
    picture[:, 32:] = np.random.default_rng(0).integers(0, 256, (64, 32, 3))
    write_picture(tmp_path / "half_flat.png", picture)

    crops = crops_from(images_in(tmp_path), crops=24, crop_size=(16, 16))

    # A crop at random misses the detail with probability 17/49, the best of four with 0.0145: 0.35 of 24 crops.
    assert sum(float(np.ptp(crop)) == 0 for crop in crops) <= 2


def test_of_more_pictures_than_crops_a_seeded_choice_is_used(picture_folder: Callable[..., Path]) -> None:
    images = images_in(picture_folder(*[(20, 20)] * 12))

    def chosen(seed: int) -> list[str]:
        return [image.name for image in describe_source(images, scale=2, crops=4, seed=seed).images]

    assert chosen(0) == chosen(0)
    assert len({*chosen(0)}) == 4
    assert len({tuple(chosen(seed)) for seed in range(5)}) > 1


def test_the_source_records_every_picture_by_the_hash_of_its_pixels(picture_folder: Callable[..., Path]) -> None:
    folder = picture_folder((20, 20), (30, 25))

    source = describe_source(images_in(folder), scale=2, crops=6, crop_size=SMALL, seed=3)

    expected = [(path.stem, picture_sha256(read_picture(path)), None) for path in sorted(folder.iterdir())]
    assert [(image.name, image.low_sha256, image.high_sha256) for image in source.images] == expected
    assert (source.dataset, source.seed, source.crops, source.crop_size) == (folder.name, 3, 6, SMALL)


def test_the_source_records_both_pictures_of_a_pair(tmp_path: Path, picture: Picture) -> None:
    files = {"a_HR.png": picture, "a_LR.png": picture[::2, ::2].copy()}
    for name, content in files.items():
        write_picture(tmp_path / name, content)

    (image,) = describe_source(images_in(tmp_path), scale=2).images

    assert (image.high_sha256, image.low_sha256) == tuple(picture_sha256(content) for content in files.values())


def test_the_same_seed_gives_the_same_table_bytes(small_graph: onnx.ModelProto, picture_folder: Callable[..., Path]) -> None:
    images = images_in(picture_folder((60, 60), (50, 70)))

    assert write_table(measure(small_graph, images)) == write_table(measure(small_graph, images))


def test_another_seed_gives_other_statistics(small_graph: onnx.ModelProto, picture_folder: Callable[..., Path]) -> None:
    images = images_in(picture_folder((60, 60), (50, 70)))

    assert measure(small_graph, images, seed=1).tensors != measure(small_graph, images, seed=0).tensors


def test_a_table_is_bound_to_the_graph_it_was_measured_on(
    small_graph: onnx.ModelProto, picture_folder: Callable[..., Path]
) -> None:
    table = measure(small_graph, images_in(picture_folder((20, 20))), crops=1)

    assert table.graph_fingerprint == graph_fingerprint(ir.from_proto(small_graph).graph)


@pytest.mark.parametrize("tensor", ["input", "sub_mean.shifter"])
def test_statistics_agree_with_numpy_on_the_same_crops(
    graph: onnx.ModelProto, picture_folder: Callable[..., Path], tensor: str
) -> None:
    images = images_in(picture_folder(*MIXED_SIZES))
    values = [crop.transpose(1, 0, 2, 3).reshape(3, -1) for crop in crops_from(images, crops=6)]
    if tensor != "input":  # the first layer is a 1×1 convolution: a 3×3 matrix and a bias
        weights = {weight.name: onnx.numpy_helper.to_array(weight) for weight in graph.graph.initializer}
        matrix, bias = weights[f"{tensor}.weight"][..., 0, 0], weights[f"{tensor}.bias"]
        values = [matrix @ value + bias[:, np.newaxis] for value in values]
    everything = np.concatenate([value.reshape(-1) for value in values])

    statistics = measure(graph, images).tensors[tensor]

    rounding = 1e-5 * float(np.abs(everything).max())  # six digits are kept
    assert statistics.minimum == pytest.approx(everything.min(), abs=rounding)
    assert statistics.maximum == pytest.approx(everything.max(), abs=rounding)
    margin = 4 * float(np.abs(everything).max()) / BINS + rounding
    for percentile, (low, high) in statistics.percentiles.items():
        for measured, fraction in ((low, 1 - float(percentile) / 100), (high, float(percentile) / 100)):
            assert np.quantile(everything, fraction, method="lower") - margin <= measured
            assert measured <= np.quantile(everything, fraction, method="higher") + margin


def peak_bytes(graph: onnx.ModelProto, images: ImageSet) -> int:
    tracemalloc.start()
    try:
        measure(graph, images, crops=24)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_peak_memory_does_not_grow_with_the_number_of_pictures(
    small_graph: onnx.ModelProto, picture_folder: Callable[..., Path]
) -> None:
    folder = picture_folder(*[(256, 256)] * 24)
    images = images_in(folder)
    few = ImageSet(images.name, images.pairs[:4])
    peak_bytes(small_graph, few)  # what is loaded and cached on first use is not counted

    grown = peak_bytes(small_graph, images) - peak_bytes(small_graph, few)

    assert grown < 256 * 256 * 3  # one of the twenty more pictures


def test_peak_memory_does_not_grow_with_the_size_of_pictures(
    small_graph: onnx.ModelProto, picture_folder: Callable[..., Path]
) -> None:
    images = images_in(picture_folder((64, 64), (64, 64), (1024, 1024), (1024, 1024)))
    small, large = (ImageSet(images.name, pairs) for pairs in (images.pairs[:2], images.pairs[2:]))
    peak_bytes(small_graph, small)  # what is loaded and cached on first use is not counted

    grown = peak_bytes(small_graph, large) - peak_bytes(small_graph, small)

    # The file, two decodings of it (one tells whether there is alpha), the picture before, one to spare: no activations,
    # of which a single one would be 1 GB.
    assert grown < 5 * 1024 * 1024 * 3


def test_a_text_file_called_png_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not a picture")

    with pytest.raises(ImageError, match=r"notes\.png"):
        describe_source(images_in(tmp_path), scale=2)


def test_a_pair_without_a_low_picture_is_shrunk(tmp_path: Path, picture: Picture) -> None:
    write_picture(tmp_path / "a.png", picture)
    images = ImageSet("high", (Pair("a", tmp_path / "a.png", None),))

    (crop,) = crops_from(images, crops=1, crop_size=(99, 99))

    assert crop.shape == (1, 3, picture.shape[0] // 2, picture.shape[1] // 2)


def test_a_tensor_that_holds_nan_is_named(graph: onnx.ModelProto, picture_folder: Callable[..., Path]) -> None:
    weight = next(weight for weight in graph.graph.initializer if weight.name == "conv18.0.weight")
    broken = onnx.numpy_helper.to_array(weight).copy()
    broken.flat[0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(broken, weight.name))

    with pytest.raises(PipelineError, match=r"output, crop 0.*NaN"):
        measure(graph, images_in(picture_folder((20, 20))), crops=1)
