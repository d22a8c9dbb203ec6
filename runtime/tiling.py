"""Which windows of a picture a network is run on, so that together they give what the whole picture would.

A network of halo h gives an output pixel from the input pixels within h of it, and from nothing else. So along an axis of n
pixels a tile that keeps [a, b) reads [a - h, b + h) cut to [0, n): real pixels where there are some, and the picture's own border
where there is one. What the network computes within h of a cut is dropped.

A graph fixed to s pixels reads exactly s each time: the last window is shifted inward to end at n, and of a picture shorter than s
there is one window, which whoever runs it fills up to s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from runtime.errors import ImageError

GRID = 16
"""Windows start and end at multiples of it: a graph that halves its input up to four times sees the grid it has in the whole."""


class Span(NamedTuple):
    """Pixels [start, stop) along one axis."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def slice(self) -> slice:
        return slice(self.start, self.stop)

    def within(self, outer: Span) -> Span:
        """The same pixels, counted from the start of `outer`."""
        return Span(self.start - outer.start, self.stop - outer.start)

    def times(self, factor: int) -> Span:
        """The pixels they become when each becomes `factor`."""
        return Span(self.start * factor, self.stop * factor)


class Cut(NamedTuple):
    """One piece of an axis: the pixels that are read, and those of them whose output is kept."""

    read: Span
    kept: Span


@dataclass(frozen=True)
class SizeLimits:
    """(H, W) of the windows that a compiled graph takes: `least` to `most`, the same where it takes but one."""

    least: tuple[int, int]
    most: tuple[int, int]

    def window(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the windows in which a picture of that (H, W) is run: the picture's own where that is within the limits."""
        height, width = (min(max(side, low), high) for side, low, high in zip(size, self.least, self.most, strict=True))
        return height, width


@dataclass(frozen=True)
class Tile:
    """One window of the picture: its rows and columns."""

    rows: Cut
    columns: Cut


def cut_axis(length: int, *, kept: int, halo: int) -> tuple[Cut, ...]:
    """An axis of `length` pixels in pieces that keep at most `kept` pixels each and read `halo` more to either side."""
    assert min(length, kept) > 0
    assert halo >= 0
    pieces = []
    for start in range(0, length, kept):
        stop = min(start + kept, length)
        first, last = max(start - halo, 0) // GRID * GRID, -(-(stop + halo) // GRID) * GRID
        pieces.append(Cut(Span(first, min(last, length)), Span(start, stop)))
    return tuple(pieces)


def cut_axis_fixed(length: int, *, side: int, halo: int) -> tuple[Cut, ...]:
    """An axis in pieces that read `side` pixels each, the last one shifted inward; a shorter axis is one piece.

    Raises:
        ImageError: `side` is all halo, so that nothing inside a longer axis could be kept.
    """
    if length <= side:
        return (Cut(Span(0, length), Span(0, length)),)
    step = side - 2 * halo
    if step < 1:
        raise ImageError(
            f"a graph fixed to {side} pixels cannot be run exactly on {length}: it looks {halo} to each side, and keeps nothing",
            hint=f"export it, or build its engine, for more than {2 * halo} pixels",
        )
    starts = [*range(0, length - side, step), length - side]
    stops = [*(start + side - halo for start in starts[:-1]), length]
    bounds = pairwise((0, *stops))
    return tuple(Cut(Span(start, start + side), Span(*kept)) for start, kept in zip(starts, bounds, strict=True))


def make_bands(rows: Iterable[Cut], columns: tuple[Cut, ...]) -> Iterator[tuple[Tile, ...]]:
    """The tiles from top to bottom, those beside each other together: such a band gives whole rows of the output."""
    for row in rows:
        yield tuple(Tile(row, column) for column in columns)


def reading_share(rows: tuple[Cut, ...], columns: tuple[Cut, ...]) -> float:
    """How many times over the picture is computed: 1 where it is run whole, more with the halo of every tile."""
    return _share(rows) * _share(columns)


def _share(cuts: tuple[Cut, ...]) -> float:
    return sum(cut.read.length for cut in cuts) / cuts[-1].kept.stop
