"""Find what an fp16 graph must compute in float32: tensors that leave float16's range, or lose more in it than rounding costs.

float16 ends at 65504 and has 11 bits down to 6e-5; below that the bits go, and 6e-8 is the least. Measured here, in float32 on
pictures that are made for it (black, white, noise of nothing but the two, a photograph's kind), are of every tensor the largest
magnitude, and of every sum of products

    Σ |w| |x| + |b|,

which bounds its partial sums in whatever order a processor takes them. A calibration's own ranges are taken in too. Operators that
hold larger or smaller numbers inside than at their ends (means over the picture, variances, powers) are in float32 always.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from quantize.half.operator_types import HalfPositions
from runtime.backends.onnxruntime import session_options
from runtime.errors import PipelineError
from runtime.pictures.pixels import to_floats
from runtime.verify.value_check import check_picture

Floats = NDArray[np.float32]

LARGEST = 2.0**13
"""The largest magnitude that a tensor may have in float16: other pictures may hold eight times what was seen."""
_LARGEST_SUM = 2.0**15  # of what bounds a sum; half of the range
_SMALLEST = 2.0**-12  # of a tensor's largest magnitude: six bits of it are above float16's subnormal numbers
_WORST_ERROR = 2.0**-9  # of a constant, root mean square against its own: rounding to 11 bits gives 2**-13
# (H, W) of the pictures where they are free: the first that the graph takes. Some want multiples, of 7 where windows are so wide.
_SIZES = ((48, 64), (120, 120), (168, 168), (256, 256), (280, 280))
_GROWTH = 2.0**14  # pixels of a picture of 8192 × 8192 for each of these; sums over a picture grow with them
_SUMS_OF_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_GROWING = ("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "CumSum")
_SUMS = "sums over many values"
_SMALL = "divides by, or takes a power or logarithm of, what may be small"
_INSIDE: Mapping[str, str] = {
    **dict.fromkeys(
        (*_GROWING, "ReduceProd", "ReduceMean", "ReduceLogSum", "ReduceLogSumExp", "GlobalAveragePool", "GlobalLpPool"), _SUMS
    ),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Einsum", "LRN", "Attention"), _SUMS),
    **dict.fromkeys(("InstanceNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization"), "takes a variance"),
    **dict.fromkeys(("BatchNormalization", "MeanVarianceNormalization", "LpNormalization"), "takes a variance"),
    **dict.fromkeys(("Pow", "Sqrt", "Reciprocal", "Log", "Exp"), _SMALL),
    "GridSample": "reads at positions, which half precision cannot tell apart",
}


@dataclass(frozen=True)
class Magnitudes:
    """The largest magnitude of each tensor, and of each that is a sum of products what bounds its partial sums, by name."""

    values: Mapping[str, float]
    sums: Mapping[str, float]

    def with_seen(self, ranges: Mapping[str, float]) -> Magnitudes:
        """With the largest magnitudes that a calibration saw, by tensor."""
        larger = {name: max(value, ranges.get(name, 0.0)) for name, value in self.values.items()}
        return Magnitudes(larger, self.sums)

    def scaled(self, exponents: Mapping[str, int]) -> Magnitudes:
        """The largest magnitudes in the graph with each tensor multiplied by 2 to its exponent, by name."""
        values = {name: value * 2.0 ** exponents.get(name, 0) for name, value in self.values.items()}
        return Magnitudes(values, {name: value * 2.0 ** exponents.get(name, 0) for name, value in self.sums.items()})

    def keep_in_float(self, nodes: Mapping[ir.Node, HalfPositions]) -> dict[ir.Node, str]:
        """Return those of `nodes` that must compute in float32, each with the reason in words."""
        found = {node: self._reason(node, positions) for node, positions in nodes.items()}
        return {node: reason for node, reason in found.items() if reason is not None}

    def _reason(self, node: ir.Node, positions: HalfPositions) -> str | None:
        reason = in_float(node)
        if reason is not None:
            return reason
        read = [value for value in (node.inputs[index] for index in positions.inputs) if value is not None]
        made = [node.outputs[index] for index in positions.outputs]
        largest = max((self.values.get(str(value.name), 0.0) for value in (*read, *made)), default=0.0)
        if not largest <= LARGEST:
            return f"values reach {largest:.3g}"
        bound = max((self.sums.get(str(value.name), 0.0) for value in made), default=0.0)
        if not bound <= _LARGEST_SUM:
            return f"sums may reach {bound:.3g}"
        written = [self.values.get(str(value.name), 0.0) for value in made]
        if any(0 < value < _SMALLEST for value in written):
            return f"values are no larger than {max(written):.3g}"
        return next((reason for value in read if (reason := self._of_constant(node, value)) is not None), None)

    def _of_constant(self, node: ir.Node, value: ir.Value) -> str | None:
        if value.const_value is None:
            return None
        array = value.const_value.numpy()
        largest = float(np.abs(array).max(initial=0))
        half = convert_constant(array, ir.DataType.FLOAT16, saturates=node.op_type == "Clip").astype(np.float64)
        if not np.isfinite(half).all():
            return f"a constant reaches {largest:.3g}"
        if node.op_type == "Clip" and largest > float(np.finfo(np.float16).max):
            return None  # no bound at all
        beside = 0.0
        if (
            node.op_type in _SUMS_OF_PRODUCTS and len(node.inputs) > 2 and node.inputs[2] is value
        ):  # a bias: beside what it is added to
            beside = self.values.get(str(node.outputs[0].name), 0.0)
        error = np.sqrt(np.mean(np.square(half - array))) if array.size else 0.0
        allowed = _WORST_ERROR * max(np.sqrt(np.mean(np.square(array, dtype=np.float64))), beside) if array.size else 0.0
        return f"a constant is no larger than {largest:.3g}" if error > allowed else None


def in_float(node: ir.Node) -> str | None:
    """Return why `node` computes in float32 in any half-precision graph; None where it need not."""
    if node.op_type == "Div" and node.inputs[1] is not None and node.inputs[1].const_value is None:
        return _SMALL
    return _INSIDE.get(node.op_type)


def convert_constant(array: NDArray[np.generic], to: ir.DataType, *, saturates: bool) -> NDArray[np.generic]:
    """Return `array` in half precision.

    Where it `saturates`, what is beyond float16 becomes its largest value, and infinity elsewhere.
    """
    limit = np.finfo(np.float16).max
    held = array.clip(-limit, limit) if saturates and to == ir.DataType.FLOAT16 else array
    with np.errstate(over="ignore"):
        converted: NDArray[np.generic] = held.astype(to.numpy())
    return converted


def measure_magnitudes(model: ir.Model) -> Magnitudes:
    """Run the pictures through the float32 `model`, its constants initializers and its types inferred.

    Raises:
        PipelineError: ONNX Runtime cannot run it.
    """
    values = {str(value.name): value for value in _float_tensors(model.graph)}
    proto, names = _watched(model, values)
    reason = ""
    for size in _sizes(model.graph):
        try:
            session = ort.InferenceSession(
                proto.SerializeToString(), session_options(spinning=False), providers=["CPUExecutionProvider"]
            )
            pictures = probe_pictures(model.graph, size)
            found = [session.run(names, {model.graph.inputs[0].name: picture}) for picture in pictures]
            break
        except Exception as error:  # noqa: BLE001 # ONNX Runtime's own exceptions have no base but this
            reason = reason or str(error).splitlines()[0]
    else:
        raise PipelineError(f"the graph does not run in float32: {reason}")
    largest = {
        name: float(np.max(np.nan_to_num(one, nan=np.inf))) for name, one in zip(names, zip(*found, strict=True), strict=True)
    }
    grown = {str(output.name) for node in model.graph if node.op_type in _GROWING for output in node.outputs}
    held = {name: largest[_name(name)] * (_GROWTH if name in grown else 1.0) for name in values}
    sums = {name: largest[_name(name, sums=True)] for name in values if _name(name, sums=True) in largest}
    return Magnitudes(held, sums)


def probe_pictures(graph: ir.Graph, size: tuple[int, int]) -> Iterator[Floats]:
    """(1, C, H, W) float32 in [0, 1], as many channels as `graph` takes, of that (H, W)."""
    channels = _sides(graph)[1] or 3
    noise = np.random.default_rng(0).integers(0, 2, (1, channels, *size))
    yield to_floats(check_picture(size)[..., :channels])
    yield noise.astype(np.float32)
    yield np.zeros((1, channels, *size), np.float32)
    yield np.ones((1, channels, *size), np.float32)


def _sizes(graph: ir.Graph) -> Sequence[tuple[int, int]]:
    """Return the one size that `graph` takes, or those that are tried."""
    _, _, height, width = _sides(graph)
    return _SIZES if height is None or width is None else ((height, width),)


def _sides(graph: ir.Graph) -> list[int | None]:
    """(N, C, H, W) of the input; None where one is free."""
    shape = graph.inputs[0].shape
    sides = [] if shape is None else [size if isinstance(size, int) else None for size in shape]
    return sides if len(sides) == 4 else [None] * 4


def first_pictures(graph: ir.Graph) -> Iterator[Floats]:
    """Yield the first picture at each size that is tried."""
    for size in _sizes(graph):
        yield next(probe_pictures(graph, size))


def _float_tensors(graph: ir.Graph) -> Iterator[ir.Value]:
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.dtype == ir.DataType.FLOAT and value.name:
            yield value


def _name(tensor: str, *, sums: bool = False) -> str:
    return f"{tensor}/largest{'_sum' if sums else ''}"


def _watched(model: ir.Model, values: Iterable[str]) -> tuple[onnx.ModelProto, list[str]]:
    """Return `model` with the largest magnitude of each of `values` among its outputs, and of what bounds each sum of products."""
    proto = ir.to_proto(model)
    graph, made, names = proto.graph, [], []

    def reduce(tensor: str, to: str) -> None:
        made.append(onnx.helper.make_node("Abs", [tensor], [f"{to}.abs"]))
        made.append(onnx.helper.make_node("ReduceMax", [f"{to}.abs"], [to], keepdims=0))
        names.append(to)

    for name in values:
        reduce(name, _name(name))
    for node in graph.node:
        if node.op_type in _SUMS_OF_PRODUCTS and node.domain == "" and node.output[0] in values:
            twin = onnx.NodeProto()
            twin.CopyFrom(node)
            to = _name(node.output[0], sums=True)
            twin.name, twin.output[0] = to, f"{to}.signed"
            for index, name in enumerate(node.input):
                if name:
                    twin.input[index] = f"{to}.{index}"
                    made.append(onnx.helper.make_node("Abs", [name], [twin.input[index]]))
            made.append(twin)
            reduce(twin.output[0], to)
    graph.node.extend(made)
    del graph.value_info[:]
    graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ()) for name in names)
    return proto, names
