"""Read what the builder of TensorRT for RTX says of an engine's layers: its verbose log in, each layer with its tensors out.

The engine inspector needs a GPU; the log of a build with detailed profiling says the same without one. It holds one message that
begins "Layers:", with a line per layer:

    Name: conv1.0_U1_myl0_2, LayerType: correlation, Inputs: [ { Name: …, Dimensions: [1,64,128,128], …, Datatype: Int8, … }],
    Constants: [ … ], Outputs: [ … ], TacticName: …, StreamId: 0, Metadata: [ONNX Layer: conv1.0]␟[ONNX Layer: relu_1]

with an "EventId: 1" before the last where branches run side by side and wait for each other.

Nothing documents that form: it is what 1.7.1 writes. `parse_layers` raises where it finds another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from runtime.backends import LayerPrecision, RanIn
from runtime.backends.tensorrt_rtx_library import READABLE
from runtime.errors import PipelineError

_BEGINS = "Layers:\n"
_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: .*?, StreamId: .*?, Metadata: (?P<metadata>.*)"
)
_TENSOR = re.compile(r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<dimensions>[-\d,]*)\], .*?Datatype: (?P<type>\w+), ")
_ONNX_LAYER = "[ONNX Layer: "
_SEPARATORS = re.compile("[\x1e\x1f]")  # between the entries of "Metadata"
_MULTIPLIES = re.compile(r"corr|conv|gemm|matmul|fc", re.IGNORECASE)
_COPIES = ("shape_call", "memcpy", "signal", "wait")

_TYPES: dict[str, RanIn] = {"Float": "fp32", "Half": "fp16", "BFloat16": "bf16", "Int8": "int8"}
_BYTES = {"Float": 4, "Half": 2, "BFloat16": 2, "Int8": 1, "UInt8": 1, "FP8": 1, "Bool": 1, "Int32": 4, "Int64": 8}


@dataclass(frozen=True)
class LoggedTensor:
    """What a layer reads or writes; a free dimension is -1."""

    name: str
    shape: tuple[int, ...]
    type: str

    @property
    def size_bytes(self) -> int | None:
        """None where a dimension is free, or the type is one whose size is not known here."""
        width = _BYTES.get(self.type)
        return None if width is None or -1 in self.shape else math.prod(self.shape) * width

    @property
    def is_matrix(self) -> bool:
        """More than one dimension has more than one element: no scale, no bias."""
        return sum(side != 1 for side in self.shape) > 1


@dataclass(frozen=True)
class LoggedLayer:
    """A kernel of the engine; `onnx_nodes` are the operators that it computes, or a part of them."""

    name: str
    kind: str
    inputs: tuple[LoggedTensor, ...]
    constants: tuple[LoggedTensor, ...]
    outputs: tuple[LoggedTensor, ...]
    onnx_nodes: tuple[str, ...]

    @property
    def multiplies(self) -> bool:
        """It is a matrix product: a convolution ("correlation"), or what is fused around one."""
        return _MULTIPLIES.search(f"{self.kind} {self.name if self.kind == 'runtime_fusion' else ''}") is not None

    @property
    def ran_in(self) -> RanIn:
        """The type that it multiplies: its weights', unless what it multiplies them by is wider.

        Weights are the first constant that is a matrix; for capability 7.5 what int8 weights were turned into is the second input.
        """
        weights = next((tensor for tensor in (*self.constants, *self.inputs[1:]) if tensor.is_matrix), None)
        if weights is None or (weights.type == "Int8" and all(tensor.type != "Int8" for tensor in self.inputs)):
            weights = next(iter(self.inputs), weights)
        return _TYPES.get(weights.type, "other") if weights is not None else "other"


def parse_layers(messages: Iterable[str]) -> tuple[LoggedLayer, ...]:
    """Return the layers of the engine that a build with these messages made.

    Raises:
        PipelineError: they hold no list of layers, several, or one that reads otherwise.
    """
    lists = [message for message in messages if message.startswith(_BEGINS)]
    if len(lists) != 1:
        raise _unreadable(f"{len(lists)} lists of layers")
    lines = lists[0].removeprefix(_BEGINS).split("\n\n")[0].splitlines()
    layers = tuple(_layer(line) for line in lines)
    if not layers:
        raise _unreadable("an empty list of layers")
    return layers


def layer_precisions(layers: Iterable[LoggedLayer]) -> tuple[LayerPrecision, ...]:
    """Return one entry for each ONNX node that is computed; of several kernels for one node, that which multiplies."""
    found: dict[str, tuple[bool, LayerPrecision]] = {}
    for layer in layers:
        if layer.kind in _COPIES:
            continue
        for node in layer.onnx_nodes:
            if node not in found or (layer.multiplies and not found[node][0]):
                found[node] = (layer.multiplies, LayerPrecision(node, layer.kind, layer.ran_in, _writes(layer)))
    return tuple(layer for _, layer in found.values())


def activation_bytes(layers: Sequence[LoggedLayer]) -> int | None:
    """Return how much the engine's kernels read and write but for constants; None where sizes are free."""
    sizes = [tensor.size_bytes for layer in layers for tensor in (*layer.inputs, *layer.outputs)]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _writes(layer: LoggedLayer) -> RanIn | None:
    return _TYPES.get(layer.outputs[0].type, "other") if layer.outputs else None


def _layer(line: str) -> LoggedLayer:
    match = _LAYER.fullmatch(line)
    if match is None:
        raise _unreadable(f"the layer {line[:200]!r}")
    inputs, constants, outputs = (tuple(_tensors(match[group])) for group in ("inputs", "constants", "outputs"))
    entries = [entry.strip() for entry in _SEPARATORS.split(match["metadata"])]
    # A suffix says how it is computed: "[ONNX Layer: conv1]__gemm_from_conv1x1".
    nodes = tuple(entry.removeprefix(_ONNX_LAYER).rpartition("]")[0] for entry in entries if entry.startswith(_ONNX_LAYER))
    return LoggedLayer(match["name"], match["kind"], inputs, constants, outputs, nodes)


def _tensors(text: str) -> Iterator[LoggedTensor]:
    found = list(_TENSOR.finditer(text))
    if len(found) != text.count("{ Name: "):
        raise _unreadable(f"the tensors {text[:200]!r}")
    for match in found:
        yield LoggedTensor(match["name"], tuple(int(side) for side in match["dimensions"].split(",") if side), match["type"])


def _unreadable(what: str) -> PipelineError:
    return PipelineError(
        f"the builder's log has {what}: this sredge cannot tell what the engine's layers run in",
        hint=f"{READABLE}, which it can read",
    )
