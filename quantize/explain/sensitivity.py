"""Find where an int8 network's error comes from: the fp32 and the int8 graph and crops in, one row per layer out.

    SQNR = 10 log10(Σ x² / Σ (x̂ - x)²)

x is what a layer makes in fp32, and x̂ what is stored of it in int8: with the inputs that the int8 network gives it, so that the
errors of all the layers before are in it, or with fp32's inputs, so that what is left is the layer's own (its weights, and the
quantizer behind it; Lin et al. 2016, arXiv 1511.06393, adds them up so). What leaves a picture's range at the end is clipped in
fp32 as well, and is no error.

How much an error means for the picture is another matter: `layer_sensitivity` measures it at the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.watch import watch_tensors
from export.graph.constants import constant_input
from quantize.graph.kernel_layouts import undo_layouts
from quantize.graph.operators import activations, is_moved
from quantize.graph.placement import moved_chain
from quantize.graph.qdq import QuantizationParameters, fake_quantize
from quantize.graph.read_qdq import Constants, StoredTensor, rounded_layers, stored_end, stored_tensors
from quantize.graph.switches import SwitchedGraph
from runtime.bundle import Noun
from runtime.errors import PipelineError
from runtime.targets import Target

Array = NDArray[np.float32]
_ALONE = ".alone"
_MOST_CODES = 1 << 16  # of a tensor: 16 bits
PICTURE = "picture"  # in the place of an operator, of what goes in
_PICTURE_RANGE = (0.0, 1.0)


class LayerNoise(Noun):
    """What int8 does to one layer, or to the picture that goes in; a decibel value of None stands for no error at all."""

    name: str
    op: str
    tensor: str
    """What it makes, after the activation behind it."""
    sqnr_db: float | None
    """With the int8 network's own inputs."""
    alone_sqnr_db: float | None
    """With fp32's inputs."""
    clipped_share: float | None = None
    """Share of values outside the range, 0 to 1; of the output, of those that a picture can have. None: not stored in int8."""
    codes_used_share: float | None = None
    """Share of the codes there are that occurred, 0 to 1."""
    stored_range: tuple[float, float] | None = None
    """What the lowest and the highest code stand for."""


def decibels(signal: float, noise: float) -> float | None:
    """10 log10 of a ratio of powers; None where there is no noise."""
    return None if noise == 0 else 10 * math.log10(max(signal, 1e-30) / noise)


def measure_layers(
    reference: onnx.ModelProto,
    int8: onnx.ModelProto,
    crops: Sequence[Array],
    *,
    layers: Collection[str],
    target: Target,
    on_step: Callable[[int, int], None],
) -> list[LayerNoise]:
    """Return the error of every tensor that `int8` stores, and of every one of `layers`, in the order they run.

    Args:
        reference: the fp32 graph that `int8` was made of, of the same tensors and layers: equalized, its ends aligned.
        crops: (N, C, H, W) float32 in [0, 1].
        layers: the names of operators with multiply-accumulates.
        target: what `int8` was made for.

    Raises:
        PipelineError: `int8` stores a tensor that `reference` has not.
    """
    exact, quantized = ir.from_proto(reference), ir.from_proto(int8)
    undo_layouts(quantized.graph, exact.graph)
    stored = stored_tensors(quantized.graph)
    tallies = _tallies(exact.graph, stored, layers, target)
    unknown = stored.keys() - {value.name for node in exact.graph for value in (*exact.graph.inputs, *node.outputs)}
    if unknown:
        raise PipelineError(f"the int8 graph stores {min(unknown)}, which the fp32 graph has not", hint="quantize it again")
    _add_rounded(exact.graph, rounded_layers(quantized.graph), tallies)
    ends = {tally.end: stored[tally.end].value if tally.end in stored else tally.end for tally in tallies}
    wanted = {*ends, *(tally.alone for tally in tallies)}
    # As written: of integers with float16 around them ONNX Runtime's optimiser makes kernels that compute something else.
    in_both = watch_tensors(exact, iter(crops), wanted), watch_tensors(quantized, iter(crops), set(ends.values()), as_written=True)
    for index, (in_fp32, in_int8) in enumerate(zip(*in_both, strict=True)):
        on_step(index, len(crops))
        for tally in tallies:
            tally.add(in_fp32[tally.end], in_int8[ends[tally.end]], in_fp32[tally.alone])
    return [tally.result() for tally in tallies]


def layer_sensitivity(
    switched: SwitchedGraph, *, corrected: Collection[str] = (), on_step: Callable[[int, int], None]
) -> dict[str, float | None]:
    """PSNR in dB of the output against fp32's by layer, with that layer alone in int8; None where it is the same.

    The lower, the more that layer's weights and the quantizers around it cost. Those `corrected` read their input as it was.
    """
    found = {}
    for index, layer in enumerate(switched.layers):
        on_step(index, len(switched.layers))
        found[layer] = switched.psnr_db({layer}, corrected={layer}.intersection(corrected))
    return found


