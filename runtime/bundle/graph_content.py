"""Read what a checked ONNX graph says: serialized bytes in, its operators and constants as numpy out.

For a backend that has no ONNX reader, on a device without the onnx package. `check_graph_bytes` refuses hostile bytes before;
constants of float32 and float16 are views of the graph's bytes, so that a large network's weights are in memory once.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError
from .graph_messages import ATTRIBUTE, GRAPH, MODEL, NODE, OPSET, RAW_DATA, SHAPE, SIDE, TENSOR, TENSOR_TYPE, TYPE, VALUE
from .wire import SIGN, Span, WireReader

Array = NDArray[Any]
Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | Array

_BFLOAT16 = 16
_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8", 12: "<u4", 13: "<u8"}
_EMPTY: dict[int, Attribute] = {1: 0.0, 2: 0, 3: "", 6: (), 7: (), 8: ()}  # by AttributeProto.AttributeType
_INT32_DATA, _FLOAT_DATA, _DOUBLE_DATA = 5, 4, 10


@dataclass(frozen=True)
class Node:
    """One operator. An input left out is an empty name."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True)
class GraphContent:
    """A graph of one input and one output.

    Attributes:
        input_shape: of the input; None for a side that is not fixed.
        input_type: ONNX's number of its element type; 1 is float32.
        constants: by name; bfloat16 as float32, which holds each of its values.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    input: str
    input_shape: tuple[int | None, ...]
    input_type: int
    output: str
    opset: int


def read_graph_content(data: bytes) -> GraphContent:
    """Read a serialized ModelProto.

    Raises:
        BundleError: it is no graph of one input and one output that a bundle may hold.
    """
    reader = WireReader(data, "the graph")
    span, opset = (0, 0), 0
    for number, start, stop in reader.fields(MODEL, (0, len(data))):
        if number == 7:
            span = (start, stop)
        elif number == 8:
            opset = max(opset, *(value for field, value, _ in reader.fields(OPSET, (start, stop)) if field == 2))
    nodes: list[Node] = []
    constants: dict[str, Array] = {}
    inputs: list[Span] = []
    outputs: list[Span] = []
    for number, start, stop in reader.fields(GRAPH, span):
        if number == 1:
            nodes.append(_node(reader, (start, stop)))
        elif number == 5:
            name, constants[name] = _tensor(reader, (start, stop))
        elif number == 11:
            inputs.append((start, stop))
        elif number == 12:
            outputs.append((start, stop))
    taken = [_value(reader, one) for one in inputs]
    taken = [one for one in taken if one[0] not in constants]
    given = [_value(reader, one) for one in outputs]
    if len(taken) != 1 or len(given) != 1:
        raise BundleError(f"the graph has {len(taken)} inputs and {len(given)} outputs, expected one of each")
    ((name, kind, shape),) = taken
    return GraphContent(tuple(nodes), constants, name, shape, kind, given[0][0], opset)


def _node(reader: WireReader, span: Span) -> Node:
    inputs, outputs, attributes = [], [], {}
    name = operator = ""
    for number, start, stop in reader.fields(NODE, span):
        if number == 5:
            key, value = _attribute(reader, (start, stop))
            attributes[key] = value
            continue
        text = reader.data[start:stop].decode()
        if number == 1:
            inputs.append(text)
        elif number == 2:
            outputs.append(text)
        elif number == 3:
            name = text
        elif number == 4:
            operator = text
    return Node(name or next(iter(outputs), ""), operator, tuple(inputs), tuple(outputs), attributes)


def _attribute(reader: WireReader, span: Span) -> tuple[str, Attribute]:
    name, kind = "", 0
    single: Attribute | None = None
    floats: list[float] = []
    integers: list[int] = []
    texts: list[str] = []
    for number, start, stop in reader.fields(ATTRIBUTE, span):
        if number == 1:
            name = reader.data[start:stop].decode()
        elif number == 2:
            (single,) = struct.unpack_from("<f", reader.data, start)
        elif number == 3:
            single = _signed(start)
        elif number == 4:
            single = reader.data[start:stop].decode(errors="replace")
        elif number == 5:
            single = _tensor(reader, (start, stop))[1]
        elif number == 7:
            floats.extend(np.frombuffer(reader.data, "<f4", (stop - start) // 4, start).tolist())
        elif number == 8:
            integers.extend(_signed(value) for value in reader.numbers(start, stop))
        elif number == 9:
            texts.append(reader.data[start:stop].decode(errors="replace"))
        elif number == 20:
            kind = start
    if single is not None:
        return name, single
    found: Attribute | None = tuple(floats) or tuple(integers) or tuple(texts) or None
    return name, found if found is not None else _EMPTY.get(kind, ())


def _tensor(reader: WireReader, span: Span) -> tuple[str, Array]:
    name, kind = "", 0
    shape: list[int] = []
    values: tuple[int, int, int] | None = None
    for number, start, stop in reader.fields(TENSOR, span):
        if number == 1:
            shape.extend(reader.numbers(start, stop))
        elif number == 2:
            kind = start
        elif number == 8:
            name = reader.data[start:stop].decode()
        elif number in (_FLOAT_DATA, _INT32_DATA, 7, RAW_DATA, _DOUBLE_DATA, 11):
            values = (number, start, stop)
    if kind not in _DTYPES and kind != _BFLOAT16:
        raise BundleError(f"the graph's constant {name!r} has ONNX's element type {kind}, which no float graph has")
    dtype = np.dtype("<u2" if kind == _BFLOAT16 else _DTYPES[kind])
    array: Array = np.zeros(0, dtype) if values is None else _numbers(reader, dtype, *values)
    if kind == _BFLOAT16:
        array = (array.astype("<u4") << 16).view("<f4")
    return name, array.reshape(shape)


def _numbers(reader: WireReader, dtype: np.dtype[Any], field: int, start: int, stop: int) -> Array:
    if field in (RAW_DATA, _FLOAT_DATA, _DOUBLE_DATA):
        return np.frombuffer(reader.data, dtype, (stop - start) // dtype.itemsize, start)
    integers = [_signed(value) for value in reader.numbers(start, stop)]
    if dtype == np.float16:  # int32_data holds its bits
        return np.array(integers, "<u2").view(dtype)
    return np.array(integers).astype(dtype)


def _value(reader: WireReader, span: Span) -> tuple[str, int, tuple[int | None, ...]]:
    """Return the name, the element type and the shape of an input or output."""
    name, kind = "", 0
    shape: list[int | None] = []
    for number, start, stop in reader.fields(VALUE, span):
        if number == 1:
            name = reader.data[start:stop].decode()
        elif number == 2:
            for _, begin, end in (field for field in reader.fields(TYPE, (start, stop)) if field[0] == 1):
                for field, first, last in reader.fields(TENSOR_TYPE, (begin, end)):
                    if field == 1:
                        kind = first
                        continue
                    for _, at, until in reader.fields(SHAPE, (first, last)):
                        sides = [value for part, value, _ in reader.fields(SIDE, (at, until)) if part == 1]
                        shape.append(sides[0] if sides else None)
    return name, kind, tuple(shape)


def _signed(value: int) -> int:
    return value if value < SIGN else value - 2 * SIGN
