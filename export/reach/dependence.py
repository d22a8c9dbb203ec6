"""What the elements of a tensor depend on, along one axis of the picture, as data.

Each element carries three numbers: the first and the last of the picture's rows (or columns) that it depends on, and a label that
stands for how it is computed from them. Two elements of one label are the same function of the pixels around them. All pixels of
the picture have one label; that of an output is the sum of its inputs' labels modulo 2⁶⁴, each times a random odd number that
stands for the operator and the tap. So a tensor is computed alike everywhere where its labels repeat, and where they do not,
something depends on the place: a border, a phase of a stride, a table of positions, a ratio that follows from the picture's size.

The arrays are kept as small as they broadcast: an axis along which nothing changes has size 1. What is the same along an axis stays
so whatever window slides along it: that is an axis other than the one followed, or holds no pixels.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int32]
Labels = NDArray[np.uint64]
Number = TypeVar("Number", bound=np.generic)
Known = NDArray[np.generic]
"""A tensor that holds no pixels: a constant, or what follows from sizes."""

NOTHING = 1 << 29  # the first row that is depended on where there is none; the last is its negative
_PADDING = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Dependence:
    """What a tensor of `shape` depends on: `first`, `last` and `label` as above, each of the same rank and broadcastable to it."""

    shape: tuple[int, ...]
    first: Rows
    last: Rows
    label: Labels

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def arrays(self) -> tuple[Rows, Rows, Labels]:
        return self.first, self.last, self.label

    def varies(self, axis: int) -> bool:
        """Return whether anything changes along the axis."""
        return any(array.shape[axis] > 1 for array in self.arrays)


def picture(shape: tuple[int, ...], axis: int) -> Dependence:
    """Return the network's input, followed along that axis: each pixel depends on itself."""
    sizes = [1] * len(shape)
    sizes[axis] = shape[axis]
    rows = np.arange(shape[axis], dtype=np.int32).reshape(sizes)
    return Dependence(shape, rows, rows, np.full([1] * len(shape), seed("picture")))


@cache
def seed(text: str) -> np.uint64:
    """Return a number for a name."""
    return np.uint64(hashed(np.array([zlib.crc32(text.encode())], np.uint64))[0])


def stamped(label: Labels, name: str) -> Labels:
    """Return the label of what the operator of that name computes."""
    return label * (seed(name) | np.uint64(1)) + seed(f"{name}+")


