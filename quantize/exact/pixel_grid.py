"""Put the first and the last quantizer on the picture's own 8-bit values, scale 1/255: the input is then exact.

A picture is 8-bit already, so that its quantizer then rounds nothing, and the rounding at the end is the one any picture needs.
Where a mean is taken off first, x - m would lie between the codes. It moves into the convolution behind:

    W * (A x + t)  =  [W A | W t] * [x ; 1]

with a channel of ones. Zero padding pads it too, so that borders come out right, which a bias would not do.
A symmetric scheme has no code for 255: the picture is shifted by 128/255 on the way in and back on the way out, the shift is one
more offset in t and in the last convolution's bias, and codes -128 to 127 are the picture's. Where scales are powers of two, the
picture is brought to scale 1/256 on the way in and back on the way out, by a factor that the same convolutions take in. With 16
bits the picture stays as it is: there are 128 codes to each of its values, symmetric or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.constants import constant_input, new_constant, replace_constant
from quantize.graph.operators import activations
from quantize.graph.placement import moved_chain
from quantize.graph.qdq import ActivationRange
from runtime.targets import Target

_FINER = 128  # codes of 16 bits for each of the picture's


@dataclass(frozen=True)
class _Grid:
    """Codes 0 to 255 of the picture, less `offset` codes, at a scale of `step`."""

    step: float
    offset: int
    highest: float = 255.0
    """The picture's value that the last code stands for."""

    @property
    def gain(self) -> float:
        """What the picture's values, 1/255 a code, are multiplied by."""
        return self.step * 255

    @property
    def shift(self) -> float:
        """What is then taken off."""
        return self.step * self.offset

    @property
    def range(self) -> ActivationRange:
        return -self.shift, self.step * self.highest - self.shift

    @property
    def moves(self) -> bool:
        """Whether the picture is not on it as it is."""
        return self.gain != 1.0 or self.offset != 0


MadeOf = tuple[str, float, float, float]


@dataclass(frozen=True)
class PixelGrid:
    """What became of the ends of a graph.

    Attributes:
        ranges: of the tensors on the grid, by name; they need no measuring.
        merged_layers: convolutions that the next one now does the work of.
        made_of: of a tensor that is new, what it is made of: the one it comes from, what that is multiplied by, what is added, and
            the constant of the channel appended.
    """

    ranges: Mapping[str, ActivationRange] = field(default_factory=dict)
    merged_layers: tuple[str, ...] = ()
    made_of: Mapping[str, MadeOf] = field(default_factory=dict)


def align_ends(model: ir.Model, target: Target) -> PixelGrid:
    """Rewrite `model` in place so that both ends lie on the grid, as far as its shape allows; the network stays the same."""
    graph = model.graph
    picture = graph.inputs[0]
    if target.has_wide_codes:
        grid = _Grid(1 / 255, 0, highest=np.iinfo(target.activation_dtype).max / _FINER)
    else:
        grid = _Grid(1 / 256 if target.power_of_two_scales else 1 / 255, 128 if target.activation_symmetric else 0)
    ranges: dict[str, ActivationRange] = {}
    merged, made_of = _align_input(graph, picture, grid, ranges)
    if grid.moves:
        _align_output(graph, target, grid, ranges)
    else:
        ranges[str(picture.name)] = grid.range
        ranges.update({str(value.name): grid.range for end in graph.outputs for value in moved_chain(end, target)})
    graph.sort()
    return PixelGrid(ranges, merged, made_of)


