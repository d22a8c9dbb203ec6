"""Tiles: what they read and keep, and that together they give what the whole picture gives, for every network."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.models import NETWORKS, find_network
from export.stage import export_network
from export.weights import find_weights
from quantize.cli import main as quantize
from runtime.backends import BACKENDS
from runtime.bundle import Bundle
from runtime.errors import ImageError, UserError
from runtime.images import Picture, to_network
from runtime.targets import Precision
from runtime.tiles.memory import bytes_per_pixel, default_budget, parse_bytes
from runtime.tiles.ordered import in_order
from runtime.tiles.plan import Plan, plan_run
from runtime.tiles.seams import SeamError, SeamMeter
from runtime.tiles.tiling import GRID, Cut, cut_axis, cut_axis_fixed
from runtime.upscaler import Upscaler

lengths = st.integers(1, 300)
halos = st.integers(0, 40)


def _check(cuts: tuple[Cut, ...], length: int, halo: int) -> None:
    """Every pixel is kept once, in order, and what it depends on is read with it."""
    assert [cut.kept.start for cut in cuts] == [0, *(cut.kept.stop for cut in cuts[:-1])]
    assert cuts[-1].kept.stop == length
    for cut in cuts:
        assert cut.kept.length > 0
        assert 0 <= cut.read.start <= max(cut.kept.start - halo, 0)
        assert min(cut.kept.stop + halo, length) <= cut.read.stop <= length


@given(length=lengths, kept=st.integers(1, 300), halo=halos)
def test_tiles_keep_each_pixel_once_and_read_what_it_depends_on(length: int, kept: int, halo: int) -> None:
    cuts = cut_axis(length, kept=kept, halo=halo)
    _check(cuts, length, halo)
    assert all(cut.kept.length <= kept for cut in cuts)
    assert all(cut.read.start % GRID == 0 for cut in cuts)
    assert all(cut.read.stop % GRID == 0 or cut.read.stop == length for cut in cuts)


@given(length=lengths, halo=halos, more=st.integers(1, 60))
def test_tiles_of_a_fixed_size_read_exactly_that_and_end_with_the_picture(length: int, halo: int, more: int) -> None:
    side = 2 * halo + more
    cuts = cut_axis_fixed(length, side=side, halo=halo)
    _check(cuts, length, halo)
    assert {cut.read.length for cut in cuts} == {min(side, length)}


def test_a_fixed_tile_that_is_all_halo_is_refused_with_the_size_it_would_need() -> None:
    with pytest.raises(ImageError, match="keeps nothing") as caught:
        cut_axis_fixed(27, side=26, halo=13)
    assert "more than 26" in caught.value.hint
    assert len(cut_axis_fixed(26, side=26, halo=13)) == 1


ROOT = Path(__file__).resolve().parents[1]
SIZE = (50, 41)
TILES = (16, 40, 100)  # from the smallest that a budget gives to the whole picture
_REPEATED = re.compile(r"body\.([3-9]|\d\d+)\.")  # a deep trunk's blocks beyond three
local = pytest.mark.parametrize(("name", "scale"), [(network.name, scale) for network in NETWORKS for scale in network.scales[:1]])
backends = pytest.mark.parametrize("backend", [entry.name for entry in BACKENDS if entry.opens_graphs])
_WINOGRAD = ("lesrcnn", "espcn")  # what ncnn does at a tile's edge, all other networks have of these
combinations = pytest.mark.parametrize(
    ("name", "scale", "backend", "precision"),
    [
        (network.name, network.scales[0], entry.name, precision)
        for network in NETWORKS
        for entry in BACKENDS
        for precision in ("fp32", "int8")
        if entry.opens_graphs and precision in entry.precisions and (entry.name != "ncnn" or network.name in _WINOGRAD)
    ],
)
Make = Callable[..., Bundle]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Exports a network with random weights and quantizes it, once."""

    @cache
    def making(name: str, scale: int, *, static_shape: tuple[int, int] | None = None) -> Bundle:
        folder = tmp_path_factory.mktemp(f"{name}_x{scale}")
        network = find_network(name, scale=scale)
        with torch.device("meta"):
            shapes = {key: tuple(value.shape) for key, value in network.build(scale).state_dict().items()}
        torch.manual_seed(0)
        module = network.build_for(scale, {key: shape for key, shape in shapes.items() if not _REPEATED.match(key)})
        torch.save(module.state_dict(), folder / "weights.pth")
        weights = find_weights(network, scale=scale, choice=str(folder / "weights.pth"))
        export_network(network, scale=scale, weights=weights, directory=folder / "bundle", static_shape=static_shape)
        if static_shape is None:
            quantize([str(folder / "bundle"), "--calib", "samples", "--crops", "1", "--crop-size", "24x24", "--effort", "fast"])
        return Bundle.open(folder / "bundle")

    return making


