"""Read protobuf's wire format from untrusted bytes: one field after the other, each with its number, type and value.

A message has the fields that its `Message` names and no others, a field of one value is there once, and nothing ends beyond what
holds it. Values are not copied. https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..errors import BundleError
from .graph_messages import BYTES, VARINT, Message

SIGN = 1 << 63
"""Negative numbers are written as 2^64 less themselves."""
_MOST_FIELDS = 1 << 22  # seconds of reading

Span = tuple[int, int]


class WireReader:
    """Reads `data`, which `what` names in errors.

    Every method raises BundleError where the bytes are not what was expected.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self.data = data
        self._what = what
        self._fields_left = _MOST_FIELDS

    def fields(self, message: Message, span: Span) -> Iterator[tuple[int, int, int]]:
        """Yield each field's number, with its value and -1 where that is a varint, else with where its bytes start and stop."""
        data, tags, once = self.data, message.tags, message.once
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
                raise self.refuse("is no ONNX model: a field ends beyond what holds it")
            if message.text & 1 << number:
                self._check_text(position, position + length)
            yield number, position, position + length
            position += length

    def numbers(self, value: int, stop: int) -> Iterator[int]:
        """Yield the numbers of a repeated field as `fields` gives it: one, or several in a row."""
        if stop < 0:
            yield value
        while value < stop:
            number, value = self._varint(value, stop)
            yield number

    def count_numbers(self, start: int, stop: int) -> int:
        """Return how many there are in a row."""
        if start == stop:
            return 0
        if self.data[stop - 1] > 0x7F:
            raise self.refuse("is no ONNX model: a number is cut off")
        return int(np.count_nonzero(np.frombuffer(self.data, np.uint8, stop - start, start) < 0x80))

    def text(self, start: int, stop: int) -> str:
        """Return what an error quotes of a name."""
        return repr(self.data[start : min(stop, start + 64)].decode(errors="replace"))

    def refuse(self, why: str) -> BundleError:
        return BundleError(f"{self._what} {why}", hint="export the network again; do not run a bundle that you cannot account for")

    def _check_text(self, start: int, stop: int) -> None:
        """openvino's own errors quote names, and Python cannot read those that are no UTF-8."""
        text = self.data[start:stop]
        if not text.isascii():
            try:
                text.decode()
            except UnicodeDecodeError as error:
                raise self.refuse("is no ONNX model: a name is not UTF-8") from error

    def _varint(self, position: int, stop: int) -> tuple[int, int]:
        """Return the number that begins at `position`, 64 bits without a sign, and where it ends."""
        value = shift = 0
        while position < stop and shift < 70:
            byte = self.data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (2 * SIGN - 1), position
            shift += 7
        raise self.refuse("is no ONNX model: a number is cut off")

    def _unexpected(self, message: Message, number: int, kind: int, *, again: bool) -> BundleError:
        if not self._fields_left:
            return self.refuse(f"has more than {_MOST_FIELDS} fields")
        if number in message.refused:
            return self.refuse(f"has {message.refused[number]}, which a bundle's graph has not")
        field = f"field {number} of type {kind}{', twice' if again else ''}"
        return self.refuse(f"is no ONNX model that this project writes: a {message.name} with {field}")
