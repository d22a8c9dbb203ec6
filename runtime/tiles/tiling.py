"""Cut a picture into windows, so that a network run on each gives together what the whole picture would.

A network of halo h gives an output pixel from the input pixels within h of it, and from nothing else. So along an axis of n
pixels per tile that keeps [a, b) reads [a - h, b + h) cut to [0, n): real pixels where there are some, and the picture's own border
where there is one. What the network computes within h of a cut is dropped.

A graph that takes multiples of m is given the picture filled up at its end; what it makes of that is left out. Windows start at
multiples of a step, of which m is one part and the network's own alignment another: a stride or a shuffle then meets the same
pixels as in the whole.

A graph fixed to s pixels reads exactly s each time: the last window is shifted inward to end at n, and a picture shorter than s is
filled up to s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from ..errors import ImageError
from ..sizes import Span, round_up

GRID = 16
"""Windows start and end at multiples of it: a graph that halves its input up to four times sees the grid it has in the whole."""


class Cut(NamedTuple):
    """One piece of an axis: the pixels that are read, and those of them whose output is kept."""

    read: Span
    kept: Span


@dataclass(frozen=True)
class Tile:
    """One window of the picture: its rows and columns."""

    rows: Cut
    columns: Cut


def cut_axis(
    length: int, *, kept: int, halo: int, filled: int | None = None, step: int = GRID, unit: int = 1, least: int = 1
) -> tuple[Cut, ...]:
    """Return an axis of `length` pixels in pieces that keep at most `kept` pixels each and read `halo` more to either side.

    Args:
        filled: pixels of the axis when it has been filled up; None for as many as there are.
        step: windows start at multiples of it, and end at multiples or with the axis.
        unit: pieces that are kept begin at multiples of it; at least so many are kept.
        least: pixels that a window has at the least, no more than `filled`; GRID it has anyway, where the axis is so long: what a
            network makes of a picture of one pixel may be something of its own.
    """
    assert min(length, kept) > 0
    assert halo >= 0
    filled = length if filled is None else filled
    least = max(least, min(GRID, filled))
    kept = max(kept // unit * unit, unit)
    if kept >= length:
        return (Cut(Span(0, filled), Span(0, length)),)
    pieces = []
    for start in range(0, length, kept):
        stop = min(start + kept, length)
        first = max(start - halo, 0) // step * step
        last = min(round_up(max(stop + halo, first + least), step), filled)
        if last - first < least:
            first = (last - least) // step * step
        pieces.append(Cut(Span(first, last), Span(start, stop)))
    return tuple(pieces)


def cut_axis_fixed(
    length: int, *, side: int, halo: int, filled: int | None = None, step: int = 1, unit: int = 1
) -> tuple[Cut, ...]:
    """Return an axis in pieces that read `side` pixels each, the last one shifted inward; a shorter axis is one piece.

    Args:
        filled: pixels of the axis when it has been filled up to `side` and a multiple of `step` more; None for no filling.
        step, unit: as `cut_axis`.

    Raises:
        ImageError: `side` is all halo, so that nothing inside a longer axis could be kept.
    """
    filled = length if filled is None else filled
    if length <= side:
        return (Cut(Span(0, filled), Span(0, length)),)
    margin = round_up(halo, unit)
    stride = (side - 2 * margin) // step * step
    if stride < 1:
        raise ImageError(
            f"a graph fixed to {side} pixels cannot be run exactly on {length}: it looks {halo} to each side, and keeps nothing",
            hint=f"export it, or build its engine, for more than {2 * margin + step - 1} pixels",
        )
    starts = [*range(0, filled - side, stride), filled - side]
    bounds = [0, *(min(start + margin, length) for start in starts[1:]), length]
    pieces = zip(starts, pairwise(bounds), strict=True)
    return tuple(Cut(Span(start, start + side), Span(*kept)) for start, kept in pieces if kept[0] < kept[1])


def make_bands(rows: Iterable[Cut], columns: tuple[Cut, ...]) -> Iterator[tuple[Tile, ...]]:
    """Yield the tiles from top to bottom, those beside each other together: such a band gives whole rows of the output."""
    for row in rows:
        yield tuple(Tile(row, column) for column in columns)


def reading_share(rows: tuple[Cut, ...], columns: tuple[Cut, ...]) -> float:
    """Return how many times over the picture is computed: 1 where it is run whole, more with the halo of every tile."""
    return _share(rows) * _share(columns)


def _share(cuts: tuple[Cut, ...]) -> float:
    return sum(cut.read.length for cut in cuts) / cuts[-1].kept.stop
