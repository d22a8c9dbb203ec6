"""python -m quantize explain, as it is typed, and what it says of pictures."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from calibration.datasets import find_images
from calibration.pairs import load_pair
from quantize.explain.pictures import compare_outputs
from quantize.explain.result import Explanation
from quantize.options import STEPS
from runtime.backends import BACKENDS
from runtime.bundle import REPORTS, Bundle, pack_bundle, write_bundle
from runtime.images import Picture
from runtime.upscaler import Upscaler
from tests.typed import Ran

SIZES = ((40, 48), (36, 60), (64, 40))
PLOT = Path(REPORTS) / "explain-cpu.png"


def explained(ran: Ran) -> Explanation:
    assert (ran.code, ran.err) == (0, "")
    return Explanation.model_validate_json(ran.out)


@pytest.fixture
def small(enlarged_before: Bundle, tmp_path: Path) -> Path:
    """A bundle of a small network, not quantized."""
    return Path(shutil.copytree(enlarged_before.directory, tmp_path / "small"))


@pytest.mark.parametrize("backend", [entry.name for entry in BACKENDS if entry.opens_graphs and "int8" in entry.precisions])
def test_every_layer_is_there_with_its_cost_and_what_the_backend_ran_it_in(
    run: Callable[..., Ran], bundle_copy: Bundle, picture_folder: Callable[..., Path], backend: str
) -> None:
    pictures = picture_folder(SIZES[0])

    found = explained(run("explain", bundle_copy.directory, "--calib", pictures, "--crops", 1, "--backend", backend, "--json"))

    layers = {layer.name: layer for layer in found.layers if layer.macs}
    costs = {layer.name: layer.macs for layer in bundle_copy.manifest.layers}
    assert layers.keys() | set(found.merged_layers) == costs.keys()
    assert {name: layer.macs for name, layer in layers.items()} == {name: costs[name] for name in layers}
    assert {(layer.asked, layer.ran) for layer in layers.values()} == {("int8", "int8")}
    assert found.backend == backend


def test_the_pictures_are_those_of_the_upscaler_the_worst_first(
    run: Callable[..., Ran], bundle_copy: Bundle, picture_folder: Callable[..., Path]
) -> None:
    pictures = picture_folder(*SIZES)

    found = explained(run("explain", bundle_copy.directory, "--calib", pictures, "--crops", len(SIZES), "--json"))

    figures = {}
    for pair in find_images(str(pictures), scale=2, use="evaluation").pairs:
        low, high = load_pair(pair, scale=2)
        outputs = {}
        for precision in ("fp32", "int8"):
            variant = bundle_copy.variant(precision)
            with Upscaler.open(bundle_copy, precision=variant.precision) as upscale:
                outputs[precision] = upscale(low)
        fp32, int8 = outputs["fp32"], outputs["int8"]
        drop = peak_signal_noise_ratio(high, fp32) - peak_signal_noise_ratio(high, int8)  # type: ignore[no-untyped-call] # scikit-image
        figures[pair.name] = (peak_signal_noise_ratio(fp32, int8), drop)  # type: ignore[no-untyped-call] # scikit-image
    assert [picture.name for picture in found.pictures] == sorted(figures, key=lambda name: figures[name][0])
    for picture in found.pictures:
        assert (picture.psnr_vs_fp32_db, picture.drop_db) == pytest.approx(figures[picture.name], abs=1e-6)


def test_a_colour_shift_is_the_mean_difference_of_each_channel() -> None:
    fp32 = np.full((4, 6, 3), 100, np.uint8)
    int8 = fp32 + np.array([0, 2, 255], np.uint8)  # the last wraps: one less
    int8[:2, :, 0] += 1

    found = compare_outputs("it", fp32, int8, truth=None)

    assert found.colour_shift == (0.5, 2.0, -1.0)
    assert found.drop_db is None


def test_equal_pictures_have_no_psnr(picture: Picture) -> None:
    found = compare_outputs("it", picture, picture.copy(), truth=picture)

    assert (found.psnr_vs_fp32_db, found.drop_db, found.colour_shift) == (None, None, (0.0, 0.0, 0.0))


def test_the_table_names_layers_pictures_and_colours_and_the_plot_is_there(
    run: Callable[..., Ran], bundle_copy: Bundle, picture_folder: Callable[..., Path]
) -> None:
    ran = run("explain", bundle_copy.directory, "--calib", picture_folder(*SIZES[:2]), "--crops", 2)

    assert (ran.code, ran.err) == (0, "")
    assert all(layer.name in ran.out for layer in bundle_copy.manifest.layers)
    assert all(word in ran.out for word in ("SQNR", "clipped", "GMAC", "worst pictures", "colour shift", str(PLOT)))
    plot = cv2.imread(str(bundle_copy.directory / PLOT))
    assert plot is not None
    assert plot.shape[0] > 600
    assert plot.std() > 10  # something is drawn


def test_sensitivity_says_what_each_layer_alone_does_to_the_output(
    run: Callable[..., Ran], bundle_copy: Bundle, picture_folder: Callable[..., Path]
) -> None:
    pictures = picture_folder(SIZES[0])

    found = explained(run("explain", bundle_copy.directory, "--calib", pictures, "--crops", 1, "--sensitivity", "--json"))

    outputs = {layer.name: layer.output_psnr_db for layer in found.layers if layer.output_psnr_db is not None}
    assert outputs.keys() == set(bundle_copy.variant("int8").int8_layers)
    assert all(value > 40 for value in outputs.values()), outputs  # one layer costs less than all of them, which have 44 dB


def test_without_pictures_named_the_samples_are_looked_at(run: Callable[..., Ran], small: Path) -> None:
    assert run(small, "--calib", "samples", "--crops", 1, "--crop-size", "16x16").code == 0

    found = explained(run("explain", small, "--crops", 2, "--json"))

    assert (found.dataset, found.crops, len(found.pictures)) == ("samples", 2, 2)


def test_pictures_that_int8_was_calibrated_on_are_counted(
    run: Callable[..., Ran], small: Path, picture_folder: Callable[..., Path]
) -> None:
    pictures = picture_folder(*SIZES)
    assert run(small, "--calib", pictures, "--crops", 3, "--crop-size", "16x16").code == 0

    ran = run("explain", small, "--calib", pictures, "--crops", 3)

    assert "(!) int8 was calibrated on 3 of these pictures" in ran.out


@pytest.mark.parametrize("equalize", [(), ("--equalize",)], ids=["as it is", "equalized"])
@pytest.mark.parametrize("without", [(), STEPS], ids=["every step", "no step"])
def test_a_layer_alone_is_close_to_fp32_however_the_graph_was_made(
    run: Callable[..., Ran], small: Path, picture_folder: Callable[..., Path], equalize: list[str], without: list[str]
) -> None:
    pictures = picture_folder(*SIZES)
    left_out = [argument for step in without for argument in ("--without", step)]
    few = ("--crops", 3, "--crop-size", "16x16")
    assert run(small, "--calib", pictures, *equalize, *left_out, *few).code == 0

    found = explained(run("explain", small, "--calib", pictures, "--crops", 3, "--json"))

    # Held against a graph of other scales or another mean, a layer would be all error: 0 dB.
    assert all(layer.alone_sqnr_db is None or layer.alone_sqnr_db > 20 for layer in found.layers), found.layers


def test_a_bundle_that_was_not_quantized_says_what_to_type(
    run: Callable[..., Ran], exported: Bundle, picture_folder: Callable[..., Path]
) -> None:
    ran = run("explain", exported.directory, "--calib", picture_folder(SIZES[0]))

    assert (ran.code, ran.out) == (2, "")
    assert f"python -m quantize {exported.directory}" in ran.err


def test_a_packed_bundle_has_no_place_for_the_plot(run: Callable[..., Ran], quantized: Bundle, tmp_path: Path) -> None:
    (tmp_path / "packed.sredge").write_bytes(pack_bundle(quantized))

    ran = run("explain", tmp_path / "packed.sredge")

    assert (ran.code, ran.out) == (2, "")
    assert "zipfile" in ran.err


def test_a_graph_without_its_calibration_table_is_refused(
    run: Callable[..., Ran], bundle_copy: Bundle, picture_folder: Callable[..., Path]
) -> None:
    int8 = bundle_copy.variant("int8")
    other = int8.model_copy(update={"calibration": None})
    write_bundle(bundle_copy.directory, bundle_copy.manifest.with_variant(other), files={})

    ran = run("explain", bundle_copy.directory, "--calib", picture_folder(SIZES[0]))

    assert (ran.code, ran.out) == (2, "")
    assert "python -m quantize" in ran.err


@pytest.mark.parametrize(
    "arguments", [("--target", "abacus"), ("--calib", "nothing"), ("--backend", "abacus"), ("--calib", "div2k")], ids=" ".join
)
def test_what_there_is_not_is_an_error_and_leaves_nothing(
    run: Callable[..., Ran], bundle_copy: Bundle, arguments: tuple[str, ...]
) -> None:
    ran = run("explain", bundle_copy.directory, *arguments)

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert "Traceback" not in ran.err
    assert not (bundle_copy.directory / REPORTS).exists()
