"""Checks the bytes of an ONNX graph before a backend or onnx sees them, and refuses what could read or run anything else.

Backends do far more with a file than this project's graphs need: they read external data from the process's folder, loop for ever,
load compiled code, and take the formats of other frameworks. A graph of a bundle is in normal form: one graph of operators of the
ONNX standard, constants as initializers that hold their own values, one picture in and one out.

The file is protobuf's wire format: fields of a number, a type and a value, one after the other, messages within messages. This
reader knows which fields a message of the normal form has, and refuses all others, a field twice that may be there once, and sizes
that do not add up. Messages of the normal form do not contain themselves, so that its depth is fixed; values of tensors are
skipped, not copied. https://protobuf.dev/programming-guides/encoding/ and
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from runtime.bundle.graph_messages import (
    ATTRIBUTE,
    BITS,
    BYTES,
    GRAPH,
    INT32_DATA,
    MODEL,
    NODE,
    OPSET,
    RAW_DATA,
    SHAPE,
    SIDE,
    TENSOR,
    TENSOR_TYPE,
    TYPE,
    VALUE,
    VALUES,
    VARINT,
    Message,
)
from runtime.errors import BundleError

MOST_NODES = 1 << 16  # ten times the largest super-resolution transformer
_MOST_FIELDS = 1 << 22  # seconds of reading
_MOST_SIDE = 1 << 31
_MOST_ELEMENTS = 1 << 33
_STANDARD = (b"", b"ai.onnx")

_SIGN = 1 << 63

Span = tuple[int, int]


def check_graph_bytes(data: bytes, *, what: str) -> None:
    """Reads `data`, said to be a serialized ModelProto in normal form; `what` names it in errors.

    Raises:
        BundleError: it is none, or says what no graph of this project says.
    """
    _Reader(data, what).check_model()


class _Reader:
    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._fields_left = _MOST_FIELDS

    def check_model(self) -> None:
        graph, opsets = None, 0
        for number, start, stop in self._fields(MODEL, (0, len(self._data))):
            if number == 7:
                graph = (start, stop)
            elif number == 8:
                opsets += 1
                self._check_opset((start, stop))
        if graph is None or not opsets:
            raise self._refuse("is no ONNX model: it has no graph, or no operator set")
        self._check_graph(graph)

    def _check_opset(self, span: Span) -> None:
        for number, start, stop in self._fields(OPSET, span):
            if number == 1:
                self._check_domain(start, stop)

    def _check_domain(self, start: int, stop: int) -> None:
        if self._data[start:stop] not in _STANDARD:
            raise self._refuse(f"has operators of {self._text(start, stop)}; expected those of the ONNX standard alone")

    def _check_graph(self, span: Span) -> None:
        nodes = ends = 0
        for number, start, stop in self._fields(GRAPH, span):
            if number == 1:
                nodes += 1
                if nodes > MOST_NODES:
                    raise self._refuse(f"has more than {MOST_NODES} operators")
                self._check_node((start, stop))
            elif number == 5:
                self._check_tensor((start, stop))
            elif number in (11, 12, 13):
                ends += number != 13
                self._check_value((start, stop))
        if not nodes or ends < 2:
            raise self._refuse(f"has {nodes} operators and {ends} inputs and outputs, expected one of each at least")

    def _check_node(self, span: Span) -> None:
        for number, start, stop in self._fields(NODE, span):
            if number == 5:
                self._check_attribute((start, stop))
            elif number == 7:
                self._check_domain(start, stop)

    def _check_attribute(self, span: Span) -> None:
        for number, start, stop in self._fields(ATTRIBUTE, span):
            if number == 5:
                self._check_tensor((start, stop))

    def _check_value(self, span: Span) -> None:
        for number, start, stop in self._fields(VALUE, span):
            if number == 2:
                self._check_type((start, stop))

    def _check_type(self, span: Span) -> None:
        for number, start, stop in self._fields(TYPE, span):
            if number == 1:
                for inner, begin, end in self._fields(TENSOR_TYPE, (start, stop)):
                    if inner == 2:
                        self._check_shape((begin, end))

    def _check_shape(self, span: Span) -> None:
        elements = 1
        for _, start, stop in self._fields(SHAPE, span):
            for number, value, _ in self._fields(SIDE, (start, stop)):
                if number == 1:
                    elements *= max(self._side(value), 1)
        if elements > _MOST_ELEMENTS:
            raise self._refuse(f"has a tensor of {elements} elements, expected {_MOST_ELEMENTS} at most")

    def _check_tensor(self, span: Span) -> None:
        """Its values are in it, and as many as its shape says."""
        elements, kind, values = 1, 0, {}
        for number, start, stop in self._fields(TENSOR, span):
            if number == 1:
                for side in (start,) if stop < 0 else self._varints(start, stop):
                    elements *= self._side(side)
            elif number == 2:
                kind = start
            elif number == 14:
                if start != 0:
                    raise self._refuse("has external data, which a bundle's graph has not")
            elif number in (4, 5, 7, 9, 10, 11):
                values[number] = (start, stop)
        if kind not in BITS:
            raise self._refuse(f"has a tensor of type {kind}, which no graph here has")
        size = math.ceil(elements * BITS[kind] / 8)
        expected = {RAW_DATA: size, 4: size, 10: size}
        count = math.ceil(elements / 2) if BITS[kind] == 4 else elements
        own = VALUES.get(kind, INT32_DATA)
        if set(values) - {own, RAW_DATA} or len(values) > 1:
            raise self._refuse("has a tensor with values of another type than its own")
        for field, (start, stop) in values.items():
            found = stop - start if field in expected else self._count_varints(start, stop)
            if found != expected.get(field, count):
                raise self._refuse(f"has a tensor of {elements} elements with values for {found}")
        if not values and elements:
            raise self._refuse(f"has a tensor of {elements} elements without values")

    def _side(self, value: int) -> int:
        if value > _MOST_SIDE:
            raise self._refuse(f"has a tensor with a side of {value if value < _SIGN else value - 2 * _SIGN}")
        return value

    def _count_varints(self, start: int, stop: int) -> int:
        if start == stop:
            return 0
        if self._data[stop - 1] > 0x7F:
            raise self._refuse("is no ONNX model: a number is cut off")
        return int(np.count_nonzero(np.frombuffer(self._data, np.uint8, stop - start, start) < 0x80))

    def _varints(self, start: int, stop: int) -> Iterator[int]:
        while start < stop:
            value, start = self._varint(start, stop)
            yield value

    def _fields(self, message: Message, span: Span) -> Iterator[tuple[int, int, int]]:
        """Each field's number, with its value and -1 where that is a varint, else with where its bytes start and stop."""
        data, tags, once = self._data, message.tags, message.once
        position, stop = span
        seen = 0
        while position < stop:
            tag = data[position]
            position += 1
            if tag > 0x7F:
                tag, position = self._varint(position - 1, stop)
            number, kind = tag >> 3, tag & 7
            self._fields_left -= 1
            if tag not in tags or seen & 1 << number or not self._fields_left:
                raise self._unexpected(message, number, kind, again=bool(tag in tags and seen & 1 << number))
            seen |= once & 1 << number
            if kind == VARINT:
                value, position = self._varint(position, stop)
                yield number, value, -1
                continue
            length = 4
            if kind == BYTES:
                length, position = self._varint(position, stop)
            if length > stop - position:
                raise self._refuse("is no ONNX model: a field ends beyond what holds it")
            yield number, position, position + length
            position += length

    def _varint(self, position: int, stop: int) -> tuple[int, int]:
        """The number that begins at `position`, 64 bits without a sign, and where it ends."""
        value = shift = 0
        while position < stop and shift < 70:
            byte = self._data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (2 * _SIGN - 1), position
            shift += 7
        raise self._refuse("is no ONNX model: a number is cut off")

    def _unexpected(self, message: Message, number: int, kind: int, *, again: bool) -> BundleError:
        if not self._fields_left:
            return self._refuse(f"has more than {_MOST_FIELDS} fields")
        if number in message.refused:
            return self._refuse(f"has {message.refused[number]}, which a bundle's graph has not")
        twice = ", twice" if again else ""
        return self._refuse(
            f"is no ONNX model that this project writes: a {message.name} with field {number} of type {kind}{twice}"
        )

    def _text(self, start: int, stop: int) -> str:
        return repr(self._data[start : min(stop, start + 64)].decode(errors="replace"))

    def _refuse(self, why: str) -> BundleError:
        return BundleError(f"{self._what} {why}", hint="export the network again; do not run a bundle that you cannot account for")