def _picture(height: int, width: int) -> Picture:
    """Smooth structure and noise: nothing in it repeats from one tile to the next."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(rows / 7), np.cos(columns / 5), np.sin((rows + columns) / 9)], axis=-1)
    return np.clip(127 + 90 * waves + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


def _skip_global(bundle: Bundle) -> None:
    if bundle.manifest.halo == "global":
        pytest.skip(f"{bundle.manifest.model} looks at the whole picture: see the tests of seams")


def _floats_in_tiles(upscaler: Upscaler, picture: Picture, plan: Plan) -> NDArray[np.float32]:
    """The network's own output, put together from what each tile of the plan keeps."""
    manifest = upscaler.bundle.manifest
    array = to_network(picture, manifest.contract, scale=manifest.scale)
    output = np.full((1, manifest.contract.channels, *plan.size), np.nan, np.float32)
    for tile in itertools.chain.from_iterable(plan.bands):
        part = upscaler.run(array[:, :, tile.rows.read.slice, tile.columns.read.slice])
        rows, columns = tile.rows.kept.times(plan.factor), tile.columns.kept.times(plan.factor)
        inner = part[
            ...,
            tile.rows.kept.within(tile.rows.read).times(plan.factor).slice,
            tile.columns.kept.within(tile.columns.read).times(plan.factor).slice,
        ]
        output[..., rows.slice, columns.slice] = inner
    return output


@combinations
def test_tiles_give_what_the_whole_picture_gives(make: Make, name: str, scale: int, backend: str, precision: Precision) -> None:
    bundle, picture = make(name, scale), _picture(*SIZE)
    _skip_global(bundle)
    with Upscaler.open(bundle, precision=precision, backend=backend) as upscaler:
        assert upscaler.plan(picture).count == 1
        whole = upscaler(picture)
        floats = upscaler.run(to_network(picture, bundle.manifest.contract, scale=scale))
    for tile in TILES:
        with Upscaler.open(bundle, precision=precision, backend=backend, tile=tile) as upscaler:
            plan = upscaler.plan(picture)
            assert (plan.count == 1) == (tile >= max(plan.grid))
            difference = np.abs(_floats_in_tiles(upscaler, picture, plan) - floats).max()
            # int8 arithmetic is exact; float32 sums may be taken in another order.
            assert difference <= (1e-5 if precision == "fp32" else 0), f"tile {tile}: {difference:.1e}"
            tiled = upscaler(picture)
        apart = np.count_nonzero(tiled != whole)
        if precision == "int8":
            assert apart == 0, f"tile {tile}: {apart} samples differ"
        else:
            _check_ties(tiled, whole, floats, colour=bundle.manifest.contract.colour, tile=tile)


def _check_ties(tiled: Picture, whole: Picture, floats: NDArray[np.float32], *, colour: str, tile: int) -> None:
    """Where a sample differs, it is by one level, and the float output lies within 1e-5 of the middle between two levels."""
    apart = tiled.astype(int) - whole
    if colour == "Y":  # one level of luma moves all three colours
        assert np.abs(apart).max() <= 2
        assert np.count_nonzero(apart.any(axis=-1)) <= 3
        return
    levels = floats[0].transpose(1, 2, 0)[apart != 0] * 255
    assert np.abs(apart).max() <= 1
    assert np.all(np.abs(levels % 1 - 0.5) < 255e-5), f"tile {tile}: {np.count_nonzero(apart)} samples differ, not all of them ties"


# Graphs of one fixed size


