"""Plan how one picture goes through a network: a manifest, a size and a memory budget in; the tiles, or the whole picture, out.

The activations of a large picture do not fit a device's memory. The bundle's manifest says how many pixels the network looks beyond
each one, so that tiles with such a margin give the pixels that the whole picture gives. The budget is in bytes; where not even the
smallest tile fits it, an ImageError says what would.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

from ..bundle import Manifest
from ..errors import ImageError
from ..sizes import SizeLimits, Span, is_simple, round_up, upscaled_size
from .memory import bytes_per_pixel, check_fixed, even_kept, format_bytes, largest_kept
from .tiling import GRID, Cut, Tile, cut_axis, cut_axis_fixed, make_bands, reading_share

SEAM_CONTEXT = 32
"""Pixels around a tile of a network that looks at the whole picture: what they leave of a seam is measured."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The tiles of one picture.

    Attributes:
        picture: (H, W) of the network's input for the whole picture, as it is.
        grid: the same, filled up to what the graph takes.
        size: (H, W) of its output, without what comes of the filling.
        factor: how many times larger than the input that is; whatever it is where there is but one tile.
        rows, columns: the pieces of `grid`; one each where it runs whole.
        fixed: (H, W) of every window, where the graph takes but one or an engine has limits; None where it takes any.
        exact: the tiles give what the whole picture would; else they have seams.
        takes_bytes: memory that the tiles at work and the band of output rows take, by estimate.
    """

    picture: tuple[int, int]
    grid: tuple[int, int]
    size: tuple[int, int]
    factor: Fraction
    rows: tuple[Cut, ...]
    columns: tuple[Cut, ...]
    fixed: tuple[int, int] | None
    exact: bool
    takes_bytes: int = 0

    def output_span(self, span: Span, *, axis: int) -> Span:
        """Return the output's rows (axis 0) or columns (1) that those of the input become."""
        start, stop = span.times(self.factor)
        return Span(start, self.size[axis] if span.stop >= self.picture[axis] else stop)

    @property
    def bands(self) -> Iterator[tuple[Tile, ...]]:
        """The tiles from top to bottom, those beside each other together."""
        return make_bands(self.rows, self.columns)

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return len(self.rows) * len(self.columns)

    @property
    def overhead(self) -> float:
        """Share of the arithmetic that is spent on pixels computed twice or filled in, 0 to 1."""
        if self.fixed is None:
            return 1 - 1 / reading_share(self.rows, self.columns)
        return 1 - self.picture[0] * self.picture[1] / (self.count * self.fixed[0] * self.fixed[1])

    @property
    def filled_in(self) -> tuple[int, int]:
        """Rows and columns that a graph of fixed windows is given beside the picture's own."""
        if self.fixed is None:
            return 0, 0
        return self.grid[0] - self.picture[0], self.grid[1] - self.picture[1]


def plan_run(
    manifest: Manifest,
    size: tuple[int, int],
    *,
    sample_bytes: int,
    tile: int | None,
    budget_bytes: int,
    parallel: int,
    limits: SizeLimits | None = None,
    held_bytes: int = 0,
    backend: str | None = None,
) -> Plan:
    """Return the tiles of a picture of that (H, W), `sample_bytes` for all the channels of a pixel.

    Args:
        tile: pixels of the network's input that a tile keeps a side; None takes what the budget allows.
        budget_bytes: what `parallel` tiles at a time, and the band of output rows they make, may take.
        held_bytes: what of that the picture, and what is done with its output, take beside the tiles.
        limits: of a graph that was compiled for some sizes alone; its windows are as large as those allow.
        backend: the name of what runs the network; some take more memory.

    Raises:
        ImageError: no tile, or not the graph's own, fits into the budget; the network has to see the whole picture, which does not;
            or a tile is asked of a graph that has its own.
    """
    contract, factor = manifest.contract, manifest.factor
    picture = contract.input_size(size, scale=manifest.scale)
    if contract.static_shape is not None:
        limits = SizeLimits(contract.static_shape, contract.static_shape)
    grid = _filled(manifest, picture, limits)
    window = None if limits is None else limits.window(grid)
    make = partial(Plan, picture=picture, grid=grid, size=upscaled_size(size, manifest.scale), factor=factor, fixed=window)
    pixel_bytes = bytes_per_pixel(manifest, factor=factor, backend=backend)
    output_bytes = math.ceil(factor**2 * sample_bytes)
    takes = partial(_takes_bytes, window, pixel_bytes=pixel_bytes * parallel, row_bytes=grid[1] * output_bytes)
    if window is not None:
        check_fixed(
            window,
            width=grid[1],
            pixel_bytes=pixel_bytes * parallel,
            output_bytes=output_bytes,
            budget_bytes=budget_bytes,
            held_bytes=held_bytes,
            hint="export it with a smaller --static" if contract.static_shape else "build its engine with a smaller --max",
        )
        rows, columns = _cut_fixed(manifest, picture, grid, window, tile=tile)
        return make(rows=rows, columns=columns, exact=True, takes_bytes=takes(rows, columns))
    why_whole, step = _why_whole(manifest), math.lcm(GRID, _alignment(manifest))
    if why_whole and tile is None:
        _check_whole_fits(manifest, size, needed_bytes=grid[0] * grid[1] * pixel_bytes + held_bytes, budget_bytes=budget_bytes)
        tile = max(picture)
    elif tile is None:
        tile = largest_kept(
            grid,
            halo=_halo(manifest),
            step=step,
            least=contract.least_side,
            pixel_bytes=pixel_bytes * parallel,
            output_bytes=output_bytes,
            budget_bytes=budget_bytes,
            held_bytes=held_bytes,
        )
    rows, columns = (
        cut_axis(
            length,
            kept=even_kept(length, tile),
            halo=_halo(manifest),
            filled=filled,
            step=step,
            unit=factor.denominator if is_simple(factor) else 1,
            least=contract.least_side,
        )
        for length, filled in zip(picture, grid, strict=True)
    )
    exact = not why_whole or len(rows) == len(columns) == 1
    if not exact and not is_simple(factor):
        raise ImageError(f"{manifest.model} {why_whole}: it cannot be run in tiles", hint="leave --tile out")
    return make(rows=rows, columns=columns, exact=exact, takes_bytes=takes(rows, columns))


