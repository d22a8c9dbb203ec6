"""Run a graph piece by piece: a graph and crops in, the values of chosen tensors out, a few at a time.

Only those activations of a large picture that are still to be read are held in memory.

A graph whose tensors are all watched has all of them in memory when its run ends: of LESRCNN x2 and a 510×340 picture 2 GB. So
its nodes, in the order they run, are split wherever the tensors watched would come to more than some bytes. Each piece is a graph
of its own and is fed what it reads of those before it: nothing is computed twice. A graph that hands out less is one piece.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, shape_inference

from runtime.backends.onnxruntime import session_options

Values = dict[str, NDArray[np.float32]]
_MOST_BYTES = 16 << 20  # an eighth of what LESRCNN x2 makes of a 96×96 crop, the default; pieces of half the size save 9 MB more
_ARENA = {
    "max_mem": 0,  # no limit
    "arena_extend_strategy": 1,  # as much as is asked for: doubling holds twice what is used
    "initial_chunk_size_bytes": 1 << 20,
    "max_dead_bytes_per_chunk": -1,  # the default
}


def watched_options() -> ort.SessionOptions:
    """Return how a graph is run whose tensors are watched: in memory that all such sessions of the process share."""
    _register_arena()
    options = session_options(spinning=False)  # threads that spin would keep the cores from whoever reads what was made
    # An arena for each session would hold what each once needed; none at all costs a page fault for every 4 KiB of every tensor.
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.enable_mem_pattern = False  # one block for all of a run, which no two sessions could share
    return options


@cache
def _register_arena() -> None:
    """Give ONNX Runtime's environment, of which a process has one, an arena; one that it has already stays."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    with suppress(RuntimeError):  # an app that embeds this has registered its own
        ort.create_and_register_allocator(memory, ort.OrtArenaCfg(_ARENA))


def stream_tensors(
    model: ir.Model, crops: Iterator[NDArray[np.float32]], tensors: Collection[str], *, most_bytes: int = _MOST_BYTES
) -> Iterator[tuple[int, Values]]:
    """Yield what every one of `tensors`, the graph's input or made by it, holds: the index of a crop and some of them, each once.

    Where whoever reads them lets go of some before taking the next, `most_bytes` of them are held, or a single one if that is more.
    """
    proto = ir.to_proto(model)
    input_name = proto.graph.input[0].name
    pieces: Sequence[_Piece] = ()
    planned_for = 0
    for index, crop in enumerate(crops):
        if crop.size > planned_for:
            pieces, planned_for = _split(proto, set(tensors), crop.shape, most_bytes), crop.size
        live: Values = {input_name: crop}
        if input_name in tensors:
            yield index, dict(live)
        for piece in pieces:
            live.update(piece.run(live))
            yield index, {name: live[name] for name in piece.watched}
            live = {name: live[name] for name in piece.kept}


@dataclass
class _Piece:
    """Consecutive nodes as a graph of their own.

    Attributes:
        model: the nodes and the constants they read; without inputs and outputs.
        reads: what it is fed.
        watched: what it makes that is watched.
        kept: what later pieces read, made by this one or before.
        makes: of all that, what is made by this one.
    """

    model: onnx.ModelProto
    reads: list[str]
    watched: list[str]
    kept: list[str]
    makes: list[str]
    _session: ort.InferenceSession | None = None

    def run(self, live: Mapping[str, NDArray[np.float32]]) -> Values:
        """Return what it makes, of what is there."""
        fed = {name: live[name] for name in self.reads}
        if self._session is None:
            self._session = self._open(fed)
        return dict(zip(self.makes, self._session.run(self.makes, fed), strict=True))

    def _open(self, fed: Values) -> ort.InferenceSession:
        """Return a session for tensors of the types of those, whatever their size."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.model)
        for name, values in fed.items():
            element = helper.np_dtype_to_tensor_dtype(values.dtype)
            proto.graph.input.append(helper.make_tensor_value_info(name, element, [None] * values.ndim))
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.makes)
        return ort.InferenceSession(proto.SerializeToString(), watched_options(), providers=["CPUExecutionProvider"])


def _split(proto: onnx.ModelProto, watched: set[str], shape: Sequence[int], most_bytes: int) -> list[_Piece]:
    """Return the graph in pieces, for an input of `shape`."""
    groups = _group_nodes(proto.graph, watched, _sizes_bytes(proto, shape), most_bytes)
    reads = [set().union(*(_reads(node) for node in nodes)) for nodes in groups]
    there = {proto.graph.input[0].name}
    pieces = []
    for index, nodes in enumerate(groups):
        made = {name for node in nodes for name in node.output if name}
        fed, there = there & reads[index], there | made
        kept = there & set().union(*reads[index + 1 :])
        pieces.append(
            _Piece(
                model=_graph_of(proto, nodes, reads[index]),
                reads=sorted(fed),
                watched=sorted(made & watched),
                kept=sorted(kept),
                makes=sorted(made & (watched | kept)),
            )
        )
    return pieces


def _group_nodes(
    graph: onnx.GraphProto, watched: set[str], sizes_bytes: Mapping[str, int], most_bytes: int
) -> list[list[onnx.NodeProto]]:
    """Consecutive nodes up to the last whose output is watched; a group ends with such a node, so that no fused pair is parted."""
    groups: list[list[onnx.NodeProto]] = []
    pending: list[onnx.NodeProto] = []
    held_bytes = most_bytes
    for node in graph.node:
        pending.append(node)
        made_bytes = sum(sizes_bytes[name] for name in node.output if name in watched)
        if not watched.intersection(node.output):
            continue
        if held_bytes + made_bytes > most_bytes or not groups:
            groups.append([])
            held_bytes = 0
        groups[-1] += pending
        pending, held_bytes = [], held_bytes + made_bytes
    return groups


def _graph_of(proto: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], reads: set[str]) -> onnx.ModelProto:
    model = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    model.graph.name = proto.graph.name
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(tensor for tensor in proto.graph.initializer if tensor.name in reads)
    return model


def _reads(node: onnx.NodeProto) -> set[str]:
    """Return the names that `node` reads, those in its subgraphs among them."""
    graphs = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
    return {*node.input}.union(*(_reads(inner) for graph in graphs for inner in graph.node))


def _sizes_bytes(proto: onnx.ModelProto, shape: Sequence[int]) -> dict[str, int]:
    """Return how large each tensor is for an input of `shape`.

    Where that cannot be inferred, as large as the largest it is made of.
    """
    sized = onnx.ModelProto()
    sized.CopyFrom(proto)
    del sized.graph.value_info[:]
    for dimension, size in zip(sized.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dimension.dim_value = size
    for output in sized.graph.output:
        output.type.tensor_type.ClearField("shape")
    graph = shape_inference.infer_shapes(sized, data_prop=True).graph
    sizes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            sizes[value.name] = 4 * math.prod(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
    for node in graph.node:
        largest = max((sizes.get(name, 0) for name in node.input), default=0)
        sizes.update({name: largest for name in node.output if not sizes.get(name)})
    return sizes