@dataclass
class _Tally:
    """Sums over crops for one row.

    Attributes:
        end: the tensor.
        alone: what the rounded layer makes of it in the fp32 graph; `end` where there is no layer.
        parameters: those of the quantizer behind it, if there is one.
        picture: black and white, where it is the output's picture already.
        lowest: where an activation clips it that the quantizer does the work of.
    """

    name: str
    op: str
    end: str
    alone: str
    parameters: QuantizationParameters | None
    picture: tuple[float, float] | None
    lowest: float = -math.inf
    signal: float = 0.0
    noise: float = 0.0
    alone_noise: float = 0.0
    clipped: int = 0
    count: int = 0
    codes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_MOST_CODES, np.int64))

    def add(self, exact: Array, quantized: Array, alone: Array) -> None:
        exact, quantized, alone = (array.astype(np.float32, copy=False) for array in (exact, quantized, alone))
        quantized = quantized.clip(self.lowest)
        black, white = self.picture or _PICTURE_RANGE
        if self.picture is not None:
            exact, quantized, alone = (array.clip(black, white) for array in (exact, quantized, alone))
        if self.parameters is not None:
            low, high = _range(self.parameters)
            half = self.parameters.scale / 2
            self.clipped += int(((quantized < low - half) | (quantized > high + half)).sum())
            quantized, alone = fake_quantize(quantized, self.parameters), fake_quantize(alone, self.parameters)
            codes = np.rint((quantized - low) / np.float32(self.parameters.scale)).astype(np.int64)
            self.codes += np.bincount(codes.ravel(), minlength=len(self.codes))
        self.count += exact.size
        self.signal += _power(exact - np.float32(black))
        self.noise += _power(quantized - exact)
        self.alone_noise += _power(alone - exact)

    def result(self) -> LayerNoise:
        is_stored = self.parameters is not None
        return LayerNoise(
            name=self.name,
            op=self.op,
            tensor=self.end,
            sqnr_db=decibels(self.signal, self.noise),
            alone_sqnr_db=decibels(self.signal, self.alone_noise),
            clipped_share=self.clipped / max(self.count, 1) if is_stored else None,
            codes_used_share=np.count_nonzero(self.codes) / _codes(self.parameters) if self.parameters is not None else None,
            stored_range=None if self.parameters is None else _range(self.parameters),
        )


def _tallies(graph: ir.Graph, stored: Mapping[str, StoredTensor], layers: Collection[str], target: Target) -> list[_Tally]:
    """Return a row for each stored tensor that is not only moved, each layer, and the output where no stored tensor becomes it.

    Nodes that end in one tensor are one row, that of the first.
    """
    pictures = _picture_ranges(graph, target)
    wanted = {*stored, *(() if pictures.keys() & stored else (str(graph.outputs[0].name),))}
    named = [(str(value.name), PICTURE, value) for value in graph.inputs]
    named += [
        (str(node.name), node.op_type, stored_end(node.outputs[0], stored, layers))
        for node in graph
        if not is_moved(node.outputs[0], target)
    ]
    rows: dict[str, _Tally] = {}
    for name, op, end in named:
        tensor = str(end.name)
        if tensor in wanted or name in layers:
            parameters = stored[tensor].parameters if tensor in stored else None
            rows.setdefault(tensor, _Tally(name, op, tensor, tensor, parameters, pictures.get(tensor), _clipped_at(end)))
    return list(rows.values())


def _picture_ranges(graph: ir.Graph, target: Target) -> dict[str, tuple[float, float]]:
    """Return the range a picture has in the output, and in the tensors that are only scaled, shifted or moved to become it."""
    value, (low, high) = graph.outputs[0], _PICTURE_RANGE
    ranges = {str(value.name): (low, high)}
    while (node := value.producer()) is not None and (number := _constant_number(node)) is not None:
        low, high = (low - number, high - number) if node.op_type == "Add" else (low / number, high / number)
        (value,) = activations(node)
        ranges[str(value.name)] = low, high
    return ranges | {str(moved.name): (low, high) for moved in moved_chain(value, target)}


def _clipped_at(value: ir.Value) -> float:
    clip = value.producer()
    return (
        float(constant_input(clip, 1).item())
        if clip is not None and clip.op_type == "Clip" and len(clip.inputs) == 2
        else -math.inf
    )


def _constant_number(node: ir.Node) -> float | None:
    """Return what an Add adds or a Mul multiplies by (more than 0), where that is one number for all values."""
    constants = [value.const_value for value in node.inputs if value is not None and value.const_value is not None]
    if node.op_type not in ("Add", "Mul") or len(constants) != 1 or constants[0].size != 1:
        return None
    number = float(constants[0].numpy().item())
    return number if node.op_type == "Add" or number > 0 else None


def _add_rounded(graph: ir.Graph, rounded: Mapping[str, Constants], tallies: Iterable[_Tally]) -> None:
    """A twin of each layer with its rounded weights, and of the activations behind it, that reads what fp32 makes."""
    nodes = {str(node.name): node for node in graph}
    for tally in tallies:
        if tally.name not in rounded:
            continue
        node = nodes[tally.name]
        constants = [None if array is None else ir.val(None, const_value=ir.tensor(array)) for array in rounded[tally.name]]
        for index, value in enumerate(constants):
            if value is not None:
                value.name = f"{tally.name}{_ALONE}.{index}"
                graph.register_initializer(value)
        twin = _like(node, [node.inputs[0], *constants])
        graph.append(twin)
        while node.outputs[0].name != tally.end:
            read, (node,) = node.outputs[0], [use.node for use in node.outputs[0].uses()]
            twin = _like(node, [twin.outputs[0] if value is read else value for value in node.inputs])
            graph.append(twin)
        tally.alone = str(twin.outputs[0].name)


def _like(node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Node:
    output = ir.val(f"{node.outputs[0].name}{_ALONE}")
    return ir.Node("", node.op_type, inputs, list(node.attributes.values()), outputs=[output], name=f"{node.name}{_ALONE}")


def _codes(parameters: QuantizationParameters) -> int:
    """Return how many there are."""
    limits = np.iinfo(parameters.dtype)
    return int(limits.max) - int(limits.min) + 1


def _range(parameters: QuantizationParameters) -> tuple[float, float]:
    limits = np.iinfo(parameters.dtype)
    low, high = (int(limit) - parameters.zero_point for limit in (limits.min, limits.max))
    return low * parameters.scale, high * parameters.scale


def _power(array: Array) -> float:
    return float(np.square(array, dtype=np.float64).sum())