def _filled(manifest: Manifest, picture: tuple[int, int], limits: SizeLimits | None) -> tuple[int, int]:
    """(H, W) to which the network's input is filled up: what the graph takes, and windows of one size can be cut of."""
    if limits is None:
        return manifest.contract.filled_size(picture, multiple=manifest.fill_multiple)
    free = manifest.contract.static_shape is None
    wanted = manifest.contract.filled_size(picture, multiple=manifest.fill_multiple) if free else picture
    step = _alignment(manifest)
    height, width = (
        side + round_up(max(length - side, 0), step) for side, length in zip(limits.window(wanted), wanted, strict=True)
    )
    return height, width


def _alignment(manifest: Manifest) -> int:
    """Windows start at multiples of it."""
    if manifest.contract.static_shape is not None:
        return math.lcm(manifest.alignment, manifest.factor.denominator if is_simple(manifest.factor) else 1)
    return math.lcm(manifest.alignment, manifest.fill_multiple)


def _takes_bytes(
    window: tuple[int, int] | None, rows: tuple[Cut, ...], columns: tuple[Cut, ...], *, pixel_bytes: int, row_bytes: int
) -> int:
    """Estimate the memory of the largest tile at work, and of the band of output rows that the tile is part of."""
    read = window or (max(cut.read.length for cut in rows), max(cut.read.length for cut in columns))
    return read[0] * read[1] * pixel_bytes + max(cut.kept.length for cut in rows) * row_bytes


def _cut_fixed(
    manifest: Manifest, picture: tuple[int, int], grid: tuple[int, int], fixed: tuple[int, int], *, tile: int | None
) -> tuple[tuple[Cut, ...], tuple[Cut, ...]]:
    if tile is not None:
        raise ImageError(f"this graph takes tiles of its own {fixed[0]}×{fixed[1]} (height×width)", hint="leave --tile out")
    why_whole = _why_whole(manifest)
    if why_whole and (grid[0] > fixed[0] or grid[1] > fixed[1]):
        raise ImageError(
            f"{manifest.model} {why_whole}: this graph of it takes {fixed[0]}×{fixed[1]} (height×width), not {grid[0]}×{grid[1]}",
            hint="export it without --static for any size"
            if manifest.contract.static_shape
            else f"python -m export.engine BUNDLE --max {grid[0]}x{grid[1]}",
        )
    unit = manifest.factor.denominator if is_simple(manifest.factor) else 1
    rows, columns = (
        cut_axis_fixed(length, side=side, halo=_halo(manifest), filled=filled, step=_alignment(manifest), unit=unit)
        for length, side, filled in zip(picture, fixed, grid, strict=True)
    )
    return rows, columns


def _check_whole_fits(manifest: Manifest, size: tuple[int, int], *, needed_bytes: int, budget_bytes: int) -> None:
    if needed_bytes > budget_bytes:
        raise ImageError(
            f"{manifest.model} {_why_whole(manifest)} and takes about {format_bytes(needed_bytes)} for {size[1]}×{size[0]}; "
            f"{format_bytes(budget_bytes)} are allowed",
            hint=f"--memory {math.ceil(needed_bytes / (1 << 20))}M, or --tile 256 for tiles whose seams are measured",
        )


def _why_whole(manifest: Manifest) -> str:
    """Return what keeps the network from being run in tiles exactly; empty where nothing does."""
    if manifest.halo == "global":
        operator = f" ({manifest.global_operator})" if manifest.global_operator else ""
        return f"looks at the whole picture{operator}"
    if not is_simple(manifest.factor):
        return f"enlarges by {manifest.scale:g}, which no small number of pixels makes whole"
    return ""


def _halo(manifest: Manifest) -> int:
    return SEAM_CONTEXT if manifest.halo == "global" else manifest.halo
