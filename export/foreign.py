"""Anybody's ONNX file, brought to the contract: (N, C, H, W) float32 in [0, 1] of any size, RGB or luma.

A file's own range and channel order become operators at its ends, x (high - low) + low on the way in and its inverse on the way
out, and a 1×1 convolution that turns BGR round; the passes then fold them into the network as far as that is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import version_converter

from export.axes import NAMES, rename_axes
from export.onnx_export import INPUT, NATIVE_OPSET, OUTPUT
from export.opset import opset_of
from export.passes.depth_to_space import restore_depth_to_space
from export.passes.editing import new_constant
from export.passes.simplify import simplify
from runtime.backends import Backend, open_backend
from runtime.bundle import Contract
from runtime.errors import PipelineError, UserError

Array = NDArray[np.float32]
Order = Literal["RGB", "BGR", "Y"]
ORDERS: tuple[Order, ...] = ("RGB", "BGR", "Y")
_CHANNELS: dict[int, tuple[Order, ...]] = {1: ("Y",), 3: ("RGB", "BGR")}
_PROBE, _OTHER_PROBE = (1, 37, 53), (2, 41, 26)  # N, H, W: sizes that nobody burns into a graph


@dataclass(frozen=True)
class Foreign:
    """A file that was read, and what became of it.

    Attributes:
        model: the graph, at the exporter's native opset or above.
        contract: what it takes.
        shape: (H, W) of a picture to compare it with the original on.
        run_original: what the file itself gives, (1, C, H, W) of the contract in and out, whatever batch it is fixed to.
        notes: what was guessed, and what could not be done.
    """

    model: ir.Model
    contract: Contract
    shape: tuple[int, int]
    run_original: Callable[[Array], Array]
    notes: tuple[str, ...]


def read_foreign(path: Path, *, scale: float, order: Order | None, value_range: tuple[float, float] | None) -> Foreign:
    """Reads the super-resolution network in `path`, which enlarges by `scale`, or works on a picture enlarged before.

    Args:
        order: its channels; None takes RGB for three and luma for one.
        value_range: its values for black and white; None takes 0 and 1.

    Raises:
        UserError: no ONNX model, not one picture in and one out, or another scale.
    """
    proto = _load(path)
    channels, fixed = _check_ends(proto, path)
    batch, *sides = (size or free for size, free in zip(fixed, _PROBE, strict=True))
    if order is not None and order not in _CHANNELS[channels]:
        raise UserError(f"{path} takes {channels} channels, which cannot be {order}", hint=f"--colour {_CHANNELS[channels][0]}")
    notes = [] if order is not None else [f"{channels} channels taken for {_CHANNELS[channels][0]}; --colour says otherwise"]
    if value_range is None:
        notes.append("values taken for 0 to 1; --range LOW,HIGH says otherwise")
    order, (low, high) = order or _CHANNELS[channels][0], value_range or (0.0, 1.0)
    backend = open_backend("onnxruntime", proto.SerializeToString(), precision="fp32")
    enlarges = _measure_scale(backend, (batch, channels, *sides), scale, path)
    model, _ = restore_depth_to_space(simplify(ir.from_proto(_raise_opset(proto)))[0])
    static_shape = None
    if any(fixed):
        model, static_shape, note = _free(model, fixed, channels, scale if enlarges else 1)
        notes.append(note)
    _name_ends(model)
    _convert_ends(model, order, low, high)

    def run_original(array: Array) -> Array:
        pixels = array[:, ::-1] if order == "BGR" else array
        output = backend.run(np.repeat(pixels * (high - low) + low, batch, axis=0).astype(np.float32))[:1]
        restored = ((output - low) / (high - low)).astype(np.float32)
        return np.ascontiguousarray(restored[:, ::-1]) if order == "BGR" else restored

    contract = Contract(colour="Y" if order == "Y" else "RGB", static_shape=static_shape, pre_upscale=not enlarges and scale != 1)
    return Foreign(model, contract, (sides[0], sides[1]), run_original, tuple(notes))


def _load(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file", hint="give the path of an ONNX file")
    try:
        proto = onnx.load_model(path)
        rename_axes(proto)
        onnx.checker.check_model(proto, full_check=True)
    except (DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} is not a valid ONNX model: {reason}", hint="is the file complete? copy it again") from error
    return proto


def _check_ends(proto: onnx.ModelProto, path: Path) -> tuple[int, tuple[int, int, int]]:
    """The channels, and (N, H, W), 0 where that is free."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(proto.graph.output) != 1:
        raise UserError(f"{path} has {len(inputs)} inputs and {len(proto.graph.output)} outputs, expected a picture in and one out")
    tensor = inputs[0].type.tensor_type
    sizes = [dimension.dim_value for dimension in tensor.shape.dim]
    if tensor.elem_type != onnx.TensorProto.FLOAT or len(sizes) != 4 or sizes[1] not in _CHANNELS:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise UserError(f"{path} takes {kind} {sizes}, expected FLOAT (N, C, H, W) with 1 or 3 channels; 0 is a free size")
    batch, _, height, width = sizes
    return sizes[1], (batch, height, width)