def hashed(label: Labels) -> Labels:
    """Return a random number for each (the finalizer of splitmix64)."""
    label = label + np.uint64(0x9E3779B97F4A7C15)
    label = (label ^ (label >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    label = (label ^ (label >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return label ^ (label >> np.uint64(31))


def coefficients(count: int, *, kind: str = "") -> Labels:
    """Odd numbers, one per tap: what a label is multiplied by, so that taps cannot be exchanged."""
    with np.errstate(over="ignore"):  # it wraps
        return hashed(np.arange(count, dtype=np.uint64) + seed(kind)) | np.uint64(1)


def packed(shape: Sequence[int], first: Rows, last: Rows, label: Labels) -> Dependence:
    """Return a Dependence, each array as small as it broadcasts."""
    return Dependence(tuple(shape), _small(first), _small(last), _small(label))


def _small(array: NDArray[Number]) -> NDArray[Number]:
    for axis, size in enumerate(array.shape):
        if size > 1:
            before = (slice(None),) * axis
            head = array[(*before, slice(0, 1))]
            # A quick look before the whole.
            if np.array_equal(array[(*before, slice(size // 2, size // 2 + 1))], head) and bool((array == head).all()):
                array = head
    return array


def known(values: Known) -> Dependence:
    """Return a tensor without pixels as one: it depends on no row, and its label is its value."""
    numbers = values.astype(np.float64) + 0.0  # no negative zero
    nothing = np.full([1] * values.ndim, NOTHING, np.int32)
    return packed(values.shape, nothing, -nothing, hashed(np.atleast_1d(numbers).view(np.uint64)).reshape(numbers.shape))


def combine(name: str, parts: Sequence[Dependence]) -> Dependence:
    """Return an operator that looks at one place of each of its inputs, broadcast as NumPy does."""
    shape = np.broadcast_shapes(*(part.shape for part in parts))
    parts = [_with_rank(part, len(shape)) for part in parts]
    first, last = parts[0].first, parts[0].last
    total = parts[0].label
    for part, factor in zip(parts[1:], coefficients(len(parts))[1:], strict=True):
        first, last = np.minimum(first, part.first), np.maximum(last, part.last)
        total = total + part.label * factor
    return packed(shape, first, last, stamped(total, name))


def _with_rank(part: Dependence, rank: int) -> Dependence:
    ones = (1,) * (rank - part.rank)
    first, last, label = part.arrays
    return Dependence(
        ones + part.shape,
        first.reshape(ones + first.shape),
        last.reshape(ones + last.shape),
        label.reshape(ones + label.shape),
    )


def numbered(part: Dependence, axis: int, name: str) -> Dependence:
    """Return each index along the axis computed in a way of its own: channels, of which each has its weights."""
    sizes = [1] * part.rank
    sizes[axis] = part.shape[axis]
    numbers = coefficients(part.shape[axis], kind=name).reshape(sizes)
    return packed(part.shape, part.first, part.last, part.label + numbers)


def sample(part: Dependence, axis: int, index: NDArray[np.int64], weight: Labels | None = None) -> Dependence:
    """New elements along an axis, each from some of those there are.

    Args:
        index: (count, taps): which ones; negative for padding.
        weight: one per tap, or (count, taps): equal ones where taps are weighed alike. None copies the one tap as it is.
    """
    shape = (*part.shape[:axis], len(index), *part.shape[axis + 1 :])
    if not part.varies(axis):
        return Dependence(shape, part.first, part.last, part.label)
    inside = index >= 0
    at = np.where(inside, index, 0)
    first = _taken(part.first, part.shape[axis], axis, at, inside, np.int32(NOTHING))
    last = _taken(part.last, part.shape[axis], axis, at, inside, np.int32(-NOTHING))
    label = _taken(part.label, part.shape[axis], axis, at, inside, _PADDING)
    taps = axis + 1
    if weight is None:
        assert index.shape[1] == 1
        one = (slice(None),) * taps + (0,)
        return packed(shape, first[one], last[one], label[one])
    weights = np.broadcast_to(weight, index.shape).reshape((1,) * axis + index.shape + (1,) * (part.rank - axis - 1))
    total = (label * weights).sum(taps, dtype=np.uint64)
    return packed(shape, first.min(taps), last.max(taps), total)


def _taken(
    array: NDArray[Number], length: int, axis: int, at: NDArray[np.int64], inside: NDArray[np.bool_], padding: Number
) -> NDArray[Number]:
    """(…, count, taps, …) of (…, length, …)."""
    sizes = list(array.shape)
    sizes[axis] = length
    taken = np.broadcast_to(array, sizes).take(at, axis)
    mask = inside.reshape((1,) * axis + inside.shape + (1,) * (array.ndim - axis - 1))
    return np.where(mask, taken, padding)


def reduce(part: Dependence, axes: Sequence[int], name: str) -> Dependence:
    """Everything along those axes becomes one element, the axes stay with size 1."""
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(part.shape))
    first, last, label = part.first, part.last, part.label
    for axis in axes:
        first, last = first.min(axis, keepdims=True), last.max(axis, keepdims=True)
        if label.shape[axis] > 1:
            sizes = [1] * part.rank
            sizes[axis] = label.shape[axis]
            factors = coefficients(label.shape[axis]).reshape(sizes)
            label = (label * factors).sum(axis, keepdims=True, dtype=np.uint64)
    return packed(shape, first, last, stamped(label, name))


def spread(part: Dependence, shape: Sequence[int]) -> Dependence:
    """Broadcast to a shape of the same or a higher rank."""
    raised = _with_rank(part, len(shape))
    return Dependence(np.broadcast_shapes(raised.shape, tuple(shape)), raised.first, raised.last, raised.label)


def transpose(part: Dependence, order: Sequence[int]) -> Dependence:
    shape = tuple(part.shape[axis] for axis in order)
    return Dependence(shape, part.first.transpose(order), part.last.transpose(order), part.label.transpose(order))


def reshape(part: Dependence, shape: Sequence[int]) -> Dependence:
    """Another shape of as many elements, in the same order; axes along which nothing changes stay small where they can."""
    shape = tuple(shape)
    if math.prod(shape) != math.prod(part.shape):
        raise ValueError(f"{part.shape} cannot become {shape}")
    blocks = _blocks(part.shape, shape)
    first, last = (_reshaped(array, part.shape, shape, blocks) for array in (part.first, part.last))
    return packed(shape, first, last, _reshaped(part.label, part.shape, shape, blocks))


def _reshaped(
    array: NDArray[Number], old: tuple[int, ...], new: tuple[int, ...], blocks: list[tuple[range, range]]
) -> NDArray[Number]:
    before, after = list(array.shape), [1] * len(new)
    for sources, targets in blocks:
        if any(array.shape[axis] > 1 for axis in sources):
            for axis in sources:
                before[axis] = old[axis]
            for axis in targets:
                after[axis] = new[axis]
    return np.broadcast_to(array, before).reshape(after)


def _blocks(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[range, range]]:
    """Return the smallest groups of neighbouring axes that become one another."""
    blocks, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        start_i, start_j = i, j
        left = right = 1
        if i < len(old):
            left, i = old[i], i + 1
        if j < len(new):
            right, j = new[j], j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        blocks.append((range(start_i, i), range(start_j, j)))
    return blocks


def concatenate(parts: Sequence[Dependence], axis: int) -> Dependence:
    """Joined along the axis."""
    total = sum(part.shape[axis] for part in parts)
    lengths = [part.shape[axis] for part in parts]
    first = _joined([part.first for part in parts], lengths, axis)
    last = _joined([part.last for part in parts], lengths, axis)
    label = _joined([part.label for part in parts], lengths, axis)
    return packed((*parts[0].shape[:axis], total, *parts[0].shape[axis + 1 :]), first, last, label)


def _joined(arrays: Sequence[NDArray[Number]], lengths: Sequence[int], axis: int) -> NDArray[Number]:
    sizes = np.max([array.shape for array in arrays], axis=0).tolist()
    pieces = [
        np.broadcast_to(array, [*sizes[:axis], length, *sizes[axis + 1 :]]) for array, length in zip(arrays, lengths, strict=True)
    ]
    return np.concatenate(pieces, axis)
