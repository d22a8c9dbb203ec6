"""Cast a graph to half precision: fp32 in, fp16 or bf16 weights and arithmetic out, with float32 at the graph's ends.

What ONNX's schemas do not allow in half precision stays in float32, and so does what computes sizes, with Casts around it. In fp16
so does what would leave its range, or lose more in it than rounding costs (`quantize/half/float16_range.py`), where the graph
cannot be rescaled so that it does not (`quantize/half/rescale.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from export.graph.opset import raise_opset
from export.graph.validity import check_graph
from quantize.half.check import check_rounded
from quantize.half.float16_range import convert_constant, in_float, measure_magnitudes
from quantize.half.operator_types import HalfPositions, half_positions
from quantize.half.rescale import rescale
from runtime.errors import PipelineError
from runtime.verify.value_check import TOLERANCE_DB

Half = Literal["fp16", "bf16"]
HALF_PRECISIONS: tuple[Half, ...] = get_args(Half)
_TYPES: dict[Half, ir.DataType] = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
_BFLOAT16_OPSET = 22  # the first at which Conv takes bfloat16


@dataclass(frozen=True)
class HalfGraph:
    """A graph in half precision.

    Attributes:
        kept: operators that compute in float32 although they have half precision, each with the reason.
        rescaled: tensors that hold other values than in the fp32 graph, by powers of two.
    """

    model: onnx.ModelProto
    kept: tuple[str, ...]
    rescaled: int


def convert_to_half(model: onnx.ModelProto, precision: Half) -> onnx.ModelProto:
    """As `make_half` does, of a graph that may be quantized: codes move by one where halves are rounded, so that it is not held
    against fp32 here."""
    return make_half(model, precision, tolerance_db=None).model


def make_half(
    model: onnx.ModelProto,
    precision: Half,
    *,
    ranges: Mapping[str, float] | None = None,
    tolerance_db: float | None = TOLERANCE_DB,
) -> HalfGraph:
    """Return a half-precision copy of `model`; its contract (float32 in, float32 out) stays. A bf16 graph has opset 22 or more.

    Args:
        ranges: the largest magnitude that calibration saw of a tensor, by name, beside what is measured here.
        tolerance_db: the least PSNR against fp32, every tensor rounded; None asks for none.

    Raises:
        PipelineError: the graph does not run, or cannot be brought to that opset; half precision is too coarse for it; the result
            is not valid.
    """
    graph_model = _typed(model, precision)
    if precision == "bf16":
        kept, rescaled = {node: reason for node in _positions(graph_model, precision) if (reason := in_float(node)) is not None}, 0
    else:
        graph_model, kept, rescaled = _in_range(graph_model, ranges or {})
    positions = _positions(graph_model, precision)
    converted = {node: positions[node] for node in positions if node not in kept}
    if tolerance_db is not None:
        check_rounded(graph_model, converted, _TYPES[precision], tolerance_db=tolerance_db)
    _Converter(graph_model.graph, _TYPES[precision]).convert(converted)
    proto = check_graph(ir.to_proto(graph_model), what=precision)
    return HalfGraph(proto, tuple(f"{node.name} ({node.op_type}): {reason}" for node, reason in kept.items()), rescaled)


def _positions(model: ir.Model, precision: Half) -> dict[ir.Node, HalfPositions]:
    """Return the operators that could run in half precision."""
    about_sizes, opset = _about_sizes(model.graph), model.graph.opset_imports[""]
    found = {node: half_positions(node, opset=opset, to=_TYPES[precision]) for node in model.graph if node not in about_sizes}
    return {node: positions for node, positions in found.items() if positions is not None}


def _in_range(model: ir.Model, ranges: Mapping[str, float]) -> tuple[ir.Model, dict[ir.Node, str], int]:
    """Return `model` or the same rescaled, whichever keeps fewer operators in float32; those, and how many tensors are rescaled."""
    magnitudes = measure_magnitudes(model).with_seen(ranges)
    kept = magnitudes.keep_in_float(_positions(model, "fp16"))
    if all(in_float(node) is not None for node in kept):
        return model, kept, 0
    other = ir.from_proto(ir.to_proto(model))
    exponents = rescale(other.graph, magnitudes.values)
    other_kept = magnitudes.scaled(exponents).keep_in_float(_positions(other, "fp16"))
    if len(other_kept) < len(kept):
        return other, other_kept, sum(exponent != 0 for exponent in exponents.values())
    return model, kept, 0


def _typed(model: onnx.ModelProto, precision: Half) -> ir.Model:
    """Return a copy with constants as initializers, every node named, and every tensor's type known where ONNX can tell."""
    try:
        inferred = onnx.shape_inference.infer_shapes(raise_opset(model, _BFLOAT16_OPSET) if precision == "bf16" else model)
    except (RuntimeError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        what = f"be brought to opset {_BFLOAT16_OPSET}, which bf16 needs" if precision == "bf16" else "have its types inferred"
        raise PipelineError(f"the graph cannot {what}: {reason}") from error
    typed = ir.from_proto(inferred)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(typed)
    names = {str(node.name) for node in typed.graph if node.name}
    for node in typed.graph:
        if not node.name:
            node.name = _fresh(f"{node.op_type.lower()}.{node.outputs[0].name}", names)
    return typed


def _about_sizes(graph: ir.Graph) -> set[ir.Node]:
    """Operators on what was made of a tensor's shape and of no tensor's values: half precision holds no size above 2048."""
    sizes: set[ir.Value] = set()
    found = set()
    for node in graph:
        read = [value for value in node.inputs if value is not None and value.const_value is None]
        if node.op_type in ("Shape", "Size") or (read and all(value in sizes for value in read)):
            sizes.update(node.outputs)
            found.add(node)
    return found


class _Converter:
    """Gives each operator what it reads in its own precision: one Cast a tensor, one copy a constant."""

    def __init__(self, graph: ir.Graph, to: ir.DataType) -> None:
        self._graph = graph
        self._to = to
        self._names = {str(value.name) for node in graph for value in node.outputs} | {str(value.name) for value in graph.inputs}
        self._names |= {str(name) for name in graph.initializers} | {str(node.name) for node in graph}
        self._made: dict[tuple[ir.Value, ir.DataType, bool], ir.Value] = {}

    def convert(self, converted: Mapping[ir.Node, HalfPositions]) -> None:
        graph = self._graph
        halves = {node.outputs[index] for node, found in converted.items() for index in found.outputs}
        values = [*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)]
        for value in halves:
            value.type = ir.TensorType(self._to)
        for value in values:
            for use in tuple(value.uses()):
                wants_half = use.node in converted and use.idx in converted[use.node].inputs
                if wants_half != (value in halves):
                    use.node.replace_input_with(use.idx, self._in_other(value, use.node, to_half=wants_half))
        for index, value in enumerate(graph.outputs):
            if value in halves:
                graph.outputs[index] = self._restored(value)
        self._drop_unread()
        graph.sort()

    def _in_other(self, value: ir.Value, reader: ir.Node, *, to_half: bool) -> ir.Value:
        dtype = self._to if to_half else ir.DataType.FLOAT
        saturates = value.const_value is not None and reader.op_type == "Clip"  # whose bound may be "none": the largest float32
        key = value, dtype, saturates
        if key not in self._made:
            constant = value.const_value is not None
            self._made[key] = self._constant(value, saturates=saturates) if constant else self._cast(value, dtype)
        return self._made[key]

    def _constant(self, value: ir.Value, *, saturates: bool) -> ir.Value:
        assert value.const_value is not None
        array = convert_constant(value.const_value.numpy(), self._to, saturates=saturates)
        name = _fresh(f"{value.name}.half", self._names)
        copy = ir.val(name, const_value=ir.tensor(array, dtype=self._to, name=name))
        self._graph.register_initializer(copy)
        return copy

    def _drop_unread(self) -> None:
        """Constants that only their copies are read of go, and the first copy takes the name."""
        initializers = self._graph.initializers
        for (value, *_), copy in self._made.items():
            name = str(value.name)
            if value.const_value is None or value.uses() or value.is_graph_output() or initializers.get(name) is not value:
                continue
            del initializers[name]
            del initializers[str(copy.name)]
            copy.name = name
            initializers[name] = copy

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        suffix = "half" if dtype == self._to else "float"
        name = _fresh(f"{value.name}_{suffix}", self._names)
        cast = ir.node("Cast", [value], {"to": dtype}, name=_fresh(f"to_{suffix}", self._names))
        cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = name, ir.TensorType(dtype), value.shape
        self._graph.append(cast)
        return cast.outputs[0]

    def _restored(self, value: ir.Value) -> ir.Value:
        """Return the graph's output under its own name, in float32.

        The half value takes its producer's, by which the runtime knows it.
        """
        producer = value.producer()
        assert producer is not None
        cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=_fresh("from_half", self._names))
        output, name = cast.outputs[0], str(value.name)
        value.name = str(producer.name) if producer.name not in self._value_names() else _fresh(f"{name}_half", self._names)
        output.name, output.type, output.shape = name, ir.TensorType(ir.DataType.FLOAT), value.shape
        self._graph.append(cast)
        return output

    def _value_names(self) -> Collection[str]:
        made = {str(value.name) for node in self._graph for value in node.outputs}
        return made | {str(value.name) for value in self._graph.inputs} | set(self._graph.initializers)


def _fresh(wanted: str, names: set[str]) -> str:
    """Return `wanted`, or with a number behind it where there is such a name; it is taken from then on."""
    name, count = wanted, 1
    while name in names:
        count += 1
        name = f"{wanted}_{count}"
    names.add(name)
    return name
