"""Compute with sizes in whole pixels: spans along an axis, windows that a graph takes, a scale as a fraction, an upscaled size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

_MOST_PARTS = 64
_CLOSE = 1e-6


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
        """Return the same pixels, counted from the start of `outer`."""
        return Span(self.start - outer.start, self.stop - outer.start)

    def times(self, factor: int | Fraction) -> Span:
        """Return the pixels they become when each becomes `factor`: all that begin in them."""
        return Span(math.ceil(self.start * factor), math.ceil(self.stop * factor))


@dataclass(frozen=True)
class SizeLimits:
    """(H, W) of the windows that a compiled graph takes: `least` to `most`, the same where it takes but one."""

    least: tuple[int, int]
    most: tuple[int, int]

    def window(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the windows in which a picture of that (H, W) is run: the picture's own where that is within the limits."""
        height, width = (min(max(side, low), high) for side, low, high in zip(size, self.least, self.most, strict=True))
        return height, width


def as_fraction(scale: float) -> Fraction:
    """Return the simple fraction that a scale stands for, 4/3 for 1.3333333; of one that stands for none, its binary digits."""
    found = Fraction(scale).limit_denominator(_MOST_PARTS)
    return found if abs(found - Fraction(scale)) <= _CLOSE * found else Fraction(scale)


def is_simple(factor: Fraction) -> bool:
    """Return whether so many pixels per side can be cut: a small number of them becomes a whole number."""
    return factor.denominator <= _MOST_PARTS


def round_up(length: int, multiple: int) -> int:
    """Return the least multiple that is no less."""
    return -(-length // multiple) * multiple


def upscaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(H, W) of a picture of that size enlarged `scale` times, to the nearest pixel."""
    return round(size[0] * scale), round(size[1] * scale)
