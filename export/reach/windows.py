"""Follow operators whose window slides over the picture: convolutions and pools.

Output o of a window of k taps, stride s and dilation d, with p pixels of padding in front, reads inputs o·s - p + t·d, t in [0, k);
of a transposed one inputs j with j·s - p + t·d = o.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.reach.call import Call, NotFollowedError
from export.reach.dependence import Dependence, coefficients, numbered, reduce, reshape, sample


@dataclass(frozen=True)
class _Window:
    """Along one axis."""

    kernel: int
    stride: int
    dilation: int
    front: int
    back: int

    @property
    def extent(self) -> int:
        return (self.kernel - 1) * self.dilation + 1


def follow_conv(call: Call) -> Dependence:
    """Conv; each output channel has weights of its own."""
    source = call.source
    weight = call.given(1)
    if weight is None:
        raise NotFollowedError
    result = _channels(source, outputs=weight.shape[0], groups=call.number("group", 1), name=call.name)
    for axis, window in enumerate(_windows(call, weight.shape[2:], source.shape[2:]), start=2):
        count = (source.shape[axis] + window.front + window.back - window.extent) // window.stride + 1
        result = sample(result, axis, _index(window, count, source.shape[axis]), coefficients(window.kernel, kind=call.name))
    return numbered(result, 1, call.name)


def follow_conv_transpose(call: Call) -> Dependence:
    source, weight = call.source, call.given(1)
    if weight is None or call.node.attributes.get("output_shape") is not None or call.text("auto_pad", "NOTSET") != "NOTSET":
        raise NotFollowedError
    groups = call.number("group", 1)
    result = _channels(source, outputs=weight.shape[1] * groups, groups=groups, name=call.name)
    more = call.ints("output_padding", [0] * (source.rank - 2))
    for axis, window in enumerate(_windows(call, weight.shape[2:], source.shape[2:]), start=2):
        length = source.shape[axis]
        count = window.stride * (length - 1) + more[axis - 2] + window.extent - window.front - window.back
        places = np.arange(count)[:, np.newaxis] + window.front - np.arange(window.kernel) * window.dilation
        reads = (places % window.stride == 0) & (places >= 0) & (places // window.stride < length)
        result = sample(result, axis, np.where(reads, places // window.stride, -1), coefficients(window.kernel, kind=call.name))
    return numbered(result, 1, call.name)


def follow_pool(call: Call) -> Dependence:
    """MaxPool, AveragePool and LpPool."""
    result = source = call.source
    for axis, window in enumerate(_windows(call, call.ints("kernel_shape", ()), source.shape[2:]), start=2):
        length = source.shape[axis]
        room = length + window.front + window.back - window.extent
        count = room // window.stride + 1
        if call.number("ceil_mode", 0) and room % window.stride and count * window.stride < length + window.front:
            count += 1  # a last window that begins inside the picture
        result = sample(result, axis, _index(window, count, length), coefficients(window.kernel, kind=call.name))
    return result


def _index(window: _Window, count: int, length: int) -> NDArray[np.int64]:
    """(count, taps): what each output reads; -1 outside of the picture."""
    index = np.arange(count)[:, np.newaxis] * window.stride - window.front + np.arange(window.kernel) * window.dilation
    return np.where((index >= 0) & (index < length), index, -1)


def _windows(call: Call, kernel: tuple[int, ...] | list[int], sizes: tuple[int, ...]) -> list[_Window]:
    rank = len(sizes)
    kernel = call.ints("kernel_shape", kernel)
    strides, dilations = call.ints("strides", [1] * rank), call.ints("dilations", [1] * rank)
    pads, padding = call.ints("pads", [0] * 2 * rank), call.text("auto_pad", "NOTSET")
    windows = []
    for axis, size in enumerate(sizes):
        front, back = pads[axis], pads[axis + rank]
        if padding.startswith("SAME"):
            extent = (kernel[axis] - 1) * dilations[axis] + 1
            total = max((-(-size // strides[axis]) - 1) * strides[axis] + extent - size, 0)
            front = total // 2 if padding == "SAME_UPPER" else total - total // 2
            back = total - front
        elif padding == "VALID":
            front = back = 0
        windows.append(_Window(kernel[axis], strides[axis], dilations[axis], front, back))
    return windows


def _channels(source: Dependence, *, outputs: int, groups: int, name: str) -> Dependence:
    """(N, C, …) -> (N, outputs, …): each output of all inputs of its group."""
    batch, channels, *sides = source.shape
    if not source.varies(1):
        return Dependence((batch, outputs, *sides), source.first, source.last, source.label)
    grouped = reduce(reshape(source, (batch, groups, channels // groups, *sides)), (2,), name)
    flat = reshape(grouped, (batch, groups, *sides))
    return sample(flat, 1, (np.arange(outputs) // (outputs // groups))[:, np.newaxis])
