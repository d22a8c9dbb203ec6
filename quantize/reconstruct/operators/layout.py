"""ONNX operators in torch that move values, and those that compute sizes and indices (https://onnx.ai/onnx/operators/)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F  # noqa: N812 # the field's name for it

from export.graph.attributes import attribute
from quantize.reconstruct.operators.operator import Given, Operator, Tensor, integers, needed, present


def _axes(node: ir.Node, given: Given, index: int) -> list[int] | None:
    """Axes are an attribute in older opsets, an input in newer ones."""
    tensor = present(given, index)
    if tensor is not None:
        return integers(tensor)
    return list(attribute(node, "axes", [])) or None


def _concat(node: ir.Node, given: Given) -> Tensor:
    return torch.cat([needed(given, index) for index in range(len(given))], dim=attribute(node, "axis", 0))


def _split(node: ir.Node, given: Given) -> Sequence[Tensor]:
    value, axis, sizes = needed(given), attribute(node, "axis", 0), present(given, 1)
    if sizes is not None or "split" in node.attributes:
        return torch.split(value, integers(sizes) if sizes is not None else list(attribute(node, "split", [])), dim=axis)
    return torch.split(value, -(-value.shape[axis] // len(node.outputs)), dim=axis)


def _slice(node: ir.Node, given: Given) -> Tensor:
    value = needed(given)
    if len(given) > 1:
        starts, ends, steps = integers(needed(given, 1)), integers(needed(given, 2)), present(given, 4)
    else:
        starts, ends, steps = list(attribute(node, "starts", [])), list(attribute(node, "ends", [])), None
    axes = _axes(node, given, 3) or list(range(len(starts)))
    by = integers(steps) if steps is not None else [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, by, strict=True):
        size = value.shape[axis]
        chosen = np.arange(size)[slice(start, None if step < 0 and end < -size else end, step)]
        value = value.index_select(axis, torch.from_numpy(chosen.copy()))
    return value


def _gather(node: ir.Node, given: Given) -> Tensor:
    value, places, axis = needed(given, 0), needed(given, 1).long(), attribute(node, "axis", 0)
    places = torch.where(places < 0, places + value.shape[axis], places)
    axis %= value.ndim
    return value.index_select(axis, places.reshape(-1)).reshape([*value.shape[:axis], *places.shape, *value.shape[axis + 1 :]])


def _transpose(node: ir.Node, given: Given) -> Tensor:
    value = needed(given)
    return value.permute(list(attribute(node, "perm", list(range(value.ndim))[::-1])))


def _reshape(node: ir.Node, given: Given) -> Tensor:
    value, sizes = needed(given), integers(needed(given, 1))
    if not attribute(node, "allowzero", 0):
        sizes = [value.shape[index] if size == 0 else size for index, size in enumerate(sizes)]
    return value.reshape(sizes)


def _flatten(node: ir.Node, given: Given) -> Tensor:
    value, axis = needed(given), attribute(node, "axis", 1)
    axis += value.ndim * (axis < 0)
    return value.reshape(int(np.prod(value.shape[:axis])), -1)


def _squeeze(node: ir.Node, given: Given) -> Tensor:
    value, axes = needed(given), _axes(node, given, 1)
    return value.squeeze() if axes is None else value.squeeze(axes)


def _unsqueeze(node: ir.Node, given: Given) -> Tensor:
    value, axes = needed(given), _axes(node, given, 1) or []
    rank = value.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        value = value.unsqueeze(axis)
    return value


def _expand(_: ir.Node, given: Given) -> Tensor:
    value = needed(given)
    return value.expand(np.broadcast_shapes(value.shape, tuple(integers(needed(given, 1)))))


def _tile(_: ir.Node, given: Given) -> Tensor:
    return needed(given).repeat(integers(needed(given, 1)))


def _pad(node: ir.Node, given: Given) -> Tensor:
    """Before opset 11 what is padded is an attribute, since 18 on some axes alone."""
    value, fill, mode = needed(given), present(given, 2), attribute(node, "mode", "constant")
    pads = integers(needed(given, 1)) if len(given) > 1 else list(attribute(node, "pads", []))
    axes = integers(needed(given, 3)) if present(given, 3) is not None else list(range(value.ndim))
    by_axis = dict(zip((axis % value.ndim for axis in axes), zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))
    if mode == "constant":
        number = attribute(node, "value", 0.0) if fill is None else fill.item()
        pairs = [by_axis.get(axis, (0, 0)) for axis in reversed(range(value.ndim))]
        return F.pad(value, list(itertools.chain(*pairs)), value=number)
    for axis, (before, after) in by_axis.items():
        places = _padded(value.shape[axis], before, after, mode)
        value = value.index_select(axis, torch.from_numpy(places))
    return value


def _padded(size: int, before: int, after: int, mode: str) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return which of `size` places each one of the padded axis repeats."""
    places = np.arange(-before, size + after)
    if mode == "edge":
        return places.clip(0, size - 1)
    if mode == "wrap":
        return places % size
    period = max(2 * (size - 1), 1)
    folded = places % period
    return np.where(folded < size, folded, period - folded)


def _depth_to_space(node: ir.Node, given: Given) -> Tensor:
    value, block = needed(given), attribute(node, "blocksize", 1)
    if attribute(node, "mode", "DCR") == "CRD":
        return F.pixel_shuffle(value, block)
    n, c, h, w = value.shape
    return F.pixel_shuffle(value.reshape(n, block * block, c // block**2, h, w).transpose(1, 2).reshape(n, c, h, w), block)


def _space_to_depth(node: ir.Node, given: Given) -> Tensor:
    value, block = needed(given), attribute(node, "blocksize", 1)
    n, c, h, w = value.shape
    blocks = value.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * block**2, h // block, w // block)


def _shape(node: ir.Node, given: Given) -> Tensor:
    return torch.tensor(needed(given).shape[attribute(node, "start", 0) : attribute(node, "end", None)])


def _constant(node: ir.Node, _: Given) -> Tensor:
    (given,) = node.attributes.values()
    values = given.as_tensor().numpy() if given.name == "value" else np.asarray(given.value)
    tensor = torch.from_numpy(np.array(values))
    return tensor.float() if tensor.is_floating_point() else tensor


def _constant_of_shape(node: ir.Node, given: Given) -> Tensor:
    fill = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else np.zeros(1, np.float32)
    return torch.full(integers(needed(given)), fill.item(), dtype=torch.from_numpy(np.array(fill)).dtype)


def _range(_: ir.Node, given: Given) -> Tensor:
    start, limit, step = (needed(given, index).item() for index in range(3))
    return torch.arange(start, limit, step, dtype=needed(given).dtype)


OPERATORS: Mapping[str, Operator] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": lambda _, given: torch.tensor(needed(given).numel()),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
