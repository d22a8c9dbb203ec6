"""Tell whether a tensor is computed alike everywhere, and how far its elements look.

Away from the borders the labels of q elements repeat, and the rows that they depend on move on by p: the tensor's grid is q / p
times as fine as the picture's, and a picture cut at a multiple of p gives the same elements from there on. What the borders
disturb, and how far an element looks, is the halo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.reach.dependence import NOTHING, Dependence, Number

_PARTS = 3  # what is inside: the middle third


@dataclass(frozen=True)
class Field:
    """The field of view of a tensor along an axis.

    Attributes:
        halo: pixels around a tile, on either side, that its elements depend on, or where a cut would disturb them.
        step: pixels after which everything repeats.
        count: elements in that many pixels.
        inside, front, back: what one period is made of, and what the borders make of theirs; equal where computed alike.
    """

    halo: int
    step: int
    count: int
    inside: bytes
    front: bytes
    back: bytes


class BorderError(Exception):
    """The picture is too small: what its borders disturb reaches its middle."""


def field_of(found: Dependence, axis: int, length: int) -> Field | None:
    """Return the field of a tensor along its `axis`, of a picture of `length` pixels; None where it is not computed alike
    everywhere.

    Raises:
        BorderError: that cannot be seen, so small is the picture.
    """
    size = found.shape[axis]
    first, last = (_lines(array.astype(np.int64), axis, size) for array in (found.first, found.last))
    label = _lines(found.label, axis, size)
    low, high = size // _PARTS, size - size // _PARTS
    period = _period(first[low:high], last[low:high], label[low:high])
    if period is None:
        if int((last[low:high] - first[low:high]).max(initial=0)) * _PARTS > length:
            raise BorderError
        return None
    count, step = period
    places = np.arange(size)
    same = low + (places - low) % count
    moved = ((places - same) // count * step)[:, np.newaxis]
    disturbed = (label != label[same]).any(1)
    for rows in (first, last):
        disturbed |= ((rows - rows[same] != moved) & (np.abs(rows[same]) != NOTHING)).any(1)
    if disturbed[low:high].any():
        raise BorderError
    before, behind = np.flatnonzero(disturbed[:low]), np.flatnonzero(disturbed[high:]) + high
    start, end = (int(before[-1]) + 1 if before.size else 0), (int(behind[0]) if behind.size else size)
    own, some = (places * step // count)[:, np.newaxis], first != NOTHING
    reach = max(int((own - first)[some].max(initial=0)), int((last - own)[some].max(initial=0)))
    halo = max(reach, (start - 1) * step // count + 1 if start else 0, math.ceil(length - end * step / count))
    begin = -(-low // count) * count
    whole = slice(begin, begin + count)
    shift = begin // count * step
    return Field(
        halo,
        step,
        count,
        _bytes(_moved(first[whole], shift), _moved(last[whole], shift), label[whole]),
        _bytes(first[:start], last[:start], label[:start]),
        _bytes(_moved(first[end:], length), _moved(last[end:], length), label[end:], np.array([size * step - length * count])),
    )


def _moved(rows: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    return np.where(np.abs(rows) == NOTHING, rows, rows - shift)


def _lines(array: NDArray[Number], axis: int, size: int) -> NDArray[Number]:
    """(size, everything else)."""
    flat = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    return np.broadcast_to(flat, (size, flat.shape[1]))


def _period(first: NDArray[np.int64], last: NDArray[np.int64], label: NDArray[np.uint64]) -> tuple[int, int] | None:
    """Return the least number of elements after which all repeats, and the rows it moves on by."""
    for count in range(1, len(label) // 2 + 1):
        if not np.array_equal(label[count:, 0], label[:-count, 0]) or not np.array_equal(label[count:], label[:-count]):
            continue
        some = first[:-count] != NOTHING
        if not np.array_equal(some, first[count:] != NOTHING) or not some.any():
            continue
        steps = {*(first[count:] - first[:-count])[some].tolist(), *(last[count:] - last[:-count])[some].tolist()}
        if len(steps) == 1 and (step := steps.pop()) > 0:
            return count, step
    return None


def _bytes(*arrays: NDArray[np.generic]) -> bytes:
    return b"".join(array.tobytes() for array in arrays)
