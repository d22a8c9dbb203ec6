"""Run one picture through a network: a plan in, bands of whole output rows out, each put together from its tiles."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from types import TracebackType
from typing import Generic

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ..backends import Backend, Values
from ..bundle import Io, Manifest
from ..errors import PipelineError
from ..pictures.bicubic import Samples
from ..pictures.pixels import from_floats, from_planes, to_floats
from .filling import filled_planes
from .ordered import in_order
from .plan import Plan
from .seams import SeamError, SeamMeter
from .tiling import Tile

OnTile = Callable[[int, int], None]
"""Called with how many tiles of a picture are done, and of how many."""


class Bands(Generic[Samples]):
    """The output from top to bottom in pieces of whole rows, (n, W·scale, …): an iterator.

    A context manager: leaving it, or `close`, stops the tiles that have not begun.
    """

    def __init__(self, pieces: Generator[NDArray[Samples], None, None], meter: SeamMeter | None) -> None:
        self._pieces = pieces
        self._meter = meter

    @property
    def seam_error(self) -> SeamError | None:
        """The seam error of the picture's tiles so far, of all tiles after the last piece; None where tiles are exact."""
        return None if self._meter is None else self._meter.error

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> NDArray[Samples]:
        return next(self._pieces)

    def close(self) -> None:
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def run_bands(
    backend: Backend,
    manifest: Manifest,
    picture: NDArray[Samples],
    plan: Plan,
    *,
    io: Io,
    parallel: int,
    on_tile: OnTile | None = None,
) -> Bands[Samples]:
    """Return the picture's output; `parallel` tiles run ahead of what is waited for. `io` is what the graph takes and gives.

    Raises:
        PipelineError: the network's output holds NaN or infinity, or is not of the size that the manifest says.
        BackendError: the backend cannot run it.
    """
    tiles = [tile for band in plan.bands for tile in band]
    meter = None if plan.exact else SeamMeter(plan)
    run = partial(_run_tile, backend, manifest, picture, plan, io=io)
    results = (run(tile) for tile in tiles) if len(tiles) == 1 else in_order(run, tiles, workers=parallel)
    return Bands(_joined(tiles, results, plan, meter=meter, on_tile=on_tile), meter)


def _joined(
    tiles: Sequence[Tile],
    results: Generator[NDArray[Samples], None, None],
    plan: Plan,
    *,
    meter: SeamMeter | None,
    on_tile: OnTile | None,
) -> Generator[NDArray[Samples], None, None]:
    pieces: list[NDArray[Samples]] = []
    with closing(results):
        for done, (tile, pixels) in enumerate(zip(tiles, results, strict=True), start=1):
            if meter is not None:
                meter.add(tile, pixels)
            if on_tile is not None:
                on_tile(done, len(tiles))
            pieces.append(_kept(pixels, tile, plan))
            if len(pieces) == len(plan.columns):
                yield pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
                pieces = []


def _run_tile(
    backend: Backend, manifest: Manifest, picture: NDArray[Samples], plan: Plan, tile: Tile, *, io: Io
) -> NDArray[Samples]:
    """Return the output pixels for all that `tile` reads."""
    contract = manifest.contract
    planes = filled_planes(picture, contract, scale=manifest.scale, grid=plan.grid, rows=tile.rows.read, columns=tile.columns.read)
    rows, columns = plan.output_span(tile.rows.read, axis=0), plan.output_span(tile.columns.read, axis=1)
    if io == "uint8":
        frame = np.ascontiguousarray(planes[np.newaxis], np.uint8)
        output = _run_checked(backend, frame, plan)[0].astype(picture.dtype, copy=False)
    else:
        output = from_floats(_run_checked(backend, to_floats(planes), plan), picture.dtype)
    if output.shape[0] < rows.length or output.shape[1] < columns.length:
        raise PipelineError(
            f"the graph gives {output.shape[:2]} for {planes.shape[:2]}; its manifest says {(rows.length, columns.length)} or more",
            hint="export it again",
        )
    output = output[: rows.length, : columns.length]
    return from_planes(output, contract.colour, source=picture, size=plan.size, rows=rows, columns=columns)


def _run_checked(backend: Backend, array: NDArray[Values], plan: Plan) -> NDArray[Values]:
    """Return the output, of the size that the plan says; of sides that the scale makes no whole number of, to one pixel."""
    output = backend.run(array)
    sides = (slice(1, 3), slice(3, 4)) if array.dtype == np.uint8 else (slice(2, 4), slice(1, 2))
    expected = [side * plan.factor for side in array.shape[sides[0]]]
    given = output.shape[sides[0]] if output.ndim == array.ndim else ()
    near = len(given) == 2 and all(abs(side - wanted) < 1 for side, wanted in zip(given, expected, strict=True))
    if not near or (output.shape[0], output.shape[sides[1]]) != (array.shape[0], array.shape[sides[1]]):
        wanted = "×".join(f"{float(side):g}" for side in expected)
        raise PipelineError(
            f"the graph gives {output.shape} for {array.shape}; its manifest says {wanted} (height×width)", hint="export it again"
        )
    return output


def _kept(pixels: NDArray[Samples], tile: Tile, plan: Plan) -> NDArray[Samples]:
    (top, _), (left, _) = plan.output_span(tile.rows.read, axis=0), plan.output_span(tile.columns.read, axis=1)
    rows, columns = plan.output_span(tile.rows.kept, axis=0), plan.output_span(tile.columns.kept, axis=1)
    return pixels[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
