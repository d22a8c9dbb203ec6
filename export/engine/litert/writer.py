"""Hold a .tflite graph under construction: what is stored for each ONNX value, and how operators are added to it.

A value is stored once, in one layout and either in codes or in floats; who reads it otherwise gets a TRANSPOSE or a DEQUANTIZE in
between, made once. Floats of 16 bits are weights alone: they are stored so and restored by DEQUANTIZE, as LiteRT's own converter
writes them, and delegates then compute in half precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.engine.litert.layout import Layout, arranged, as_in_onnx, moves
from export.engine.litert.reading import Clip, end_of, shape_of
from export.engine.litert.tflite import Codes, Dtype, Operator, Side, Tensor, TfliteGraph

_FUSED = {(0.0, np.inf): 1, (-1.0, 1.0): 2, (0.0, 6.0): 3}
"""The schema's ActivationFunctionType by the bounds of the clip."""
_CLIPS = {1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6"}


class Writer:
    """See above; operators/ holds one function per ONNX operator, which calls this."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._tensors: list[Tensor] = []
        self._operators: list[Operator] = []
        self._stored: dict[ir.Value, tuple[Tensor, Layout]] = {}
        self._made: dict[tuple[object, ...], Tensor] = {}
        self._names: dict[str, int] = {}

    def graph(self, source: Tensor, result: Tensor) -> TfliteGraph:
        """Return what was written, without tensors that nothing reads or makes."""
        used = {source.index, result.index, *(at for operator in self._operators for at in (*operator.inputs, *operator.outputs))}
        places = {index: place for place, index in enumerate(sorted(used))}
        tensors = tuple(replace(self._tensors[index], index=place) for index, place in places.items())
        operators = tuple(
            replace(one, inputs=tuple(places[at] for at in one.inputs), outputs=tuple(places[at] for at in one.outputs))
            for one in self._operators
        )
        return TfliteGraph(tensors, operators, tensors[places[source.index]], tensors[places[result.index]], tuple(self.notes))

    def knows(self, value: ir.Value) -> bool:
        return value in self._stored

    def store(self, value: ir.Value, tensor: Tensor, layout: Layout) -> None:
        self._stored[value] = tensor, layout

    def stored(self, value: ir.Value) -> tuple[Tensor, Layout]:
        return self._stored[value]

    def layout(self, value: ir.Value) -> Layout:
        return self._stored[value][1]

    def codes(self, value: ir.Value | None) -> Codes | None:
        """Return the codes that an activation is stored in; None of floats, and of raw pixels."""
        if value is None or value not in self._stored:
            return None
        tensor = self._stored[value][0]
        return tensor.codes if tensor.dtype == "int8" else None

    def read(self, value: ir.Value | None, *, layout: Layout | None = None, as_float: bool = False) -> Tensor:
        """Return what is stored for an activation, brought into that layout, and into floats where asked."""
        assert value is not None
        tensor, found = self._stored[value]
        if layout is not None and layout != found:
            tensor = self._once("TRANSPOSE", tensor, moves(found, layout))
        return self._once("DEQUANTIZE", tensor) if as_float and tensor.codes is not None else tensor

    def tensor(
        self, name: str, dtype: Dtype, shape: Sequence[Side], *, codes: Codes | None = None, data: NDArray[Any] | None = None
    ) -> Tensor:
        """Add a tensor, under `name` or, where that is taken, `name` and a number."""
        count = self._names[name] = self._names.get(name, 0) + 1
        unique = name if count == 1 else f"{name};{count}"
        made = Tensor(len(self._tensors), unique, dtype, tuple(shape), codes, data)
        self._tensors.append(made)
        return made

    def constant(self, name: str, array: NDArray[Any], *, codes: Codes | None = None) -> Tensor:
        """Add a constant, once for the same values; float16 is restored to float32 behind it."""
        array = np.ascontiguousarray(array)
        key = ("constant", array.dtype.str, array.shape, array.tobytes(), codes)
        if key not in self._made:
            dtype: Dtype = array.dtype.name  # type: ignore[assignment] # callers give these types alone
            made = self.tensor(name, dtype, array.shape, codes=codes, data=array)
            self._made[key] = made if dtype != "float16" else self._once("DEQUANTIZE", made)
        return self._made[key]

    def emit(
        self,
        name: str,
        code: str,
        inputs: Sequence[Tensor],
        shape: Sequence[Side],
        *,
        codes: Codes | None = None,
        dtype: Dtype | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Add an operator; return what it makes: int8 where there are `codes`, else of `dtype`, by default float32."""
        made = self.tensor(name, dtype or ("float32" if codes is None else "int8"), shape, codes=codes)
        self._operators.append(Operator(code, tuple(tensor.index for tensor in inputs), (made.index,), options or {}))
        return made

    def tensor_at(self, index: int) -> Tensor:
        return self._tensors[index]

    def take_back(self, tensor: Tensor, code: str) -> Operator | None:
        """Remove the operator that made `tensor`, which nothing may read; None where it is no `code`, and stays."""
        made = next((operator for operator in self._operators if operator.outputs == (tensor.index,)), None)
        if made is None or made.code != code:
            return None
        self._operators.remove(made)
        del self._names[tensor.name]
        return made

    def put(
        self,
        node: ir.Node,
        code: str,
        inputs: Sequence[Tensor],
        *,
        layout: Layout,
        int8: bool,
        fuses: bool = False,
        last: ir.Node | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Add the operator that computes `node`, and what is inside it: up to `last`, and where it `fuses` one a Relu or Clip."""
        end = end_of((last or node).outputs[0])
        codes, clip = (end.codes if int8 else None), end.clip
        if fuses and clip in _FUSED:
            options, clip = {**(options or {}), "fusedActivationFunction": _FUSED[clip]}, None
        shape = arranged(shape_of(node.outputs[0], node), layout)
        made = self.emit(str(node.name), code, inputs, shape, codes=codes, options=options)
        self.store(end.value, self.clipped(made, clip) if clip is not None else made, layout)

    def move(self, node: ir.Node, made: Tensor, layout: Layout, *, output: int = 0) -> None:
        """Store what an operator made that writes the codes it read; whatever is behind it is written by itself."""
        self.store(node.outputs[output], made, layout)

    def clipped(self, tensor: Tensor, clip: Clip) -> Tensor:
        """Return `tensor` between those bounds, in the same codes; itself where no code lies outside."""
        low, high = clip
        codes = tensor.codes
        if codes is not None:
            low = -np.inf if low <= codes.scale * (-128 - codes.zero_point) else low
            high = np.inf if high >= codes.scale * (127 - codes.zero_point) else high
        kind = _FUSED.get((low, high))
        if kind is not None:
            return self.emit(f"{tensor.name}.clip", _CLIPS[kind], [tensor], tensor.shape, codes=codes)
        for code, bound in (("MAXIMUM", low), ("MINIMUM", high)):
            if np.isfinite(bound):
                number = np.array(bound, np.float32) if codes is None else np.array(codes.code_of(bound), np.int8)
                limit = self.constant(f"{tensor.name}.{code.lower()}", number.reshape(1), codes=codes)
                tensor = self.emit(f"{tensor.name}.clip", code, [tensor, limit], tensor.shape, codes=codes)
        return tensor

    def recoded(self, tensor: Tensor, codes: Codes) -> Tensor:
        """Return `tensor` in those codes: itself, or behind a QUANTIZE."""
        if tensor.dtype == "int8" and tensor.codes == codes:
            return tensor
        key = ("QUANTIZE", tensor.index, codes)
        if key not in self._made:
            self._made[key] = self.emit(f"{tensor.name}.quantized", "QUANTIZE", [tensor], tensor.shape, codes=codes)
        return self._made[key]

    def _once(self, code: str, tensor: Tensor, permutation: tuple[int, ...] = ()) -> Tensor:
        """Add a TRANSPOSE or a DEQUANTIZE of `tensor`, unless there is one already."""
        key = (code, tensor.index, permutation)
        if key not in self._made:
            if code == "TRANSPOSE":
                order = self.constant("permutation", np.array(permutation, np.int32))
                shape = [tensor.shape[axis] for axis in permutation]
                self._made[key] = self.emit(
                    f"{tensor.name}.transposed", code, [tensor, order], shape, codes=tensor.codes, dtype=tensor.dtype
                )
            else:
                self._made[key] = self.emit(f"{tensor.name}.float", code, [tensor], tensor.shape)
        return self._made[key]


def onnx_order(value: ir.Value | None, node: ir.Node) -> Layout:
    """Return the layout that a value has in the ONNX graph."""
    assert value is not None
    return as_in_onnx(len(shape_of(value, node)))