@backends
@pytest.mark.parametrize("size", [(24, 32), (25, 33), (70, 41), (24, 100)], ids=str)
def test_a_fixed_graph_gives_for_a_larger_picture_what_a_free_one_gives(make: Make, backend: str, size: tuple[int, int]) -> None:
    free, fixed, picture = make("espcn", 3), make("espcn", 3, static_shape=(24, 32)), _picture(*size)
    with Upscaler.open(free, precision="fp32", backend=backend) as upscaler:
        whole = upscaler(picture)
    with Upscaler.open(fixed, backend=backend) as upscaler:
        assert np.abs(upscaler(picture).astype(int) - whole).max() <= 1
        assert not any(upscaler.plan(picture).filled_in)


def test_a_picture_smaller_than_a_fixed_graph_is_filled_up_and_says_what_that_costs(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    free, fixed, picture = make("espcn", 3), make("espcn", 3, static_shape=(24, 32)), _picture(20, 16)
    with Upscaler.open(free, precision="fp32") as upscaler:
        whole = upscaler(picture)
    with Upscaler.open(fixed) as upscaler:
        filled = upscaler(picture)
    assert filled.shape == whole.shape
    untouched = np.s_[: (20 - fixed.manifest.halo) * 3, : (16 - fixed.manifest.halo) * 3]  # type: ignore[operator] # not global
    assert np.abs(filled[untouched].astype(int) - whole[untouched]).max() <= 1
    assert "4 rows and 16 columns are filled in, which is 58% of the arithmetic" in caplog.text


def test_a_fixed_graph_takes_no_other_tile(make: Make) -> None:
    with Upscaler.open(make("espcn", 3, static_shape=(24, 32)), tile=16) as upscaler, pytest.raises(ImageError, match="24×32"):
        upscaler(_picture(30, 40))


# Networks that look at the whole picture


def test_a_network_that_looks_at_the_whole_picture_runs_whole(make: Make) -> None:
    with Upscaler.open(make("mdsr-bam", 2)) as upscaler:
        plan = upscaler.plan(_picture(200, 300))
    assert (plan.count, plan.exact) == (1, True)


def test_one_that_does_not_fit_whole_says_why_and_what_it_would_take(make: Make) -> None:
    expected = r"looks at the whole picture \(.*\) and takes about .* 10 MiB are allowed"
    with Upscaler.open(make("mdsr-bam", 2), memory_bytes=10 << 20) as upscaler, pytest.raises(ImageError, match=expected) as caught:
        upscaler(_picture(200, 300))
    assert "--memory" in caught.value.hint
    assert "--tile" in caught.value.hint


def test_tiles_asked_for_of_one_are_run_and_their_seams_measured(make: Make) -> None:
    picture = _picture(48, 64)
    with Upscaler.open(make("mdsr-bam", 2), precision="fp32") as upscaler:
        whole = upscaler(picture)
        assert upscaler.seam_error is None
    with Upscaler.open(make("mdsr-bam", 2), precision="fp32", tile=16) as upscaler:
        tiled = upscaler(picture)
        error = upscaler.seam_error
    assert tiled.shape == whole.shape
    assert error is not None
    assert 0 <= error.mean <= error.largest < 255


def test_the_seam_error_belongs_to_its_picture_whoever_else_uses_the_upscaler(
    exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.tiles.plan.SEAM_CONTEXT", 2)  # less than the network's halo: tiles of it have seams
    seamed = replace(exported, manifest=exported.manifest.model_copy(update={"halo": "global"}))
    pictures = [_picture(height, width) for height, width in ((16, 16), (40, 40), (40, 60), (60, 60))]
    with Upscaler.open(seamed, precision="fp32", backend="onnxruntime", tile=20, parallel=2) as upscaler:
        alone = [upscaler.upscale(picture) for picture in pictures]
        assert len({result.seam_error for result in alone}) == len(pictures)

        def each_way(index: int) -> tuple[SeamError | None, ...]:
            picture = pictures[index % len(pictures)]
            result = upscaler.upscale(picture).seam_error
            with upscaler.bands(picture) as bands:
                assert sum(len(band) for band in bands) == 2 * len(picture)
            upscaler(picture)
            return result, bands.seam_error, upscaler.seam_error

        for index, errors in enumerate(in_order(each_way, range(12), workers=3)):
            assert errors == (alone[index % len(pictures)].seam_error,) * 3
        streamed = in_order(upscaler.upscale, pictures, workers=3)
        assert [result.seam_error for result in streamed] == [result.seam_error for result in alone]


def test_each_tile_is_told_as_it_is_done(make: Make) -> None:
    with Upscaler.open(make("espcn", 3), precision="fp32", tile=16, parallel=2) as upscaler:
        told: list[tuple[int, int]] = []
        bands = upscaler.bands(_picture(40, 50), on_tile=lambda done, count: told.append((done, count)))
        assert not told
        next(bands)
        assert told[-1][0] < told[-1][1]
        list(bands)
    assert told == [(done, told[-1][1]) for done in range(1, told[-1][1] + 1)]
    assert told[-1][1] > 3


def test_the_seam_error_is_the_difference_of_neighbours_where_they_meet() -> None:
    rows = columns = cut_axis(64, kept=32, halo=16)
    plan = Plan(
        picture=(64, 64), grid=(64, 64), size=(128, 128), factor=Fraction(2), rows=rows, columns=columns, fixed=None, exact=False
    )
    meter = SeamMeter(plan)
    for level, tile in zip((10, 12, 15, 15), itertools.chain.from_iterable(plan.bands), strict=True):
        meter.add(tile, np.full((tile.rows.read.length * 2, tile.columns.read.length * 2, 3), level, np.uint8))
    assert meter.error.largest == 5  # 10 above 15
    assert meter.error.mean == pytest.approx((2 + 0 + 5 + 3) / 4)  # left to right above and below, then down on both sides


# Memory


@local
def test_a_smaller_budget_gives_smaller_tiles_and_none_is_larger_than_it(make: Make, name: str, scale: int) -> None:
    manifest = make(name, scale).manifest
    if manifest.halo == "global":
        pytest.skip("runs whole")
    counts = []
    for mib in (32, 128, 512, 2048):
        plan = plan_run(manifest, (2160, 3840), sample_bytes=3, tile=None, budget_bytes=mib << 20, parallel=1)
        largest = max(cut.read.length for cut in plan.rows) * max(cut.read.length for cut in plan.columns)
        assert largest * bytes_per_pixel(manifest, factor=plan.factor) <= mib << 20
        counts.append(plan.count)
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_a_budget_that_holds_no_tile_says_what_would(make: Make) -> None:
    with (
        Upscaler.open(make("espcn", 3), memory_bytes=1000) as upscaler,
        pytest.raises(ImageError, match="not even a tile") as caught,
    ):
        upscaler(_picture(50, 50))
    assert caught.value.hint.startswith("--memory")


@pytest.mark.parametrize(("text", "expected"), [("1", 1), ("3K", 3 << 10), ("512M", 512 << 20), ("2g", 2 << 30)])
def test_an_amount_of_memory_is_a_number_with_a_unit(text: str, expected: int) -> None:
    assert parse_bytes(text, option="--memory") == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "2T", "1.5G", "G", "much"])
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--memory") as caught:
        parse_bytes(text, option="--memory")
    assert "2G" in caught.value.hint