def _align_input(
    graph: ir.Graph, picture: ir.Value, grid: _Grid, ranges: dict[str, ActivationRange]
) -> tuple[tuple[str, ...], dict[str, MadeOf]]:
    readers = [use.node for use in picture.uses()]
    mean = readers[0] if len(readers) == 1 and (_is_pointwise(readers[0]) or _added_constant(readers[0]) is not None) else None
    source = picture if mean is None else mean.outputs[0]
    convolutions = [use.node for use in source.uses()]
    if not convolutions or not all(_takes_a_channel(node) for node in convolutions) or source.is_graph_output():
        return (), {}
    channels = constant_input(convolutions[0], 1).shape[1]
    added = None if mean is None else _added_constant(mean)
    matrix = np.eye(channels) if mean is None or added is not None else constant_input(mean, 1)[:, :, 0, 0].astype(np.float64)
    offset = np.zeros(channels)
    if added is not None:
        if added.size not in (1, channels):
            return (), {}
        offset = offset + added
    elif mean is not None and len(mean.inputs) > 2:
        offset = constant_input(mean, 2).astype(np.float64)
    matrix = matrix / grid.gain
    offset = offset + matrix @ np.full(matrix.shape[1], grid.shift)
    if not offset.any():
        return (), {}
    moved = _scaled(graph, picture, grid.gain, name="input.scaled")
    moved = _added(graph, moved, -grid.shift, name="input.shifted")
    one = grid.range[1]  # the largest code there is
    padded = _append_channel(graph, moved, one)
    ranges.update(dict.fromkeys((str(moved.name), str(padded.name)), grid.range))
    for node in convolutions:
        weight = constant_input(node, 1).astype(np.float64)
        mixed = np.einsum("oihw,ij->ojhw", weight, matrix)
        ones = np.einsum("oihw,i->ohw", weight, offset)[:, np.newaxis] / one
        node.replace_input_with(0, padded)
        replace_constant(node, 1, np.concatenate([mixed, ones], axis=1))
    made_of = {str(padded.name): (str(picture.name), grid.gain, -grid.shift, one)}
    if mean is None:
        return (), made_of
    graph.remove(mean, safe=True)
    return (() if added is not None else (str(mean.name),)), made_of


def _align_output(graph: ir.Graph, target: Target, grid: _Grid, ranges: dict[str, ActivationRange]) -> None:
    """The last convolution writes y · gain - shift; after the quantizer that is undone in float."""
    end = graph.outputs[0]
    chain = moved_chain(end, target)
    clip = chain[-1].producer()
    writer = clip if clip is None or not _clips_by_numbers(clip) else activations(clip)[0].producer()
    moves = [value.producer() for value in chain[:-1]]
    if writer is None or writer.op_type != "Conv" or any(len(list(value.uses())) > 1 for value in chain):
        return
    if writer is not clip and (len(list(writer.outputs[0].uses())) > 1 or writer.outputs[0].is_graph_output()):
        return
    if any(move is None or move.op_type == "Pad" for move in moves):
        return  # what it pads with would have to be shifted too
    name = str(end.name)
    bias = constant_input(writer, 2) if len(writer.inputs) > 2 else np.zeros(constant_input(writer, 1).shape[0], np.float32)
    if len(writer.inputs) < 3:
        writer.resize_inputs(3)
    weight = (constant_input(writer, 1) * grid.gain).astype(np.float32)
    shifted_bias = (bias * grid.gain - grid.shift).astype(np.float32)
    writer.replace_input_with(1, new_constant(graph, weight, name=f"{writer.name}.weight.scaled"))
    writer.replace_input_with(2, new_constant(graph, shifted_bias, name=f"{writer.name}.bias.shifted"))
    if clip is not None and clip is not writer:
        _shift_bounds(graph, clip, grid)
    end.name = f"{name}.shifted"
    restored = _added(graph, end, grid.shift, name=f"{name}.unshifted")
    restored = _scaled(graph, restored, 1 / grid.gain, name=f"{name}.unscaled")
    restored.name = name
    graph.outputs[0] = restored
    ranges.update({str(value.name): grid.range for value in chain})


def _clips_by_numbers(node: ir.Node) -> bool:
    return node.op_type == "Clip" and all(bound is None or bound.const_value is not None for bound in node.inputs[1:])


