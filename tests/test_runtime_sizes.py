"""Graphs that take multiples, a least side, one picture at a time, or enlarge by no whole number: any picture, any tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from export.cli import main as export
from export.engine.profile import choose_profile
from runtime.bundle import Bundle
from runtime.cli import main as runtime
from runtime.errors import ImageError, UserError
from runtime.pictures.pixels import AnyPicture
from runtime.sizes import upscaled_size
from runtime.upscaler import Upscaler
from tests import reach_graphs as steps
from tests.graphs import Graph

MULTIPLES = (1, 2, 3, 8, 24)
SIZES = ((1, 1), (1, 40), (5, 3), (37, 53), (70, 41), (96, 48))
TILES = (1, 17, 40)
Make = Callable[..., Bundle]
Array = NDArray[np.float32]


def _graph(*, multiple: int = 1, factor: float = 2, least: int = 1) -> onnx.ModelProto:
    """A convolution enlarged, and a branch of 1 / multiple of the size; it reflects its borders where it needs a least side."""
    graph = Graph(0, channels=3)
    branch = graph.add("MaxPool", "input", kernel_shape=[multiple] * 2, strides=[multiple] * 2)
    branch = steps.resize(multiple * factor, coordinate_transformation_mode="asymmetric", nearest_mode="floor")(graph, branch)
    value = steps.pad_then_conv("reflect", least - 1)(graph, "input") if least > 1 else steps.conv(3)(graph, "input")
    value = steps.resize(factor, mode="linear")(graph, value)
    scaled = graph.add("Mul", graph.add("Add", branch, value), graph.constant(0.1))
    return graph.proto(graph.add("Add", scaled, graph.constant(0.4)))


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Imports such a graph, once."""

    @cache
    def making(*more: str, factor: float = 2, **kinds: int) -> Bundle:
        folder = tmp_path_factory.mktemp("sizes")
        onnx.save_model(_graph(factor=factor, **kinds), folder / "theirs.onnx")
        export([str(folder / "theirs.onnx"), f"--scale={factor}", f"--out={folder / 'bundle'}", *more])
        return Bundle.open(folder / "bundle")

    return making


def _picture(*shape: int, dtype: type[np.uint8 | np.uint16] = np.uint8) -> AnyPicture:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def _expected(bundle: Bundle, picture: AnyPicture) -> Array:
    """(H, W, 3) in [0, 1]: the whole picture, mirrored up to what the graph takes, its output cropped."""
    contract, sides = bundle.manifest.contract, picture.shape[:2]
    multiple = math.lcm(contract.multiple_of, 2 if bundle.manifest.scale % 1 else 1)
    filled = [-(-max(side, contract.least_side) // multiple) * multiple for side in sides]
    array = picture.astype(np.float32) / np.iinfo(picture.dtype).max
    for axis, (side, wanted) in enumerate(zip(sides, filled, strict=True)):
        padding = [(0, wanted - side) if axis == other else (0, 0) for other in range(3)]
        array = np.pad(array, padding, mode="reflect" if wanted - side < side else "edge")
    session = ort.InferenceSession(bundle.read(bundle.variant("fp32")), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: array.transpose(2, 0, 1)[np.newaxis]})
    height, width = upscaled_size((sides[0], sides[1]), bundle.manifest.scale)
    return np.asarray(output)[0, :, :height, :width].transpose(1, 2, 0).clip(0, 1)


def _upscale(bundle: Bundle, picture: AnyPicture, *, tile: int | None = None) -> AnyPicture:
    with Upscaler.open(bundle, precision="fp32", backend="onnxruntime", tile=tile, verify="never") as upscaler:
        if tile is None or max(picture.shape[:2]) > 40:
            several = tile is not None or bundle.manifest.contract.static_shape is not None
            assert (upscaler.plan(picture).count > 1) == several
        output = upscaler(picture)
        assert upscaler.seam_error is None
    return output


def _check(bundle: Bundle, picture: AnyPicture, *, tile: int | None) -> None:
    """Every sample is the expected one rounded, where float32's own noise does not decide which way."""
    output, expected = _upscale(bundle, picture, tile=tile), _expected(bundle, picture)
    largest = np.iinfo(picture.dtype).max
    assert output.shape == expected.shape
    assert np.abs(output - expected.astype(np.float64) * largest).max() <= 0.5 + largest * 1e-6, (picture.shape, tile)


@pytest.mark.parametrize("multiple", MULTIPLES)
def test_a_picture_of_any_size_is_filled_up_to_multiples_and_its_tiles_give_what_the_whole_gives(make: Make, multiple: int) -> None:
    bundle = make(multiple=multiple)
    assert bundle.manifest.contract.multiple_of == multiple
    assert bundle.manifest.halo != "global"
    for size in SIZES:
        for tile in (None, *TILES):
            _check(bundle, _picture(*size, 3), tile=tile)


@pytest.mark.parametrize("multiple", [1, 3])
@pytest.mark.parametrize("factor", [1.5, 2.5])
def test_a_scale_that_is_no_whole_number_is_exact_in_tiles_and_rounds_to_the_promised_size(
    make: Make, factor: float, multiple: int
) -> None:
    bundle = make(multiple=2 * multiple, factor=factor)
    assert bundle.manifest.alignment % 2 == 0
    for size in ((1, 1), (37, 53), (70, 41)):
        for tile in (None, *TILES):
            _check(bundle, _picture(*size, 3), tile=tile)


@pytest.mark.parametrize("tile", [None, 1])
def test_a_picture_below_the_least_side_is_filled_up_to_it(make: Make, tile: int | None) -> None:
    bundle = make(least=9)
    assert bundle.manifest.contract.least_side == 9
    for size in ((1, 1), (8, 60), (9, 9)):
        _check(bundle, _picture(*size, 3), tile=tile)


@pytest.mark.parametrize("tile", [None, 16])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(37, 53), (37, 53, 2), (37, 53, 4), (1, 1, 4)], ids=str)
def test_pictures_of_every_kind_are_filled_up(
    make: Make, shape: tuple[int, ...], dtype: type[np.uint8 | np.uint16], tile: int | None
) -> None:
    bundle, picture = make(multiple=8), _picture(*shape, dtype=dtype)
    output = _upscale(bundle, picture, tile=tile)
    colours = (
        picture[..., :3]
        if picture.ndim == 3 and picture.shape[2] == 4
        else np.repeat(picture.reshape(*shape[:2], -1)[..., :1], 3, 2)
    )
    assert output.dtype == dtype
    assert output.shape == (2 * shape[0], 2 * shape[1], *shape[2:])
    if picture.ndim == 3 and picture.shape[2] == 4:
        assert np.array_equal(output[..., :3], _upscale(bundle, colours))
    plain = _upscale(bundle, picture)
    assert np.abs(output.astype(int) - plain).max() <= 1


