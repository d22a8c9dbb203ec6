"""Choose how large a tile may be: an estimate of what a network takes, from its manifest, and the memory there is.

A 3 × 3 convolution from c to c channels on a grid f times finer than the input's costs 9 c² f² multiply-accumulates an input pixel,
and its float32 output has 4 c f² bytes: 4 f √(macs / 9). Backends hold some of those at a time. Measured with 200² and 400² pixels
above what they hold at rest, LESRCNN, ESPCN, SRCNN and SRGAN at x2 to x8, fp32 and int8, openvino and onnxruntime: 0.3 to 3.6 times
the largest by this estimate. ncnn's Winograd holds its input and output transformed as well: 2.8 to 15.8 times, of eleven networks.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path

from ..bundle import Manifest
from ..errors import ImageError, UserError
from .tiling import GRID

_TENSORS = 4  # the largest output, that many times over: above every network measured
_TENSORS_ON = {"ncnn": 16}  # backends that hold more
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_WHERE_UNKNOWN = 1 << 30  # bytes; where a system does not say what is free
_SHARE = 4  # a quarter of what is free


def bytes_per_pixel(manifest: Manifest, *, factor: int | Fraction, backend: str | None = None) -> int:
    """Memory that the network takes for each pixel of its input, by estimate; `factor` output pixels per side become of it.

    It takes its input and output at least, whatever the manifest says of its layers. `backend` is the name of what runs it.
    """
    tensors = _TENSORS_ON.get(backend or "", _TENSORS)
    costs = [layer.macs for layer in manifest.layers]
    contract = manifest.contract
    stated = contract.input_size((128, 128), scale=manifest.scale)  # the picture that MACs are stated for
    pixels = math.prod(stated if contract.static_shape else contract.filled_size(stated))
    ends = 4 * contract.channels * (1 + factor**2)
    return max(math.ceil(ends), math.ceil(tensors * 4 * factor * math.sqrt(max(costs, default=0) / pixels / 9)))


def largest_kept(
    size: tuple[int, int],
    *,
    halo: int,
    pixel_bytes: int,
    output_bytes: int,
    budget_bytes: int,
    held_bytes: int = 0,
    step: int = GRID,
    least: int = 1,
) -> int:
    """Pixels a side that a tile of a picture of that (H, W) may keep, at most what covers it whole.

    Args:
        pixel_bytes: what the network takes for each pixel that it reads.
        output_bytes: what each pixel kept becomes in the band of output rows.
        held_bytes: what of the budget is taken already.
        step: tiles start and end at multiples of it.
        least: pixels per side that a tile reads at least.

    Raises:
        ImageError: not even the smallest tile fits.
    """

    def need(kept: int) -> int:
        read = math.prod(min(side, max(kept + 2 * (halo + step), least + step)) for side in size)
        return read * pixel_bytes + min(size[0], kept) * size[1] * output_bytes + held_bytes

    if need(max(size)) <= budget_bytes:
        return max(size)
    most = max((kept for kept in range(GRID, max(size), GRID) if need(kept) <= budget_bytes), default=0)
    if most == 0:
        needed = need(GRID)
        raise ImageError(
            f"not even a tile of {GRID}×{GRID} pixels of a picture of {size[1]}×{size[0]} fits into {format_bytes(budget_bytes)}; "
            f"it takes about {format_bytes(needed)}{', the picture itself included' if held_bytes else ''}",
            hint=f"--memory {math.ceil(needed / _UNITS['M'])}M",
        )
    return even_kept(max(size), most)


def check_fixed(
    window: tuple[int, int], *, width: int, pixel_bytes: int, output_bytes: int, budget_bytes: int, held_bytes: int, hint: str
) -> None:
    """Raise ImageError where windows of that fixed (H, W) do not fit.

    Args:
        width: pixels of a row of the picture.
        pixel_bytes: what the network takes for each pixel that it reads.
        output_bytes: what each pixel kept becomes in the band of output rows.
        held_bytes: what is taken beside that.
    """
    needed = math.prod(window) * pixel_bytes + window[0] * max(width, window[1]) * output_bytes + held_bytes
    if needed > budget_bytes:
        raise ImageError(
            f"this graph runs on {window[0]}×{window[1]} pixels (height×width) at a time and takes about {format_bytes(needed)}; "
            f"{format_bytes(budget_bytes)} are allowed",
            hint=f"--memory {math.ceil(needed / _UNITS['M'])}M, or {hint}",
        )


def even_kept(length: int, most: int) -> int:
    """Return the smallest tile that cuts `length` pixels into as many pieces as `most` would: none is left with a sliver."""
    pieces = math.ceil(length / most)
    return min(most, math.ceil(length / pieces / GRID) * GRID)


def default_budget() -> int:
    """Return a quarter of what is free, in bytes; of the container's own limit where that is lower."""
    return min((*_free_in_system(), *_free_in_container()), default=_WHERE_UNKNOWN * _SHARE) // _SHARE


def parse_bytes(text: str, *, option: str) -> int:
    """ "512M", "2G" or a number of bytes; UserError says what was expected."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdecimal() or int(number) == 0 or unit not in _UNITS:
        raise UserError(f"{option} {text}: expected a number of bytes, or one with K, M or G", hint=f"{option} 2G")
    return int(number) * _UNITS[unit]


def format_bytes(count: int) -> str:
    return f"{count / _UNITS['G']:.1f} GiB" if count >= _UNITS["G"] else f"{count / _UNITS['M']:.0f} MiB"


def _free_in_system() -> tuple[int, ...]:
    """Return what Linux calls available, else the pages that are free, else nothing."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return tuple(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except OSError:
        names = getattr(os, "sysconf_names", {})
        return (os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),) if "SC_AVPHYS_PAGES" in names else ()


def _free_in_container() -> tuple[int, ...]:
    """Return what a control group leaves, its cached files counted as free; nothing where there is no limit."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except OSError:
        return ()
    return (max(int(limit) - used + int(statistics.get("file", 0)), 0),) if limit.isdecimal() else ()
