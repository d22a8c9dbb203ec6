"""Pictures: files to arrays and back, arrays to what a network takes and back."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.bicubic import upscale_bicubic
from runtime.bundle import Colour, Contract
from runtime.errors import ImageError, PipelineError
from runtime.files import write_whole

Picture = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""


class Rounding(Enum):
    """How a network's output becomes 8 bits."""

    NEAREST = "rounded"
    TRUNCATE = "truncated"


_JPEG_MAGIC = b"\xff\xd8"
_LARGEST_PIXELS = 1 << 28  # 268 megapixels, 0.8 GB decoded: above it a file is taken for a decompression bomb
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def is_image_file(path: Path) -> bool:
    """Whether the name says that it is a picture this project reads."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def read_picture(path: Path) -> Picture:
    """Decodes an 8-bit grey or RGB file to (H, W, 3) uint8 RGB, EXIF orientation applied.

    Raises:
        ImageError: it cannot be read, is no picture, or has transparency or 16 bits, which would be lost.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        picture = _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
        # Only a second look tells whether there was an alpha channel; JPEG has none.
        whole = picture if data.startswith(_JPEG_MAGIC) else _decode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(f"{path} cannot be decoded: {error.err}") from error
    if picture is None or whole is None:
        raise ImageError(
            f"{path} is not a picture that can be decoded ({len(data)} bytes)",
            hint=f"check the file; its name should say what it is: {', '.join(_SUFFIXES)}",
        )
    if picture.dtype != np.uint8:
        raise ImageError(f"{path} holds {picture.dtype} samples; 8-bit ones are read", hint="convert it to 8 bits")
    translucent = whole.ndim == 3 and whole.shape[2] == 4 and int(whole[..., 3].min()) < 255
    if translucent or (whole.ndim == 2 and b"tRNS" in data.partition(b"IDAT")[0]):  # a grey PNG's transparent shade
        raise ImageError(f"{path} is partly transparent; opaque pictures are read", hint="flatten it onto a background")
    return picture.astype(np.uint8, copy=False)


def write_picture(path: Path, picture: Picture) -> None:
    """Encodes (H, W, 3) uint8 RGB by the suffix of `path`; the file appears whole or not at all."""
    if path.suffix.lower() not in _SUFFIXES:
        raise ImageError(f"cannot write {path}: its suffix names no picture format", hint=f"one of {', '.join(_SUFFIXES)}")
    check_picture(picture)
    done, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise ImageError(f"cannot encode {path}")
    try:
        write_whole(path, data.tobytes())
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error.strerror or error}") from error


def check_picture(picture: Picture) -> None:
    """ImageError unless it is a (H, W, 3) uint8 array with pixels in it."""
    if not isinstance(picture, np.ndarray):
        raise ImageError(f"expected a (H, W, 3) uint8 RGB array, got {type(picture).__name__}")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise ImageError(f"expected a (H, W, 3) uint8 RGB array, got {picture.shape} {picture.dtype}")


def to_network(picture: Picture, contract: Contract, *, scale: float) -> NDArray[np.float32]:
    """(h, w, 3) uint8 RGB -> (1, C, H, W) float32 in [0, 1], of RGB or of 8-bit luma, enlarged where the contract says so."""
    planes = to_planes(picture, contract, scale=scale)
    return np.ascontiguousarray(planes.transpose(2, 0, 1)[np.newaxis], np.float32) / np.float32(255)


def to_planes(picture: Picture, contract: Contract, *, scale: float) -> NDArray[np.uint8]:
    """What `to_network` gives, still in 8 bits: (h, w, 3) uint8 RGB -> (H, W, C) uint8."""
    size = picture.shape[0], picture.shape[1]
    if contract.pre_upscale:
        picture = upscale_bicubic(picture, contract.input_size(size, scale=scale))
    luma_only = contract.colour == "Y"
    return cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb)[..., :1].astype(np.uint8, copy=False) if luma_only else picture


def from_network(output: NDArray[np.float32], colour: Colour, *, source: Picture, rounding: Rounding = Rounding.NEAREST) -> Picture:
    """(1, C, H, W) float32, clipped to [0, 1] -> (H, W, 3) uint8 RGB; where C is luma, the chroma is that of `source`, bicubic.

    `source` is the picture that went in, (h, w, 3) uint8 RGB.

    Raises:
        PipelineError: the output holds NaN or infinity, as an fp16 graph's may; it would show as black.
    """
    if not np.isfinite(output.sum(dtype=np.float64)):
        raise PipelineError("the network's output holds NaN or infinity", hint="run it in fp32 to see whether the precision is why")
    scaled = np.clip(output[0], 0.0, 1.0) * np.float32(255)
    whole = np.rint(scaled) if rounding is Rounding.NEAREST else np.trunc(scaled)
    planes = np.ascontiguousarray(whole.transpose(1, 2, 0)).astype(np.uint8)
    return planes if colour == "RGB" else _with_chroma(planes, source)


def _with_chroma(luma: NDArray[np.uint8], source: Picture) -> Picture:
    """(H, W, 1) luma and the chroma of (h, w, 3) RGB, enlarged -> (H, W, 3) RGB."""
    low = cv2.cvtColor(source, cv2.COLOR_RGB2YCrCb)[..., 1:].astype(np.uint8, copy=False)
    chroma = upscale_bicubic(low, (luma.shape[0], luma.shape[1]))
    return cv2.cvtColor(np.concatenate([luma, chroma], axis=2), cv2.COLOR_YCrCb2RGB).astype(np.uint8, copy=False)


def _decode(data: bytes, flags: int) -> NDArray[np.generic] | None:
    if not data:
        return None
    decoded: NDArray[np.generic] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if decoded is not None and decoded.shape[0] * decoded.shape[1] > _LARGEST_PIXELS:
        raise ImageError(f"a picture of {decoded.shape[1]}×{decoded.shape[0]} is larger than {_LARGEST_PIXELS} pixels")
    return decoded
