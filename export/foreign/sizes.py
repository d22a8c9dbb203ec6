"""Find which sizes and batches a network takes, and by how much it enlarges, by running it.

A network may want multiples of a number (a U-Net that halves, windows of attention), or a least side (reflecting pads), and says
so nowhere; a size it does not take ends in an error, or in a picture of another size than asked for. So each multiple m, the
smallest first, is tried with two pictures whose sides divided by m have no factor in common, and the least side by halving.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from export.foreign.original import Array, Run
from runtime.errors import BackendError, UserError

Size = tuple[int, int]
_MULTIPLES = (*range(1, 17), 18, 20, 21, 24, 28, 30, 32, 36, 40, 42, 48, 56, 60, 64, 96, 128)
_SMALL, _LARGE = 32, 130  # the least sides of the pictures tried, small ones first; some networks take none below a hundred
_OF_LARGE = (1, 2, 4, 8, 16, 32, 64)  # the multiples tried with large pictures, which cost more
_ODD = ((37, 53), (26, 41))  # of multiples of 1
_FACTORS = tuple(
    float(factor)
    for factor in sorted({Fraction(n, d) for d in range(1, 6) for n in range(d, 16 * d + 1)}, key=lambda f: (f.denominator, f))
)
"""What a network enlarges by, whole numbers first, where nobody says it."""
_SAME = 1e-4  # values in [0, 1] of a picture alone and in a batch


@dataclass(frozen=True)
class Sizes:
    """What a network takes, and two pictures' (H, W) that it takes."""

    factor: float
    """Output side by input side; 1 where it keeps the size."""
    multiple_of: int
    least_side: int
    one_at_a_time: bool
    pictures: tuple[Size, Size]


class Probe:
    """Runs a graph with noise of any size, each once; remembers the sizes it gives, and the last reason why it gives none."""

    def __init__(self, run: Run, *, channels: int, batch: int = 1) -> None:
        self._run, self._channels, self._batch = run, channels, batch
        self._found: dict[Size, Size | None] = {}
        self.reason = ""

    def output(self, size: Size) -> Size | None:
        """(H, W) of what the graph gives for (H, W); None where it does not run, or gives other pictures than it takes.

        Raises:
            UserError: it gives other channels than it takes.
        """
        if size not in self._found:
            self._found[size] = self._measure(size)
        return self._found[size]

    def _measure(self, size: Size) -> Size | None:
        try:
            shape = self._run(self._noise(self._batch, size)).shape
        except BackendError as error:
            self.reason = str(error)
            return None
        if len(shape) == 4 and shape[0] == self._batch and shape[1] != self._channels:
            raise UserError(
                f"the network takes {self._channels} channels and gives {shape[1]}, expected as many", hint="export the model so"
            )
        if len(shape) != 4 or shape[0] != self._batch:
            self.reason = f"it gives {shape} for {(self._batch, self._channels, *size)}, expected as many pictures"
            return None
        return shape[2], shape[3]

    def taken(self) -> list[Size]:
        """Return the pictures that gave something, in the order they were tried."""
        return [size for size, output in self._found.items() if output is not None]

    def takes_batches(self, size: Size) -> bool:
        """Return whether two pictures at once give what each gives alone."""
        pictures = self._noise(2, size)
        try:
            together = self._run(pictures)
            alone = [self._run(np.repeat(picture[np.newaxis], self._batch, axis=0))[0] for picture in pictures]
        except BackendError:
            return False
        same = together.shape == (2, *alone[0].shape)
        return same and bool(np.abs(together - np.stack(alone)).max() <= _SAME * max(1.0, float(np.abs(alone[0]).max())))

    def _noise(self, batch: int, size: Size) -> Array:
        return np.random.default_rng(0).random((batch, self._channels, *size), np.float32)


def measure_sizes(probe: Probe, path: Path, *, scale: float | None, own: Size | None = None) -> Sizes:
    """Find what sizes the graph takes, and its factor, `scale` or 1; any where `scale` is None.

    Args:
        own: a size that is known to work, of which the multiple then is a factor.

    Raises:
        UserError: it enlarges by another factor, by none, or runs with no size.
    """
    wanted = _FACTORS if scale is None else (scale, 1.0)
    divisible = 0 if own is None else math.gcd(*own)
    large = _LARGE if own is None else min(own)  # attention over all pixels wants memory for the square of their number
    for least, multiples in ((_SMALL, _MULTIPLES), (large, _OF_LARGE)):
        for multiple in multiples:
            if divisible % multiple or least < _SMALL:
                continue
            pictures = sizes_of(multiple, least)
            factor = _fit(probe, pictures, wanted)
            if factor is not None and _rounds(probe, pictures, multiple, factor):
                return _describe(probe, multiple, pictures, factor)
            if scale is not None and (other := _fit(probe, pictures, _FACTORS)) is not None:
                raise _refuse_scale(path, pictures[0], probe, scale, other)
    for picture in probe.taken():
        raise _refuse_scale(path, picture, probe, scale, None)
    raise UserError(
        f"{path} runs with no size of picture that was tried: {probe.reason}", hint="export the model with free height and width"
    )