def _measure_scale(backend: Backend, shape: tuple[int, ...], scale: float, path: Path) -> bool:
    """Whether the network itself enlarges by `scale`; False where it keeps the size, on a picture enlarged before."""
    array = np.random.default_rng(0).random(shape, np.float32)
    output = backend.run(array)
    if output.shape[:2] != shape[:2]:
        raise UserError(f"{path} gives {output.shape} for {shape}, expected as many pictures and channels")
    if output.shape[2:] == tuple(round(side * scale) for side in shape[2:]):
        return True
    if output.shape[2:] == shape[2:]:
        return False
    found = output.shape[2] / shape[2]
    raise UserError(
        f"{path} enlarges {shape[2]}×{shape[3]} to {output.shape[2]}×{output.shape[3]}, not by {scale:g}", hint=f"--scale {found:g}"
    )


def _raise_opset(proto: onnx.ModelProto) -> onnx.ModelProto:
    opset = opset_of(proto)
    if opset >= NATIVE_OPSET:
        return proto
    try:
        return version_converter.convert_version(proto, NATIVE_OPSET)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise PipelineError(
            f"opset {opset} cannot be converted to {NATIVE_OPSET}: {reason}", hint="export the model at a newer opset"
        ) from error


def _free(
    model: ir.Model, fixed: tuple[int, int, int], channels: int, factor: float
) -> tuple[ir.Model, tuple[int, int] | None, str]:
    """The model with free sizes where it runs so, else as it was, with its (H, W); and what to say of it.

    Raises:
        UserError: it must stay fixed, and not to one picture of one size.
    """
    size = ", ".join(f"{name} {size}" for name, size in zip(("batch", "height", "width"), fixed, strict=True) if size)
    free = ir.from_proto(ir.to_proto(model))
    for node in free.graph:
        for output in node.outputs:
            output.shape = None
    free.graph.inputs[0].shape = ir.Shape([NAMES[0], channels, *NAMES[2:]])
    batch, height, width = _OTHER_PROBE
    try:
        proto = onnx.shape_inference.infer_shapes(ir.to_proto(free), strict_mode=True)
        with open_backend("onnxruntime", proto.SerializeToString(), precision="fp32") as backend:
            larger = backend.run(np.zeros((batch, channels, height, width), np.float32))
        if larger.shape == (batch, channels, round(height * factor), round(width * factor)):
            return ir.from_proto(proto), None, f"fixed to {size} in the file, now of any size"
    except Exception:  # noqa: BLE001, S110 # whatever a runtime raises, the answer is the same: it takes its own size only
        pass
    if fixed[0] > 1 or not all(fixed[1:]):
        raise UserError(
            f"the file is fixed to {size}, and the graph does not run with others; expected free sizes, or one picture of one size",
            hint="export the model so",
        )
    model.graph.inputs[0].shape = ir.Shape([1, channels, *fixed[1:]])
    return model, (fixed[1], fixed[2]), f"stays fixed to {size}: with other sizes the graph does not run"


def _name_ends(model: ir.Model) -> None:
    model.graph.inputs[0].name, model.graph.outputs[0].name = INPUT, OUTPUT


def _convert_ends(model: ir.Model, order: Order, low: float, high: float) -> None:
    """Operators at both ends for a range other than [0, 1] and for BGR."""
    graph, picture, result = model.graph, model.graph.inputs[0], model.graph.outputs[0]
    turn = [("Conv", np.eye(3, dtype=np.float32)[::-1].reshape(3, 3, 1, 1).copy())] if order == "BGR" else []
    span = high - low
    steps: list[tuple[str, Array]] = [("Mul", _number(span))] * (span != 1) + [("Add", _number(low))] * (low != 0)
    back: list[tuple[str, Array]] = [("Sub", _number(low))] * (low != 0) + [("Div", _number(span))] * (span != 1)
    readers = list(picture.uses())
    if before := _chain(graph, picture, [*turn, *steps]):
        graph.insert_before(graph[0], before)
        for use in readers:
            use.node.replace_input_with(use.idx, before[-1].outputs[0])
    if after := _chain(graph, result, [*back, *turn]):
        graph.extend(after)
        result.name = "network_output"
        graph.outputs[0] = after[-1].outputs[0]
        graph.outputs[0].name = OUTPUT


def _chain(graph: ir.Graph, value: ir.Value, steps: Sequence[tuple[str, Array]]) -> list[ir.Node]:
    """Nodes that apply `steps`, operators with a constant, to `value` one after the other; not yet in the graph."""
    nodes: list[ir.Node] = []
    for operator, number in steps:
        last = nodes[-1].outputs[0] if nodes else value
        node = ir.node(operator, [last, new_constant(graph, number, name="contract")])
        node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
        nodes.append(node)
    return nodes


def _number(value: float) -> Array:
    return np.array(value, np.float32)
