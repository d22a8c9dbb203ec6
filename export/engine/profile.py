"""Choose the shapes an engine is built for: smallest, usual and largest picture in, an optimization profile out.

A picture larger than `max` runs in windows of `max`, which overlap by twice the network's halo. So a window should be many halos
wide, and small enough for the GPU's memory.
"""

from __future__ import annotations

import math

from runtime.backends.engines import ShapeProfile
from runtime.bundle import Manifest
from runtime.errors import UserError
from runtime.sizes import round_up
from runtime.tiles.memory import bytes_per_pixel
from runtime.tiles.tiling import GRID

Size = tuple[int, int]
_DEFAULT_LARGEST = 512  # pixels per side
_DEFAULT_BYTES = 1 << 30  # what a window may take of the GPU, by the estimate of runtime/tiles/memory.py


def choose_profile(manifest: Manifest, *, least: Size | None, best: Size | None, most: Size | None, batch: int) -> ShapeProfile:
    """Return the profile for pictures of those (H, W); what is None follows from the others, or from the network.

    Without any: windows up to 512 pixels per side, fewer where an estimated GiB holds no more, tuned for the largest.

    Raises:
        UserError: they are out of order, or the graph does not take them.
    """
    contract = manifest.contract
    asked = [
        None if size is None else contract.input_size(size, scale=manifest.scale) for size in (least, best, most)
    ]  # pictures -> the network's input
    fixed = contract.static_shape
    if fixed is not None:
        if batch != 1 or any(size not in (None, fixed) for size in asked):
            raise UserError(
                f"this graph takes one {fixed[0]}×{fixed[1]} picture (height×width) at a time",
                hint="leave --min, --opt, --max and --batch out, or export it without --static",
            )
        return ShapeProfile(min=fixed, opt=fixed, max=fixed)
    if contract.one_at_a_time and batch != 1:
        raise UserError(f"this graph takes one picture at a time, not a batch of {batch}", hint="leave --batch out")
    for name, size in zip(("min", "opt", "max"), asked, strict=True):
        if size is not None and size != contract.filled_size(size):
            fitting = "x".join(map(str, contract.filled_size(size)))
            raise UserError(f"--{name} {size[0]}x{size[1]}: this graph takes {contract.sizes}", hint=f"--{name} {fitting}")
    smallest, middle, largest = asked
    if largest is None:
        side = _default_side(manifest)
        largest = tuple_max(middle or smallest, side)
    middle = middle or largest
    smallest = smallest or tuple_min(middle, contract.filled_size((GRID, GRID))[0])
    if not all(low <= best_side <= high for low, best_side, high in zip(smallest, middle, largest, strict=True)):
        shown = ", ".join(f"{name} {size[0]}x{size[1]}" for name, size in (("min", smallest), ("opt", middle), ("max", largest)))
        raise UserError(f"these shapes are out of order: {shown}", hint="expected --min <= --opt <= --max, on both sides")
    return ShapeProfile(batch=batch, min=smallest, opt=middle, max=largest)


def tuple_max(size: Size | None, side: int) -> Size:
    """Return `side` squared, or `size` where that is larger on a side."""
    return (side, side) if size is None else (max(size[0], side), max(size[1], side))


def tuple_min(size: Size, side: int) -> Size:
    """Return `side` squared, or `size` where that is smaller on a side."""
    return min(size[0], side), min(size[1], side)


def _default_side(manifest: Manifest) -> int:
    step = math.lcm(GRID, manifest.fill_multiple, manifest.alignment)
    affordable = math.isqrt(_DEFAULT_BYTES // max(bytes_per_pixel(manifest, factor=math.ceil(manifest.factor)), 1)) // step * step
    halo = 0 if manifest.halo == "global" else manifest.halo
    keeps_something = round_up(2 * round_up(halo, step) + step if step > GRID else 2 * halo + GRID, step)
    least = round_up(manifest.contract.least_side, step)
    return max(min(affordable, _DEFAULT_LARGEST // step * step), keeps_something, least)
