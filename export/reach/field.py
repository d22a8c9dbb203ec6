"""Find the receptive field of a graph: how many pixels to each side decide an output pixel, and on which grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import onnx_ir as ir

from export.reach.dependence import Dependence
from export.reach.period import BorderError, Field, field_of
from export.reach.walk import WholePictureError, follow, walk

_LENGTHS = (96, 288, 960, 3840)  # of pictures, until one is so large that its borders leave its middle alone
_CERTAIN = 960  # of a picture that is not computed alike everywhere: what repeats at all repeats within 160 of its pixels
_ODD = 37  # pixels more: a size that is a multiple of nothing
_REMAINDERS = (1, 3, 6)  # multiples more: sizes that pads up to some other multiple fill otherwise
_BESIDE = 48  # pixels across: what is followed along one axis does not see the other
_MULTIPLES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64)  # of sizes that a border may depend on
_CHANNELS = 3
_SAME = ("step", "count", "inside", "front")  # at every size
_MOST_ALIGNMENT = 1024


@dataclass(frozen=True)
class ReceptiveField:
    """What a tile of a picture must read, and where it may start.

    Attributes:
        halo: input pixels around a tile, on every side, that its output depends on; "global" where that is all of them.
        alignment: tiles start at multiples of it.
        operator: where `halo` is "global", what makes it so.
    """

    halo: int | Literal["global"]
    alignment: int = 1
    operator: str = ""


def receptive_field(graph: ir.Graph, *, multiple_of: int = 1) -> ReceptiveField:
    """Return the receptive field of a graph of one (N, C, H, W) picture, whose sizes are multiples of `multiple_of`.

    A graph that is fixed to one size is followed at others where it can be, else at that size.
    """
    halo, alignment = 0, 1
    for axis in (2, 3):
        try:
            found, step = _along(graph, axis, multiple_of)
        except WholePictureError as error:
            return ReceptiveField("global", operator=str(error))
        halo, alignment = max(halo, found), math.lcm(alignment, step)
    if alignment > _MOST_ALIGNMENT:
        return ReceptiveField("global", operator=f"tiles would start at multiples of {alignment}")
    return ReceptiveField(halo, alignment)


def receptive_halo(graph: ir.Graph) -> tuple[int | Literal["global"], str]:
    """Return the halo alone, with the operator that makes it "global", else an empty name."""
    found = receptive_field(graph)
    return found.halo, found.operator


def _along(graph: ir.Graph, axis: int, multiple: int) -> tuple[int, int]:
    """Halo and alignment along one axis; WholePictureError where there are none."""
    try:
        return _at_free_sizes(graph, axis, multiple)
    except WholePictureError:
        fixed = _fixed_size(graph)
        if fixed is None:
            raise
        found = _look(graph, axis, fixed[axis - 2], beside=fixed[3 - axis])
        if not isinstance(found, Field):
            raise
        return found.halo, found.step


def _at_free_sizes(graph: ir.Graph, axis: int, multiple: int) -> tuple[int, int]:
    beside = _up(_BESIDE, multiple)
    length, usual = _clear_field(graph, axis, multiple, beside)
    step = math.lcm(usual.step, multiple)
    odd_length = _up(length + _ODD, multiple)
    sized = [f"{node.op_type} {node.name}" for node in graph if node.op_type in ("Shape", "Size")]
    others = [odd_length, _up(length, step), *(odd_length + more * multiple for more in _REMAINDERS if sized)]
    odd, *fields = (usual if other == length else _same_field(graph, axis, (other, length), beside, usual) for other in others)
    halo = max(field.halo for field in (usual, odd, *fields))
    if usual.step == 1 and not sized:
        return halo, 1  # nothing in it knows of the size
    for factor in _MULTIPLES:
        again = _look(graph, axis, odd_length + factor * step, beside=beside)
        if isinstance(again, Field) and again.back == odd.back:
            return max(halo, again.halo), usual.step if factor == 1 else factor * step
    raise WholePictureError(f"a border that depends on the size, {sized[0] if sized else 'by its strides'}")


def _clear_field(graph: ir.Graph, axis: int, multiple: int, beside: int) -> tuple[int, Field]:
    """Return the length of a picture whose borders leave its middle alone, and the output's field there."""
    for length in (_up(length, multiple) for length in _LENGTHS):
        field = _look(graph, axis, length, beside=beside)
        if isinstance(field, Field):
            return length, field
        if field is _Failure.UNEVEN and length >= _CERTAIN:
            raise WholePictureError(_first_uneven(graph, axis, (length,), beside))
    raise WholePictureError(f"{_first_uneven(graph, axis, (length,), beside)}: it looks further than {length // 3} pixels")


def _same_field(graph: ir.Graph, axis: int, lengths: tuple[int, int], beside: int, usual: Field) -> Field:
    """Return the output's field in a picture of the first of two lengths, which must be `usual`, that of the second."""
    field = _look(graph, axis, lengths[0], beside=beside)
    if not isinstance(field, Field) or any(getattr(usual, name) != getattr(field, name) for name in _SAME):
        raise WholePictureError(_first_uneven(graph, axis, lengths, beside))
    return field


class _Failure(Enum):
    SMALL = "the picture's borders reach its middle"
    UNEVEN = "the output is not computed alike everywhere"


def _look(graph: ir.Graph, axis: int, length: int, *, beside: int) -> Field | _Failure:
    """Return the field of the output at one size."""
    return _field(follow(graph, _shape(graph, axis, length, beside), axis), axis, length)


def _field(found: Dependence, axis: int, length: int) -> Field | _Failure:
    try:
        return field_of(found, axis, length) or _Failure.UNEVEN
    except BorderError:
        return _Failure.SMALL


def _shape(graph: ir.Graph, axis: int, length: int, beside: int) -> tuple[int, int, int, int]:
    declared = graph.inputs[0].shape
    channels = _CHANNELS if declared is None or not isinstance(declared[1], int) else declared[1]
    return (1, channels, length, beside) if axis == 2 else (1, channels, beside, length)


def _fixed_size(graph: ir.Graph) -> tuple[int, int] | None:
    declared = graph.inputs[0].shape
    if declared is None or len(declared) != 4:
        return None
    height, width = declared[2], declared[3]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _first_uneven(graph: ir.Graph, axis: int, lengths: tuple[int, ...], beside: int) -> str:
    """Return the first operator whose output is not computed alike everywhere, or not so at all of those sizes.

    Else the last one.
    """
    walks = [walk(graph, _shape(graph, axis, length, beside), axis) for length in lengths]
    name = ""
    for tensors in zip(*walks, strict=True):
        node = tensors[0][0].producer()
        assert node is not None
        name = f"{node.op_type} {node.name}"
        found = [
            _field(dependence, axis, length)
            for (_, dependence), length in zip(tensors, lengths, strict=True)
            if isinstance(dependence, Dependence) and _is_picture(dependence, axis)
        ]
        if _Failure.UNEVEN in found or (len(lengths) > 1 and _Failure.SMALL in found):
            break
        if len({(field.inside, field.front) for field in found if isinstance(field, Field)}) > 1:
            break
    return name


def _is_picture(found: Dependence, axis: int) -> bool:
    """Return whether it looks like (1, C, H, W): windows of attention do not."""
    return found.rank == 4 and found.shape[0] == 1 and found.varies(axis)


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
