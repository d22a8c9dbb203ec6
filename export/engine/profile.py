"""The shapes an engine is built for.

A picture larger than `max` runs in windows of `max`, which overlap by twice the network's halo. So a window should be many halos
wide, and small enough for the GPU's memory.
"""

from __future__ import annotations

import math

from runtime.bundle import Manifest
from runtime.engines import ShapeProfile
from runtime.errors import UserError
from runtime.memory import bytes_per_pixel
from runtime.tiling import GRID

Size = tuple[int, int]
_DEFAULT_LARGEST = 512  # pixels a side
_DEFAULT_BYTES = 1 << 30  # what a window may take of the GPU, by the estimate of runtime/memory.py


def choose_profile(manifest: Manifest, *, least: Size | None, best: Size | None, most: Size | None, batch: int) -> ShapeProfile:
    """The profile for pictures of those (H, W); what is None follows from the others, or from the network.

    Without any: windows up to 512 pixels a side, fewer where an estimated GiB holds no more, tuned for the largest.

    Raises:
        UserError: they are out of order, or the graph takes one shape and another is asked for.
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
    smallest, middle, largest = asked
    if largest is None:
        side = _default_side(manifest)
        largest = tuple_max(middle or smallest, side)
    middle = middle or largest
    smallest = smallest or tuple_min(middle, GRID)
    if not all(low <= best_side <= high for low, best_side, high in zip(smallest, middle, largest, strict=True)):
        shown = ", ".join(f"{name} {size[0]}x{size[1]}" for name, size in (("min", smallest), ("opt", middle), ("max", largest)))
        raise UserError(f"these shapes are out of order: {shown}", hint="expected --min <= --opt <= --max, on both sides")
    return ShapeProfile(batch=batch, min=smallest, opt=middle, max=largest)


def tuple_max(size: Size | None, side: int) -> Size:
    """`side` squared, or `size` where that is larger on a side."""
    return (side, side) if size is None else (max(size[0], side), max(size[1], side))


def tuple_min(size: Size, side: int) -> Size:
    """`side` squared, or `size` where that is smaller on a side."""
    return min(size[0], side), min(size[1], side)


def _default_side(manifest: Manifest) -> int:
    factor = 1 if manifest.contract.pre_upscale else math.ceil(manifest.scale)
    affordable = math.isqrt(_DEFAULT_BYTES // max(bytes_per_pixel(manifest, factor=factor), 1)) // GRID * GRID
    halo = 0 if manifest.halo == "global" else manifest.halo
    keeps_something = -(-(2 * halo + GRID) // GRID) * GRID
    return max(min(affordable, _DEFAULT_LARGEST), keeps_something)
