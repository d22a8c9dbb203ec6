"""Follow Resize: which pixels each output pixel is made from, by coordinate mode, interpolation and sizes.

Output o of m lies at x of the input's n pixels, with the scale r, as ONNX defines it:

    half_pixel           (o + 1/2) / r - 1/2                     pytorch_half_pixel: 0 where m = 1
    half_pixel_symmetric the same, the output's middle on the input's
    asymmetric           o / r
    align_corners        o (n - 1) / (m - 1)

Where sizes are given, r = m / n. All of it is reckoned in fractions: x repeats by whole pixels, or it does not.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from export.reach.call import Call, NotFollowedError
from export.reach.dependence import Dependence, coefficients, hashed, sample

_RADIUS = {"nearest": 0, "linear": 1, "cubic": 2}
_MOST_PARTS = 1000  # a scale is taken for the fraction of at most this denominator that it stands for
_CLOSE = 1e-6


def follow_resize(call: Call) -> Dependence:
    """Resize of opset 11 and later."""
    result = source = call.source
    mode = call.text("mode", "nearest")
    if mode not in _RADIUS:
        raise NotFollowedError
    axes = [axis % source.rank for axis in call.ints("axes", range(source.rank))]
    scales, sizes = call.given(2), call.given(3)
    if call.text("keep_aspect_ratio_policy", "stretch") != "stretch" or (scales is None) == (sizes is None):
        raise NotFollowedError
    for place, axis in enumerate(axes):
        length = source.shape[axis]
        if sizes is not None:
            count = int(sizes[place])
            scale = Fraction(count, length)
        else:
            assert scales is not None
            scale = _fraction(float(scales[place]))
            count = int(length * scale)
        if scale != 1:
            result = _along(call, result, axis, count=count, scale=scale, mode=mode)
    return result


def follow_upsample(call: Call) -> Dependence:
    """Upsample of opset 9: asymmetric, the nearest pixel rounded down or linear."""
    result, scales = call.source, call.given(1)
    if scales is None:
        raise NotFollowedError
    for axis, number in enumerate(scales):
        scale = _fraction(float(number))
        if scale != 1:
            places = [o / scale for o in range(int(result.shape[axis] * scale))]
            result = _read(result, axis, places, scale=scale, mode=call.text("mode", "nearest"), nearest="floor", name=call.name)
    return result


def _fraction(scale: float) -> Fraction:
    found = Fraction(scale).limit_denominator(_MOST_PARTS)
    return found if abs(found - Fraction(scale)) <= _CLOSE * found else Fraction(scale)


def _along(call: Call, source: Dependence, axis: int, *, count: int, scale: Fraction, mode: str) -> Dependence:
    length, how = source.shape[axis], call.text("coordinate_transformation_mode", "half_pixel")
    half = Fraction(1, 2)
    if how == "half_pixel" or (how == "pytorch_half_pixel" and count > 1):
        places = [(o + half) / scale - half for o in range(count)]
    elif how == "half_pixel_symmetric":
        offset = Fraction(length, 2) * (1 - count / (scale * length))
        places = [offset + (o + half) / scale - half for o in range(count)]
    elif how == "asymmetric":
        places = [o / scale for o in range(count)]
    elif how == "align_corners" or (how == "tf_crop_and_resize" and _whole_roi(call, axis)):
        places = [Fraction(o * (length - 1), max(count - 1, 1)) for o in range(count)]
    elif how == "pytorch_half_pixel":
        places = [Fraction(0)] * count
    else:
        raise NotFollowedError
    nearest = call.text("nearest_mode", "round_prefer_floor")
    wide = 1 / scale if call.number("antialias", 0) and scale < 1 else Fraction(1)
    return _read(source, axis, places, scale=wide, mode=mode, nearest=nearest, name=call.name)


def _whole_roi(call: Call, axis: int) -> bool:
    roi = call.given(1)
    return roi is not None and len(roi) == 2 * call.source.rank and (roi[axis], roi[axis + call.source.rank]) == (0, 1)


def _read(
    source: Dependence, axis: int, places: list[Fraction], *, scale: Fraction, mode: str, nearest: str, name: str
) -> Dependence:
    """Return the pixels around each place, as many as the interpolation looks at; `scale` times as many where it is antialiased."""
    length, radius = source.shape[axis], _RADIUS[mode]
    if radius == 0:
        rounded = np.array([_rounded(place, nearest) for place in places])[:, np.newaxis]
        return sample(source, axis, rounded.clip(0, length - 1), np.array([1], np.uint64))
    # Taps at a place of fraction 0 and distance of the radius have no weight.
    reach = radius if scale == 1 else math.ceil(radius * scale)
    offsets = np.arange(-reach + 1, reach + 1)
    floors = np.array([place.numerator // place.denominator for place in places])
    phases = np.array([_phase(place) for place in places], np.uint64)
    index = (floors[:, np.newaxis] + offsets).clip(0, length - 1)
    weights = hashed(phases[:, np.newaxis] * np.uint64(3)) + coefficients(len(offsets), kind=name)
    if scale == 1:
        whole = (phases == 0)[:, np.newaxis] & (offsets != 0)
        index = np.where(whole, floors[:, np.newaxis].clip(0, length - 1), index)
    return sample(source, axis, index, weights | np.uint64(1))


def _phase(place: Fraction) -> int:
    part = place - place.numerator // place.denominator
    return (part.numerator * 1_000_003 + part.denominator) % (1 << 64) if part else 0


def _rounded(place: Fraction, nearest: str) -> int:
    below = place.numerator // place.denominator
    part = place - below
    if nearest == "floor" or part == 0:
        return below
    if nearest == "ceil":
        return below + 1
    return below + (part > Fraction(1, 2) or (part == Fraction(1, 2) and nearest == "round_prefer_ceil"))
