"""Check an ONNX graph before a backend or onnx parses it: bytes in, nothing out; raise where they could do harm when parsed.

Backends do far more with a file than this project's graphs need: they read external data from the process's folder, loop for ever,
load compiled code, and take the formats of other frameworks. A graph of a bundle is in normal form: one graph of operators of the
ONNX standard, each after those whose results it reads (openvino hangs on a cycle), constants as initializers that hold their own
values, and kernels, pads and tensors of no more than bounded size. This reader refuses all else: operators and fields that it does
not know, and tensors whose bytes are more or fewer than their shape asks for.
"""

from __future__ import annotations

import math

import numpy as np

from .graph_messages import (
    ATTRIBUTE,
    BITS,
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
)
from .wire import SIGN, Span, WireReader

_MOST_NODES = 1 << 16  # ten times the largest super-resolution transformer
_MOST_SIDE = 1 << 31
_MOST_ELEMENTS = 1 << 28  # 1 GiB of floats
_MOST_PADDING = 1 << 12  # pixels; and of kernels, strides and dilations
_STANDARD = (b"", b"ai.onnx")
_SPATIAL = (b"pads", b"kernel_shape", b"strides", b"dilations", b"output_padding", b"blocksize")
_MOST_REPEATS = 1 << 12  # 64 times each way
# Operators whose input of that index says how large their output is, and the most that the product of its numbers may be.
_SIZED_BY = {
    b"ConstantOfShape": {0: _MOST_ELEMENTS},
    b"Expand": {1: _MOST_ELEMENTS},
    b"OneHot": {1: _MOST_ELEMENTS},
    b"Range": {0: _MOST_ELEMENTS, 1: _MOST_ELEMENTS},
    b"Resize": {2: _MOST_REPEATS, 3: _MOST_ELEMENTS},
    b"Tile": {1: _MOST_REPEATS},
    b"Upsample": {1: _MOST_REPEATS},
}
_FEW = 64  # elements of a tensor that says a size
_NUMBERS = {1: "<f4", 6: "<i4", 7: "<i8"}
_PACKED = (RAW_DATA, 4, 10)  # values of so many bytes each; the others are varints

Numbers = tuple[float, ...]


def check_graph_bytes(data: bytes, *, what: str) -> None:
    """Read `data`, said to be a serialized ModelProto in normal form; `what` names it in errors.

    Raises:
        BundleError: it is none, or says what no graph of this project says.
    """
    reader = WireReader(data, what)
    graph, opsets = None, 0
    for number, start, stop in reader.fields(MODEL, (0, len(data))):
        if number == 7:
            graph = (start, stop)
        elif number == 8:
            opsets += 1
            for field, begin, end in reader.fields(OPSET, (start, stop)):
                if field == 1:
                    _check_domain(reader, begin, end)
    if graph is None or not opsets:
        raise reader.refuse("is no ONNX model: it has no graph, or no operator set")
    _Graph(reader).check(graph)


def _check_domain(reader: WireReader, start: int, stop: int) -> None:
    if reader.data[start:stop] not in _STANDARD:
        raise reader.refuse(f"has operators of {reader.text(start, stop)}; expected those of the ONNX standard alone")


