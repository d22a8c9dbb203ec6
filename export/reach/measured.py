"""Check a receptive field against the graph itself: pixels beyond the halo are changed, and tiles are cut.

Along each axis, on noise, at two sizes: what lies beyond the halo of a middle pixel and of both borders is replaced, and the output
there must stay; a tile at the top, one inside and one at the bottom, cut as the runtime cuts them, must give what the whole gives.
A field that one of these contradicts is global. Pictures are strips, as long as the halo demands and narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from export.reach.field import ReceptiveField
from runtime.backends import Backend, open_backend
from runtime.bundle import Contract
from runtime.errors import BackendError

Array = NDArray[np.float32]
_BESIDE = 24  # pixels across
_MORE = 7  # pixels that the second size has more
_MOST_MACS = 60e9  # a few seconds of one core; a network that looks further than that is taken as it was followed
# Equal sizes take equal sums: what differs at all depends on the change. Other sizes may take them in another order: float32
# rounds by 6e-8, sums of a thousand in layers of a hundred by some hundred times that.
_SAME, _CLOSE = 1e-6, 2e-5
_LEAST_PEAK = 1e-2  # of an output that is nearly black


@dataclass(frozen=True)
class _Strip:
    """A picture's length along the axis that is measured, its width, and where the inner tile lies."""

    axis: int
    length: int
    beside: int
    tile: tuple[int, int]

    @property
    def pixels(self) -> int:
        return self.length * self.beside


def measured_field(
    field: ReceptiveField, data: bytes, contract: Contract, *, factor: Fraction, macs_per_pixel: float
) -> ReceptiveField:
    """Return `field`, or a global one that says what contradicts it.

    Args:
        data: the graph that takes and gives what `contract` says, `factor` times as large.
        macs_per_pixel: multiply-accumulates per pixel of its input.
    """
    if field.halo == "global":
        return field
    halo = field.halo
    left = _MOST_MACS
    with open_backend("onnxruntime", data, precision="fp32") as backend:
        for strip in _strips(halo, field.alignment, contract, factor):
            left -= strip.pixels * macs_per_pixel * (4 if contract.static_shape else 7)
            if left < 0:
                break
            found = _contradiction(backend, strip, halo, factor, contract)
            if found:
                return ReceptiveField("global", operator=f"measured: {found}")
    return field


def _strips(halo: int, alignment: int, contract: Contract, factor: Fraction) -> list[_Strip]:
    if contract.static_shape is not None:
        height, width = contract.static_shape
        return [_Strip(2, height, width, (0, 0)), _Strip(3, width, height, (0, 0))]
    unit = math.lcm(contract.multiple_of, factor.denominator)
    step = math.lcm(unit, alignment)
    tile = step, step + _up(max(2 * halo + step, contract.least_side), step)
    beside = _up(max(_BESIDE, contract.least_side), unit)
    return [_Strip(axis, _up(tile[1] + more, unit), beside, tile) for more in (step, step + _MORE) for axis in (2, 3)]


def _contradiction(backend: Backend, strip: _Strip, halo: int, factor: Fraction, contract: Contract) -> str:
    """Return what of the field is not so; empty where all is."""
    rng = np.random.default_rng(0)
    array = _along(strip, rng.random((contract.channels, strip.length, strip.beside), np.float32) * np.float32(0.5))
    other = array + np.float32(0.5)

    def run(given: Array) -> Array:
        """(C, length, beside) of the output."""
        return np.moveaxis(backend.run(given)[0], strip.axis - 1, 1)

    try:
        whole = run(array)
        return _beyond(run, array, other, whole, strip, halo, factor) or _tiles(run, array, whole, strip, halo, factor)
    except BackendError as error:
        return f"{strip.length} pixels cannot be run: {error}"


def _along(strip: _Strip, lines: Array) -> Array:
    """(C, length, beside) -> (1, C, H, W)."""
    return np.ascontiguousarray(np.moveaxis(lines, 1, strip.axis - 1)[np.newaxis])


def _beyond(
    run: Callable[[Array], Array], array: Array, other: Array, whole: Array, strip: _Strip, halo: int, factor: Fraction
) -> str:
    for place in (strip.length // 2, 0, strip.length - 1):
        first, stop = max(place - halo, 0), min(place + halo + 1, strip.length)
        if stop - first == strip.length:
            continue
        inside = (slice(None),) * strip.axis + (slice(first, stop),)
        changed = other.copy()
        changed[inside] = array[inside]
        lines = slice(math.floor(place * factor), max(math.floor((place + 1) * factor), math.floor(place * factor) + 1))
        if not _equal(run(changed)[:, lines], whole[:, lines], _SAME):
            return f"pixel {place} of {strip.length} depends on more than {halo} around it"
    return ""


def _tiles(run: Callable[[Array], Array], array: Array, whole: Array, strip: _Strip, halo: int, factor: Fraction) -> str:
    start, stop = strip.tile
    margin = _up(halo, factor.denominator)
    for first, last in ((0, stop), (start, stop), (start, strip.length)) if stop else ():
        part = run(np.ascontiguousarray(array[(slice(None),) * strip.axis + (slice(first, last),)]))
        kept = first + (margin if first else 0), last - (margin if last < strip.length else 0)
        given, expected = (slice(int((kept[0] - of) * factor), int((kept[1] - of) * factor)) for of in (first, 0))
        if not _equal(part[:, given], whole[:, expected], _CLOSE):
            return f"a tile of pixels {first} to {last} of {strip.length} gives another output"
    return ""


def _equal(given: Array, expected: Array, tolerance: float) -> bool:
    peak = max(_LEAST_PEAK, float(np.abs(expected).max(initial=0)))
    return given.shape == expected.shape and bool(np.abs(given - expected).max(initial=0) <= tolerance * peak)


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
