"""Compute PSNR and SSIM: two pictures in, dB or an index out.

PSNR = 10 log10(255² / MSE) on 8-bit values. SSIM: Wang et al. 2004, doi 10.1109/TIP.2003.819861: 11×11 Gaussian window with σ 1.5,
K1 0.01, K2 0.03, only where the window fits; of a colour picture, the mean over its channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from benchmarks.protocols import Channel, Protocol
from runtime.errors import ImageError
from runtime.images import Picture
from runtime.quality import luma, psnr_of

_WINDOW = 11  # pixels per side of SSIM's window


@dataclass(frozen=True)
class Score:
    """One picture's figures; psnr_db is infinite where the pictures are equal."""

    psnr_db: float
    ssim: float


def prepare(low: Picture, high: Picture, protocol: Protocol, *, scale: float) -> tuple[Picture, Picture]:
    """Return the pair as `protocol` wants it: (low, high), uint8 RGB."""
    if protocol.side is None:
        return low, high
    return _resize_by_area(low, protocol.side), _resize_by_area(high, round(protocol.side * scale))


def score(picture: Picture, truth: Picture, protocol: Protocol, *, scale: float) -> Score:
    """PSNR and SSIM of two (H, W, 3) uint8 RGB pictures of one size.

    Raises:
        ImageError: they differ in size, or are smaller than SSIM's window after the crop.
    """
    if picture.shape != truth.shape:
        raise ImageError(f"pictures of {picture.shape} and {truth.shape} cannot be compared")
    border = math.ceil(scale) if protocol.crop_scale else 0
    ours, theirs = (_plane(image, protocol)[border : -border or None, border : -border or None] for image in (picture, truth))
    if min(ours.shape[:2]) < _WINDOW:
        raise ImageError(f"a picture of {picture.shape[:2]} is too small to score; SSIM looks at {_WINDOW}×{_WINDOW} pixels")
    ssim = structural_similarity(  # type: ignore[no-untyped-call] # scikit-image has no annotations
        ours,
        theirs,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=None if ours.ndim == 2 else -1,
    )
    return Score(psnr_db(ours, theirs, peak=255), float(ssim))


def psnr_db(first: NDArray[np.floating], second: NDArray[np.floating], *, peak: float) -> float:
    """Peak signal-to-noise ratio of two arrays of one shape; infinite where they are equal."""
    error = float(np.mean(np.square(first.astype(np.float64) - second.astype(np.float64))))
    return psnr_of(error, peak=peak)


def _plane(picture: Picture, protocol: Protocol) -> NDArray[np.float64]:
    values = picture.astype(np.float64)
    return values if protocol.channel is Channel.RGB else luma(values)


def _resize_by_area(picture: Picture, side: int) -> Picture:
    resized: Picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return resized