def test_windows_of_a_fixed_graph_start_on_its_own_grid(make: Make) -> None:
    free, fixed = make(multiple=8), make("--static=48x64", multiple=8)
    assert fixed.manifest.contract.static_shape == (48, 64)
    assert fixed.manifest.alignment == 8
    picture = _picture(96, 128, 3)
    assert np.abs(_upscale(fixed, picture, tile=None).astype(int) - _upscale(free, picture)).max() <= 1


def test_what_the_network_itself_does_not_take_is_refused_with_what_it_takes(make: Make) -> None:
    with Upscaler.open(make(multiple=8), precision="fp32", verify="never") as upscaler:
        assert upscaler.run(np.zeros((2, 3, 8, 16), np.float32)).shape == (2, 3, 16, 32)
        with pytest.raises(ImageError, match=r"takes multiples of 8 .*, got 9×16") as caught:
            upscaler.run(np.zeros((1, 3, 9, 16), np.float32))
    assert "call the Upscaler with a picture" in caught.value.hint


def test_a_graph_of_one_picture_at_a_time_refuses_two(make: Make) -> None:
    bundle = make(multiple=1)
    contract = bundle.manifest.contract.model_copy(update={"one_at_a_time": True})
    single = Bundle(bundle.directory, bundle.manifest.model_copy(update={"contract": contract}))
    with (
        Upscaler.open(single, precision="fp32", verify="never") as upscaler,
        pytest.raises(ImageError, match="one picture at a time"),
    ):
        upscaler.run(np.zeros((2, 3, 8, 8), np.float32))


def test_info_says_the_sizes_and_where_tiles_start(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    runtime(["info", str(make(multiple=24).directory)])
    said = capsys.readouterr().out
    assert "sizes   multiples of 24; pictures are filled up" in said
    assert "tiles start at multiples of 24" in said


def test_engines_are_built_for_sizes_that_the_graph_takes(make: Make) -> None:
    manifest = make(multiple=24).manifest
    profile = choose_profile(manifest, least=None, best=None, most=None, batch=1)
    assert all(side % 24 == 0 for size in (profile.min, profile.opt, profile.max) for side in size)
    with pytest.raises(UserError, match="--max 100x120: this graph takes multiples of 24") as caught:
        choose_profile(manifest, least=None, best=None, most=(100, 120), batch=1)
    assert caught.value.hint == "--max 120x120"


def test_tiles_of_aligned_corners_say_what_is_lost(shared: Path, tmp_path: Path) -> None:
    export([str(shared / "cases" / "02-align-corners-tiles" / "align.onnx"), "--scale=2", f"--out={tmp_path / 'out'}"])
    bundle = Bundle.open(tmp_path / "out")
    assert (bundle.manifest.halo, bundle.manifest.global_operator.split()[0]) == ("global", "Resize")
    with Upscaler.open(bundle, precision="fp32", tile=17, verify="never") as upscaler:
        upscaler(_picture(60, 50, 3))
        assert upscaler.seam_error is not None
        assert upscaler.seam_error.largest > 1