class _Graph:
    """The one graph of a model, and what is known of it so far."""

    def __init__(self, reader: WireReader) -> None:
        self._reader = reader
        self._known = {b""}
        """Names of values that are there: inputs, initializers, results of operators before; and that of an input left out."""
        self._constants: dict[bytes, Numbers] = {}
        """The numbers of small ones, by name: they may say how large a result is."""

    def check(self, span: Span) -> None:
        nodes, outputs = [], 0
        for number, start, stop in self._reader.fields(GRAPH, span):
            if number == 1:
                nodes.append((start, stop))
            elif number == 5:
                name, numbers = self._check_tensor((start, stop))
                self._known.add(name)
                self._constants[name] = numbers
            elif number in (11, 12, 13):
                name = self._check_value((start, stop))
                outputs += number == 12
                if number == 11:
                    self._known.add(name)
        if not 0 < len(nodes) <= _MOST_NODES or not outputs:
            raise self._reader.refuse(f"has {len(nodes)} operators and {outputs} outputs; expected 1 to {_MOST_NODES}, and one")
        for node in nodes:
            self._check_node(node)

    def _check_node(self, span: Span) -> None:
        data = self._reader.data
        inputs, outputs, attributes, operator = [], [], [], b""
        for number, start, stop in self._reader.fields(NODE, span):
            if number == 1:
                inputs.append(data[start:stop])
            elif number == 2:
                outputs.append(data[start:stop])
            elif number == 4:
                operator = data[start:stop]
            elif number == 5:
                attributes.append((start, stop))
            elif number == 7:
                _check_domain(self._reader, start, stop)
        if not self._known.issuperset(inputs):
            raise self._reader.refuse("has an operator that reads what no operator before it makes")
        if not self._known.isdisjoint(set(outputs) - {b""}):
            raise self._reader.refuse("has two values of one name")
        for attribute in attributes:
            numbers = self._check_attribute(attribute)
            if operator == b"Constant" and outputs:
                self._constants[outputs[0]] = numbers
        self._check_size(operator, inputs)
        self._known.update(outputs)

    def _check_size(self, operator: bytes, inputs: list[bytes]) -> None:
        """What an operator makes is not larger than its constants should make it; others are the backend's to refuse."""
        constants = {index: self._constants.get(name, ()) for index, name in enumerate(inputs)}
        for index, most in _SIZED_BY.get(operator, {}).items():
            if not math.prod(abs(number) for number in constants.get(index, ())) <= max(most, 1):
                raise self._reader.refuse(f"has a {operator.decode()} to {constants[index]}, expected {most} elements at most")
        if operator == b"Pad" and b"" in [*inputs, b"", b""][:2]:  # openvino dies of it
            raise self._reader.refuse("has a Pad that does not say by how much")
        if operator == b"Pad" and any(abs(number) > _MOST_PADDING for number in constants.get(1, ())):
            raise self._reader.refuse(f"has a Pad by {constants[1]}, expected {_MOST_PADDING} at most")

    def _check_attribute(self, span: Span) -> Numbers:
        """Paddings, strides and such are those of pictures; the numbers of a small tensor."""
        name = b""
        numbers: Numbers = ()
        integers: list[int] = []
        for number, start, stop in self._reader.fields(ATTRIBUTE, span):
            if number == 1:
                name = self._reader.data[start:stop]
            elif number in (3, 8):
                integers.extend(self._reader.numbers(start, stop))
            elif number == 5:
                _, numbers = self._check_tensor((start, stop))
        if name in _SPATIAL and any(integer > _MOST_PADDING for integer in integers):
            raise self._reader.refuse(f"has {name.decode()} beyond 0 to {_MOST_PADDING}")
        if name == b"shape" and math.prod(integers) > _MOST_ELEMENTS:
            raise self._reader.refuse(f"has an operator that makes more than {_MOST_ELEMENTS} elements")
        return numbers

    def _check_value(self, span: Span) -> bytes:
        """Return the name of an input, output or value between; its shape is one that fits."""
        reader, name = self._reader, b""
        for number, start, stop in reader.fields(VALUE, span):
            if number == 1:
                name = reader.data[start:stop]
            elif number == 2:
                for _, begin, end in (field for field in reader.fields(TYPE, (start, stop)) if field[0] == 1):
                    for _, first, last in (field for field in reader.fields(TENSOR_TYPE, (begin, end)) if field[0] == 2):
                        self._check_shape((first, last))
        return name

    def _check_shape(self, span: Span) -> None:
        elements = 1
        for _, start, stop in self._reader.fields(SHAPE, span):
            for number, value, _ in self._reader.fields(SIDE, (start, stop)):
                if number == 1:
                    elements *= max(self._side(value), 1)
        if elements > 1 << 40:  # a fixed shape may be larger than memory: the picture that runs through it is what is refused
            raise self._reader.refuse(f"has a tensor of {elements} elements")

    def _check_tensor(self, span: Span) -> tuple[bytes, Numbers]:
        """Return the name of a tensor whose values are in it, as many as its shape says; and those, where they are few."""
        reader, name = self._reader, b""
        elements, kind = 1, 0
        values: dict[int, Span] = {}
        for number, start, stop in reader.fields(TENSOR, span):
            if number == 1:
                for side in reader.numbers(start, stop):
                    elements *= self._side(side)
            elif number == 2:
                kind = start
            elif number == 8:
                name = reader.data[start:stop]
            elif number == 14:
                if start != 0:
                    raise reader.refuse("has external data, which a bundle's graph has not")
            elif number in (4, 5, 7, 9, 10, 11):
                values[number] = (start, stop)
        if kind not in BITS:
            raise reader.refuse(f"has a tensor of type {kind}, which no graph here has")
        if set(values) - {VALUES.get(kind, INT32_DATA), RAW_DATA} or len(values) > 1 or (elements and not values):
            raise reader.refuse(f"has a tensor of {elements} elements without values, or with those of another type")
        for field, (start, stop) in values.items():
            expected = math.ceil(elements * BITS[kind] / 8) if field in _PACKED else math.ceil(elements / 2 ** (BITS[kind] == 4))
            found = stop - start if field in _PACKED else reader.count_numbers(start, stop)
            if found != expected:
                raise reader.refuse(f"has a tensor of {elements} elements with values for {found}")
            if kind in _NUMBERS and elements <= _FEW:
                return name, self._numbers(kind, field, (start, stop))
        return name, ()

    def _numbers(self, kind: int, field: int, span: Span) -> Numbers:
        start, stop = span
        if field in _PACKED:
            dtype = np.dtype(_NUMBERS[kind])
            return tuple(np.frombuffer(self._reader.data, dtype, (stop - start) // dtype.itemsize, start).tolist())
        return tuple(float(number if number < SIGN else number - 2 * SIGN) for number in self._reader.numbers(start, stop))

    def _side(self, value: int) -> int:
        if value > _MOST_SIDE:
            raise self._reader.refuse(f"has a tensor with a side of {value if value < SIGN else value - 2 * SIGN}")
        return value
