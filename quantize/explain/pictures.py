"""Run whole pictures in fp32 and int8: how far apart the results are, and what that costs against the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from calibration.pairs import Pair, load_low, load_pair
from quantize.explain.result import ExplainedPicture
from quantize.explain.sensitivity import decibels
from runtime.images import Picture
from runtime.upscaler import Upscaler

_PEAK = 255.0


def compare_pictures(
    fp32: Upscaler, int8: Upscaler, pairs: Sequence[Pair], *, on_step: Callable[[int, int], None]
) -> list[ExplainedPicture]:
    """Return each of `pairs`, the one that int8 is furthest from fp32 on first."""
    scale = fp32.bundle.manifest.scale
    found = []
    for index, pair in enumerate(pairs):
        on_step(index, len(pairs))
        low, high = (load_low(pair, scale=scale), None) if pair.high is None else load_pair(pair, scale=scale)
        found.append(compare_outputs(pair.name, fp32(low), int8(low), truth=high))
    return sorted(found, key=lambda picture: float("inf") if picture.psnr_vs_fp32_db is None else picture.psnr_vs_fp32_db)


def compare_outputs(name: str, fp32: Picture, int8: Picture, *, truth: Picture | None) -> ExplainedPicture:
    """(H, W, 3) uint8 RGB each; PSNR over all channels and pixels."""
    difference = int8.astype(np.int16) - fp32.astype(np.int16)
    red, green, blue = difference.mean(axis=(0, 1), dtype=np.float64)
    drop = None
    if truth is not None:
        of_fp32, of_int8 = _psnr_db(fp32, truth), _psnr_db(int8, truth)
        drop = None if of_fp32 is None or of_int8 is None else of_fp32 - of_int8
    return ExplainedPicture(
        name=name, psnr_vs_fp32_db=_psnr_db(int8, fp32), drop_db=drop, colour_shift=(float(red), float(green), float(blue))
    )


def _psnr_db(first: Picture, second: Picture) -> float | None:
    difference = first.astype(np.int32) - second.astype(np.int32)
    return decibels(_PEAK**2, float(np.square(difference).mean()))