def _shift_bounds(graph: ir.Graph, clip: ir.Node, grid: _Grid) -> None:
    finite = np.finfo(np.float32)
    for index, bound in enumerate(clip.inputs):
        if index and bound is not None:
            number = constant_input(clip, index).astype(np.float64) * grid.gain - grid.shift
            moved = np.clip(number, finite.min, finite.max).astype(np.float32)
            clip.replace_input_with(index, new_constant(graph, moved, name=f"{clip.name}.bound{index}.shifted"))


def _scaled(graph: ir.Graph, value: ir.Value, gain: float, *, name: str) -> ir.Value:
    return value if gain == 1.0 else _with_number(graph, "Mul", value, gain, name=name)


def _added(graph: ir.Graph, value: ir.Value, shift: float, *, name: str) -> ir.Value:
    return value if shift == 0.0 else _with_number(graph, "Add", value, shift, name=name)


def _with_number(graph: ir.Graph, op_type: str, value: ir.Value, number: float, *, name: str) -> ir.Value:
    node = ir.node(op_type, [value, new_constant(graph, np.array(number, np.float32), name=f"{name}.by")], name=name)
    return _insert(graph, node, name=name, like=value)


def _append_channel(graph: ir.Graph, value: ir.Value, one: float) -> ir.Value:
    """[value ; one], by padding the channels: an operator that only moves data."""
    name = f"{value.name}.and_one"
    pads = new_constant(graph, np.array([0, 0, 0, 0, 0, 1, 0, 0], np.int64), name=f"{name}.pads")
    fill = new_constant(graph, np.array(one, np.float32), name=f"{name}.fill")
    padded = _insert(graph, ir.node("Pad", [value, pads, fill], name=name), name=name, like=value)
    if value.shape is not None and isinstance(value.shape[1], int):
        padded.shape = ir.Shape([value.shape[0], value.shape[1] + 1, *value.shape[2:]])
    return padded


def _insert(graph: ir.Graph, node: ir.Node, *, name: str, like: ir.Value) -> ir.Value:
    made = node.outputs[0]
    made.name, made.type, made.shape = name, like.type, like.shape
    graph.append(node)
    return made


def _is_pointwise(node: ir.Node) -> bool:
    """Return a 1×1 convolution from the picture's colours to as many: a mean taken off, or a change of colours."""
    if node.op_type != "Conv" or node.inputs[1] is None or node.inputs[1].const_value is None:
        return False
    shape = constant_input(node, 1).shape
    strides = node.attributes["strides"].as_ints() if "strides" in node.attributes else ()
    plain = not _pads(node) and all(stride == 1 for stride in strides)
    return shape[0] == shape[1] and shape[2:] == (1, 1) and plain and not node.outputs[0].is_graph_output()


def _added_constant(node: ir.Node) -> NDArray[np.float64] | None:
    """Return what `node` adds to a picture, a number or one per channel; None where it does something else."""
    if node.op_type not in ("Add", "Sub") or node.outputs[0].is_graph_output():
        return None
    index = next((index for index, value in enumerate(node.inputs) if value is not None and value.const_value is not None), None)
    if index is None or (node.op_type == "Sub" and index == 0):
        return None
    array = constant_input(node, index).astype(np.float64)
    if array.size > 1 and (array.ndim < 3 or array.shape[-2:] != (1, 1) or array.shape[-3] != array.size):
        return None
    return array.reshape(-1) * (1 if node.op_type == "Add" else -1)


def _takes_a_channel(node: ir.Node) -> bool:
    """Return a convolution whose weight is its own and may get one input channel more."""
    weight = node.inputs[1] if node.op_type == "Conv" else None
    grouped = "group" in node.attributes and node.attributes["group"].as_int() != 1
    return weight is not None and weight.const_value is not None and len(list(weight.uses())) == 1 and not grouped


def _pads(node: ir.Node) -> bool:
    return "pads" in node.attributes and any(node.attributes["pads"].as_ints())
