"""One picture through a network: its tiles, run and put together to bands of whole rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from runtime.backends import Backend
from runtime.bicubic import Samples
from runtime.bundle import Manifest
from runtime.errors import PipelineError
from runtime.ordered import in_order
from runtime.pixels import from_network, to_network
from runtime.plan import Plan
from runtime.seams import SeamMeter
from runtime.tiling import Tile


def run_bands(
    backend: Backend, manifest: Manifest, picture: NDArray[Samples], plan: Plan, *, parallel: int, meter: SeamMeter | None = None
) -> Iterator[NDArray[Samples]]:
    """The output from top to bottom in pieces of whole rows, (n, W·scale, …); `parallel` tiles run ahead of what is waited for.

    `meter` is shown every tile.

    Raises:
        PipelineError: the network's output holds NaN or infinity, or is not of the size that the manifest says.
        BackendError: the backend cannot run it.
    """
    tiles = [tile for band in plan.bands for tile in band]
    run = partial(_run_tile, backend, manifest, picture, plan)
    results = map(run, tiles) if len(tiles) == 1 else in_order(run, tiles, workers=parallel)
    pieces: list[NDArray[Samples]] = []
    for tile, pixels in zip(tiles, results, strict=True):
        if meter is not None:
            meter.add(tile, pixels)
        pieces.append(_kept(pixels, tile, plan))
        if len(pieces) == len(plan.columns):
            yield pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
            pieces = []


def _run_tile(backend: Backend, manifest: Manifest, picture: NDArray[Samples], plan: Plan, tile: Tile) -> NDArray[Samples]:
    """The output pixels for all that `tile` reads."""
    array = to_network(picture, manifest.contract, scale=manifest.scale, rows=tile.rows.read, columns=tile.columns.read)
    rows, columns = plan.output_span(tile.rows.read, axis=0), plan.output_span(tile.columns.read, axis=1)
    filled = _filled(array, plan.fixed)
    output = backend.run(filled)
    expected = (rows.length, columns.length) if filled is array else tuple(side * plan.factor for side in filled.shape[2:])
    if output.shape != (1, array.shape[1], *expected):
        raise PipelineError(
            f"the graph gives {output.shape} for {filled.shape}; its manifest says {(1, array.shape[1], *expected)}",
            hint="export it again",
        )
    output = output[..., : rows.length, : columns.length]
    return from_network(output, manifest.contract.colour, source=picture, size=plan.size, rows=rows, columns=columns)


def _filled(array: NDArray[np.float32], fixed: tuple[int, int] | None) -> NDArray[np.float32]:
    """(1, C, H, W), its last row and column repeated up to the `fixed` size."""
    if fixed is None or array.shape[2:] == fixed:
        return array
    missing = [(0, side - have) for side, have in zip(fixed, array.shape[2:], strict=True)]
    return np.pad(array, ((0, 0), (0, 0), *missing), mode="edge")


def _kept(pixels: NDArray[Samples], tile: Tile, plan: Plan) -> NDArray[Samples]:
    (top, _), (left, _) = plan.output_span(tile.rows.read, axis=0), plan.output_span(tile.columns.read, axis=1)
    rows, columns = plan.output_span(tile.rows.kept, axis=0), plan.output_span(tile.columns.kept, axis=1)
    return pixels[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
