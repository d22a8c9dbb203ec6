"""Follow operators that move elements and compute nothing: each output element depends on the element it was."""

from __future__ import annotations

import numpy as np

from export.reach.call import Call, NotFollowedError
from export.reach.dependence import Dependence, concatenate, known, reshape, sample, spread, transpose


def follow_pad(call: Call) -> Dependence:
    """Pad of every mode."""
    result = source = call.source
    amounts, axes = call.numbers(1, "pads"), call.numbers(3) or list(range(source.rank))
    mode = call.text("mode", "constant")
    if amounts is None:
        raise NotFollowedError
    for place, axis in enumerate(axes):
        front, back = amounts[place], amounts[place + len(axes)]
        whole = np.arange(source.shape[axis % source.rank])
        kept = whole[max(-front, 0) : len(whole) - max(-back, 0)]
        padding = (max(front, 0), max(back, 0))
        index = np.pad(kept, padding, constant_values=-1) if mode == "constant" else np.pad(kept, padding, mode=mode)  # type: ignore[call-overload] # ONNX's modes are NumPy's
        result = sample(result, axis % source.rank, index[:, np.newaxis])
    return result


def follow_slice(call: Call) -> Dependence:
    result = source = call.source
    starts, ends = call.numbers(1, "starts"), call.numbers(2, "ends")
    if starts is None or ends is None:
        raise NotFollowedError
    axes = call.numbers(3, "axes") or list(range(len(starts)))
    for start, end, axis, step in zip(starts, ends, axes, call.numbers(4) or [1] * len(starts), strict=True):
        length = source.shape[axis % source.rank]
        # Backwards, an end before the first element is -length - 1 or less, which Python takes for None.
        stop = None if step < 0 and end < -length else end
        index = np.arange(length)[start:stop:step]
        result = sample(result, axis % source.rank, index[:, np.newaxis])
    return result


def follow_gather(call: Call) -> Dependence:
    source, indices = call.source, call.inputs[1]
    if indices is None or isinstance(indices, Dependence):
        raise NotFollowedError
    axis = call.axis(0)
    flat = indices.reshape(-1).astype(np.int64) % source.shape[axis]
    taken = sample(source, axis, flat[:, np.newaxis])
    return reshape(taken, (*source.shape[:axis], *indices.shape, *source.shape[axis + 1 :]))


def follow_concat(call: Call) -> Dependence:
    parts = [part if isinstance(part, Dependence) else known(part) for part in call.inputs if part is not None]
    return concatenate(parts, call.number("axis", 1) % parts[0].rank)


def follow_split(call: Call) -> list[Dependence]:
    source, axis, count = call.source, call.axis(0), len(call.node.outputs)
    lengths = call.numbers(1, "split")
    if lengths is None:
        whole = -(-source.shape[axis] // count)
        lengths = [min(whole, source.shape[axis] - whole * index) for index in range(count)]
    starts = np.cumsum([0, *lengths])
    pieces = zip(starts, lengths, strict=False)
    return [sample(source, axis, np.arange(start, start + length)[:, np.newaxis]) for start, length in pieces]


def follow_transpose(call: Call) -> Dependence:
    return transpose(call.source, call.ints("perm", range(call.source.rank)[::-1]))


def follow_reshape(call: Call) -> Dependence:
    source, sizes = call.source, call.numbers(1)
    if sizes is None:
        raise NotFollowedError
    if not call.number("allowzero", 0):
        sizes = [source.shape[index] if size == 0 else size for index, size in enumerate(sizes)]
    if -1 in sizes:
        sizes[sizes.index(-1)] = int(np.prod(source.shape)) // -int(np.prod(sizes))
    return reshape(source, sizes)


def follow_flatten(call: Call) -> Dependence:
    shape = call.source.shape
    axis = call.number("axis", 1)
    return reshape(call.source, (int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))))


def follow_squeeze(call: Call) -> Dependence:
    shape, axes = call.source.shape, call.numbers(1, "axes")
    gone = [axis for axis, size in enumerate(shape) if size == 1] if axes is None else [axis % len(shape) for axis in axes]
    return reshape(call.source, [size for axis, size in enumerate(shape) if axis not in gone])


def follow_unsqueeze(call: Call) -> Dependence:
    axes = call.numbers(1, "axes")
    if axes is None:
        raise NotFollowedError
    rank = call.source.rank + len(axes)
    new, sizes = {axis % rank for axis in axes}, iter(call.source.shape)
    return reshape(call.source, [1 if axis in new else next(sizes) for axis in range(rank)])


def follow_expand(call: Call) -> Dependence:
    sizes = call.numbers(1)
    if sizes is None:
        raise NotFollowedError
    return spread(call.source, np.broadcast_shapes(call.source.shape, tuple(sizes)))


def follow_tile(call: Call) -> Dependence:
    result, repeats = call.source, call.numbers(1)
    if repeats is None:
        raise NotFollowedError
    for axis, count in enumerate(repeats):
        result = sample(result, axis, np.tile(np.arange(result.shape[axis]), count)[:, np.newaxis])
    return result


def follow_depth_to_space(call: Call) -> Dependence:
    batch, channels, height, width = call.source.shape
    factor = call.number("blocksize", 1)
    narrow = channels // factor**2
    if call.text("mode", "DCR") == "DCR":
        blocks, order = (batch, factor, factor, narrow, height, width), (0, 3, 4, 1, 5, 2)
    else:
        blocks, order = (batch, narrow, factor, factor, height, width), (0, 1, 4, 2, 5, 3)
    turned = transpose(reshape(call.source, blocks), order)
    return reshape(turned, (batch, narrow, height * factor, width * factor))


def follow_space_to_depth(call: Call) -> Dependence:
    batch, channels, height, width = call.source.shape
    factor = call.number("blocksize", 1)
    blocks = reshape(call.source, (batch, channels, height // factor, factor, width // factor, factor))
    turned = transpose(blocks, (0, 3, 5, 1, 2, 4))
    return reshape(turned, (batch, channels * factor**2, height // factor, width // factor))
