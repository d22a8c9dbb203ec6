"""Convert pixels to what a network takes, and back: whole pictures, or a window of one."""

from __future__ import annotations

from enum import Enum
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from ..bundle import Colour, Contract
from ..errors import ImageError, PipelineError
from ..sizes import Span
from .bicubic import Samples, upscale_bicubic

Picture = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""
AnyPicture = NDArray[np.uint8 | np.uint16]
"""(H, W) or (H, W, 1) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB, (H, W, 4) RGB and alpha, not premultiplied."""


class Rounding(Enum):
    """How a network's output becomes pixels."""

    NEAREST = "rounded"
    TRUNCATE = "truncated"


def check_picture(picture: AnyPicture) -> None:
    """Raise ImageError unless it is a (H, W) or (H, W, 1 to 4) array of uint8 or uint16, with pixels in it."""
    expected = "expected a (H, W, 3) uint8 RGB array, or uint16, or (H, W) grey, or (H, W, 4) RGBA"
    if not isinstance(picture, np.ndarray):
        raise ImageError(f"{expected}; got {type(picture).__name__}")
    channels = picture.shape[2] if picture.ndim == 3 else 1
    if picture.dtype not in (np.uint8, np.uint16) or picture.ndim not in (2, 3) or channels > 4 or 0 in picture.shape:
        hint = "multiply by 255, round and convert with .astype(numpy.uint8)" if picture.dtype.kind == "f" else ""
        raise ImageError(f"{expected}; got {picture.shape} {picture.dtype}", hint=hint)


def to_network(
    picture: AnyPicture, contract: Contract, *, scale: float, rows: Span | None = None, columns: Span | None = None
) -> NDArray[np.float32]:
    """Return what a network takes of a picture: (1, C, H, W) float32 in [0, 1], of RGB or of luma, enlarged where the contract says
    so.

    Args:
        picture: (h, w), or (h, w, 1 to 4), uint8 or uint16: grey or RGB, each with or without alpha, which is left out.
        rows, columns: the window of it that is wanted, in pixels of the network's input; None for all.
    """
    return to_floats(to_planes(picture, contract, scale=scale, rows=rows, columns=columns))


def to_floats(planes: AnyPicture) -> NDArray[np.float32]:
    """(H, W, C) uint8 or uint16 -> (1, C, H, W) float32 in [0, 1]."""
    return np.ascontiguousarray(planes.transpose(2, 0, 1)[np.newaxis], np.float32) / np.float32(np.iinfo(planes.dtype).max)


def to_planes(
    picture: NDArray[Samples], contract: Contract, *, scale: float, rows: Span | None = None, columns: Span | None = None
) -> NDArray[Samples]:
    """Return what `to_network` gives, still in the picture's own type: (H, W, C)."""
    size = contract.input_size((picture.shape[0], picture.shape[1]), scale=scale)
    rows, columns = rows or Span(0, size[0]), columns or Span(0, size[1])
    if contract.pre_upscale:
        window = upscale_bicubic(picture, size, rows=rows, columns=columns, planes=as_rgb)
    else:
        window = as_rgb(picture[rows.slice, columns.slice])
    return window if contract.colour == "RGB" else _luma_and_chroma(window)[..., :1]


def from_network(
    output: NDArray[np.float32],
    colour: Colour,
    *,
    source: NDArray[Samples],
    rounding: Rounding = Rounding.NEAREST,
    size: tuple[int, int] | None = None,
    rows: Span | None = None,
    columns: Span | None = None,
) -> NDArray[Samples]:
    """(1, C, H, W) float32, clipped to [0, 1] -> (H, W) or (H, W, 1 to 4) pixels of the kind that `source` has.

    Where C is luma, the chroma is that of `source`, enlarged bicubically. So is its alpha. A grey `source` gives luma alone.

    Args:
        source: the picture that went in.
        size: (H, W) of the whole output where this is a window of it, that of `rows` and `columns`.

    Raises:
        PipelineError: the output holds NaN or infinity, as an fp16 graph's may; it would show as black.
    """
    planes = from_floats(output, source.dtype, rounding=rounding)
    return from_planes(planes, colour, source=source, size=size, rows=rows, columns=columns)


def from_floats(
    output: NDArray[np.float32], dtype: np.dtype[Samples], *, rounding: Rounding = Rounding.NEAREST
) -> NDArray[Samples]:
    """(1, C, H, W) float32, clipped to [0, 1] -> (H, W, C) of that type.

    Raises:
        PipelineError: the output holds NaN or infinity.
    """
    if not np.isfinite(output.sum(dtype=np.float64)):
        raise PipelineError("the network's output holds NaN or infinity", hint="run it in fp32 to see whether the precision is why")
    scaled = np.clip(output[0], 0.0, 1.0) * np.float32(np.iinfo(dtype).max)
    whole = np.rint(scaled) if rounding is Rounding.NEAREST else np.trunc(scaled)
    return np.ascontiguousarray(whole.transpose(1, 2, 0)).astype(dtype)


def from_planes(
    planes: NDArray[Samples],
    colour: Colour,
    *,
    source: NDArray[Samples],
    size: tuple[int, int] | None = None,
    rows: Span | None = None,
    columns: Span | None = None,
) -> NDArray[Samples]:
    """(H, W, C) of the network's colour -> (H, W) or (H, W, 1 to 4) pixels of the kind that `source` has, as `from_network`."""
    pixels = planes
    enlarge = partial(upscale_bicubic, source, size or pixels.shape[:2], rows=rows, columns=columns)
    if is_grey(source):
        pixels = pixels if colour == "Y" else _converted(pixels, cv2.COLOR_RGB2GRAY)[..., np.newaxis]
    elif colour == "Y":
        chroma = enlarge(planes=_chroma)
        pixels = _converted(np.concatenate([pixels, chroma], axis=2), cv2.COLOR_YCrCb2RGB)
    if has_alpha(source):
        pixels = np.concatenate([pixels, enlarge(planes=_alpha)], axis=2)
    return pixels.reshape(*pixels.shape[:2], *source.shape[2:])


def is_grey(picture: AnyPicture) -> bool:
    """Return whether its colour is one channel."""
    return picture.ndim == 2 or picture.shape[2] < 3


def has_alpha(picture: AnyPicture) -> bool:
    """Return whether its last channel is alpha."""
    return picture.ndim == 3 and picture.shape[2] in (2, 4)


def as_rgb(picture: NDArray[Samples]) -> NDArray[Samples]:
    """(H, W, 3) of a picture of any kind; its alpha is left out."""
    if not is_grey(picture):
        return picture[..., :3]
    plane = picture.reshape(*picture.shape[:2], -1)[..., :1]
    return np.broadcast_to(plane, (*plane.shape[:2], 3))


def _luma_and_chroma(rgb: NDArray[Samples]) -> NDArray[Samples]:
    """(H, W, 3) RGB -> (H, W, 3) Y, Cr, Cb."""
    return _converted(rgb, cv2.COLOR_RGB2YCrCb)


def _converted(pixels: NDArray[Samples], conversion: int) -> NDArray[Samples]:
    """OpenCV's colour conversion of that code, in the pixels' own type."""
    return cv2.cvtColor(np.ascontiguousarray(pixels), conversion).astype(pixels.dtype, copy=False)


def _chroma(picture: NDArray[Samples]) -> NDArray[Samples]:
    return _luma_and_chroma(as_rgb(picture))[..., 1:]


def _alpha(picture: NDArray[Samples]) -> NDArray[Samples]:
    return picture[..., -1:]
