"""Measure how far apart two tiles are where they meet: the cost of tiling a network that looks at the whole picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..sizes import Span
from .plan import Plan
from .tiling import Tile

Levels = NDArray[np.floating]


@dataclass(frozen=True)
class SeamError:
    """Differences between the pixels that two neighbouring tiles give for the same place, along every seam, in 8-bit levels."""

    largest: float
    mean: float

    def __str__(self) -> str:
        return f"across the seams pixels differ by {self.largest:.1f} of 255 at most, {self.mean:.2f} on average"


class SeamMeter:
    """Fed with tiles in their order, keeps what the next ones will meet."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._above: dict[int, tuple[Tile, Levels]] = {}
        self._left: tuple[Tile, Levels] | None = None
        self._largest = 0.0
        self._sum = 0.0
        self._count = 0

    @property
    def error(self) -> SeamError:
        return SeamError(self._largest, self._sum / max(self._count, 1))

    def add(self, tile: Tile, pixels: NDArray[np.uint8 | np.uint16]) -> None:
        """`pixels`: what the tile gives for all that it reads."""
        levels = pixels * (255 / np.iinfo(pixels.dtype).max)
        column = tile.columns.kept.start
        if self._left is not None and column > 0:
            self._compare(self._left, (tile, levels), axis=1)
        if tile.rows.kept.start > 0:
            self._compare(self._above[column], (tile, levels), axis=0)
        self._left = tile, levels
        self._above[column] = tile, levels

    def _compare(self, before: tuple[Tile, Levels], after: tuple[Tile, Levels], *, axis: int) -> None:
        """The pixels on both sides of the line where the kept parts meet, those of one input pixel each."""
        seam = (after[0].rows if axis == 0 else after[0].columns).kept.start
        difference = np.abs(self._at(before, seam, axis=axis) - self._at(after, seam, axis=axis))
        self._largest = max(self._largest, float(difference.max()))
        self._sum += float(difference.sum())
        self._count += difference.size

    def _at(self, given: tuple[Tile, Levels], seam: int, *, axis: int) -> Levels:
        tile, levels = given
        across, along = (tile.rows, tile.columns) if axis == 0 else (tile.columns, tile.rows)
        lines = Span(seam - 1, seam + 1).within(across.read).times(self._plan.factor).slice
        kept = along.kept.within(along.read).times(self._plan.factor).slice
        return levels[lines, kept] if axis == 0 else levels[kept, lines]