def test_the_default_budget_is_a_part_of_what_is_free() -> None:
    assert 1 << 20 < default_budget() < 1 << 50


@backends
def test_bands_are_the_output_in_pieces_of_whole_rows(make: Make, backend: str) -> None:
    picture = _picture(60, 50)
    with Upscaler.open(make("espcn", 3), backend=backend, tile=16, parallel=2) as upscaler:
        bands = list(upscaler.bands(picture))
        assert len(bands) == len(upscaler.plan(picture).rows) > 1
        assert np.array_equal(np.concatenate(bands), upscaler(picture))


def _peak_mib(bundle: Bundle, *, memory_bytes: int) -> int:
    """Peak resident memory of a process that upscales 600×600 pixels band by band, keeping none."""
    program = (
        "import re, numpy as np; from pathlib import Path; from runtime import Upscaler\n"
        f"with Upscaler.open({str(bundle.directory)!r}, precision='fp32', memory_bytes={memory_bytes}) as upscaler:\n"
        "    for band in upscaler.bands(np.zeros((600, 600, 3), np.uint8)): pass\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_memory_stays_within_the_budget_beyond_what_the_runtime_itself_takes(make: Make) -> None:
    bundle = make("espcn", 3)
    small, large = _peak_mib(bundle, memory_bytes=32 << 20), _peak_mib(bundle, memory_bytes=4 << 30)
    at_rest = 200  # the libraries, the picture, the graph
    assert small < at_rest + 2 * 32
    assert large > small + 100  # whole, it takes what the budget was there to prevent