def _describe(probe: Probe, multiple: int, pictures: tuple[Size, Size], factor: float) -> Sizes:
    """Return what is known of a network that enlarges these pictures, multiples of `multiple` with no larger factor in common."""
    least = min(*pictures[0], *pictures[1])
    for divisor in range(1, multiple):  # smaller multiples were tried with smaller pictures
        smaller = sizes_of(divisor, least)
        if multiple % divisor == 0 and _fit(probe, smaller, (factor,)) and _rounds(probe, smaller, divisor, factor):
            multiple, pictures = divisor, smaller
            break
    return Sizes(factor, multiple, _least_side(probe, multiple, pictures, factor), not probe.takes_batches(pictures[1]), pictures)


def measure_fixed(probe: Probe, size: Size, path: Path, *, scale: float | None) -> float:
    """Return the factor of a graph that takes pictures of `size` alone: `scale` or 1; any where `scale` is None.

    Raises:
        UserError: it enlarges by another factor, or does not run.
    """
    if probe.output(size) is None:
        raise UserError(f"{path} does not run with its own size: {probe.reason}", hint="export the model again")
    factor = _fit(probe, (size,), _FACTORS if scale is None else (scale, 1.0))
    if factor is None:
        raise _refuse_scale(path, size, probe, scale, _fit(probe, (size,), _FACTORS))
    return factor


def sizes_of(multiple: int, least: int) -> tuple[Size, Size]:
    """Two pictures (H, W) whose sides, `least` or more, are all multiples of `multiple` and of no larger number."""
    if multiple == 1 and least <= min(_ODD[0]):
        return _ODD
    first = -(-least // multiple)
    odd = [number for number in range(first, 2 * first + 8) if number == 1 or (is_prime(number) and number != 2)]
    even = first + first % 2
    return (odd[0] * multiple, odd[1] * multiple), ((even + 2) * multiple, even * multiple)


def is_prime(number: int) -> bool:
    """Return whether it is a prime number."""
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def enlarged(size: Size, factor: float) -> Size:
    """(H, W) of a picture of `size` enlarged."""
    return round(size[0] * factor), round(size[1] * factor)


def _fit(probe: Probe, pictures: Sequence[Size], factors: Sequence[float]) -> float | None:
    """Return the first factor that all pictures are enlarged by."""
    outputs = []
    for picture in pictures:  # the first that does not run ends it
        outputs.append(probe.output(picture))
        if outputs[-1] is None:
            return None
    fitting = (
        factor
        for factor in factors
        if all(enlarged(size, factor) == output for size, output in zip(pictures, outputs, strict=True))
    )
    return next(fitting, None)


def _rounds(probe: Probe, pictures: tuple[Size, Size], multiple: int, factor: float) -> bool:
    """Return whether a factor p / q rounds to the nearest pixel, half of one to the even, at sides of every remainder by 2 q."""
    period = 2 * Fraction(factor).limit_denominator(64).denominator
    if period == 2:
        return True
    first = min(*pictures[0], *pictures[1])
    sides = [first + step * multiple for step in range(period)]
    return all(probe.output(size) == enlarged(size, factor) for size in zip(sides[::2], sides[1::2], strict=True))


def _least_side(probe: Probe, multiple: int, pictures: tuple[Size, Size], factor: float) -> int:
    """Return the least side that works, where all above it do; by halving what is between."""
    works = min(pictures[1]) // multiple

    def runs(quotient: int) -> bool:
        side = quotient * multiple
        return probe.output((side, side)) == enlarged((side, side), factor)

    return bisect(runs, works) * multiple


def bisect(runs: Callable[[int], bool], works: int) -> int:
    """Return the least number from 1 to `works`, which runs, that runs."""
    fails = 0
    while works - fails > 1:
        middle = (works + fails) // 2 if fails else 1
        if runs(middle):
            works = middle
        else:
            fails = middle
    return works


def _refuse_scale(path: Path, size: Size, probe: Probe, scale: float | None, found: float | None) -> UserError:
    output = probe.output(size)
    assert output is not None
    text = f"{path} enlarges {size[0]}×{size[1]} to {output[0]}×{output[1]}"
    if found is not None and found > 1:
        return UserError(f"{text}, not by {scale:g}", hint=f"--scale {found:g}")
    asked = "and other sizes by other factors" if scale is None else f"not by {scale:g}"
    return UserError(f"{text}, {asked}; expected every side enlarged alike, its border not cropped", hint="export the model so")
