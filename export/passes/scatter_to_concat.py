"""Rewrite an assignment to some channels, which torch exports as ScatterND, as a Concat.

    x[:, a:b] = u    =    [x[:, :a] ; u ; x[:, b:]]

PLKSR and other networks that convolve a part of the channels write it so. What looks at a pixel's neighbours and what is quantized
is then seen through it. Indices may be computed from the size of the batch: they are read off a run of the graph with two pictures.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from export.graph.constants import constant, new_constant
from export.graph.editing import discard, hand_over, insert_node, only_reader
from runtime.backends.onnxruntime import session_options

_TRIED = (2, 48, 96)  # N, H, W where they are free: of any multiple that a network may ask for


def replace_scatters(model: ir.Model) -> tuple[ir.Model, str]:
    found = [node for node in model.graph if node.op_type == "ScatterND" and _assigns(node)]
    known = {node: constant(node.inputs[1]) for node in found}
    computed = [node for node, indices in known.items() if indices is None]
    if computed:
        known |= zip(computed, _run_for_indices(model, computed), strict=True)
    count = 0
    for node in found:
        count += _replace(model.graph, node, known[node])
    return model, f"{count} assignments to channels as Concat"


def _assigns(node: ir.Node) -> bool:
    return "reduction" not in node.attributes or node.attributes["reduction"].as_string() == "none"


def _run_for_indices(model: ir.Model, nodes: list[ir.Node]) -> list[NDArray[np.generic] | None]:
    """Return the indices that each of `nodes` reads in a run with two pictures.

    None each where the graph does not run with them.
    """
    names = [str(node.inputs[1].name) for node in nodes if node.inputs[1] is not None]
    asked = ir.to_proto(model)
    del asked.graph.output[:]
    asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    declared = model.graph.inputs[0].shape
    assert declared is not None
    sizes = [side if isinstance(side, int) else tried for side, tried in zip((declared[0], *declared[2:]), _TRIED, strict=True)]
    channels = declared[1]
    assert isinstance(channels, int)
    picture = np.zeros((sizes[0], channels, *sizes[1:]), np.float32)
    try:
        session = ort.InferenceSession(asked.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])
        made = session.run(None, {str(model.graph.inputs[0].name): picture})
    except Exception:  # noqa: BLE001 # whatever the runtime raises: nothing is known of these indices
        return [None] * len(nodes)
    found = dict(zip(dict.fromkeys(names), made, strict=True))
    return [found[name] for name in names]


def _replace(graph: ir.Graph, node: ir.Node, indices: NDArray[np.generic] | None) -> bool:
    """Replace `node` by a Concat where it assigns to neighbouring places along one axis, and to all places along those before."""
    data, updates = node.inputs[0], node.inputs[2]
    if indices is None or not indices.size or data is None or updates is None or data.shape is None:
        return False
    axis = indices.shape[-1] - 1
    first, count, extent = int(indices[..., -1].min()), indices.shape[-2], data.shape[axis]
    grid = np.stack(np.meshgrid(*map(np.arange, indices.shape[:-1]), indexing="ij"), axis=-1)
    grid[..., -1] += first
    if indices.ndim != axis + 2 or not isinstance(extent, int) or not np.array_equal(indices, grid):
        return False
    is_constant = constant(node.inputs[1]) is not None  # then it assigns to as many pictures as it says, whatever the batch
    for side, there in zip(data.shape, indices.shape[:axis], strict=False):
        if side != there and (is_constant or isinstance(side, int)):
            return False
    data, updates, axis, after = _before_transposes(node, data, updates, axis)
    pieces: list[ir.Value] = [updates]
    if first > 0:
        pieces.insert(0, _slice(graph, node, data, 0, first, axis))
    if first + count < extent:
        pieces.append(_slice(graph, node, data, first + count, extent, axis))
    joined = insert_node(node, "Concat", pieces, [ir.AttrInt64("axis", axis)], like=data)
    hand_over(after.outputs[0], joined)
    for spare in (after, node) if after is not node else (node,):
        discard(spare)
    return True


def _before_transposes(node: ir.Node, data: ir.Value, updates: ir.Value, axis: int) -> tuple[ir.Value, ir.Value, int, ir.Node]:
    """Return what is assigned to, what is assigned, the axis, and the node whose output it becomes.

    Outside Transposes around `node`.
    """
    turns = [value.producer() for value in (data, updates)]
    back = only_reader(node.outputs[0])
    if back is None or not all(one is not None and one.op_type == "Transpose" for one in (*turns, back)):
        return data, updates, axis, node
    perms = [tuple(one.attributes["perm"].as_ints()) for one in (*turns, back) if one is not None]
    sources = [one.inputs[0] for one in turns if one is not None]
    if perms[0] != perms[1] or [perms[0][place] for place in perms[2]] != sorted(perms[0]) or None in sources:
        return data, updates, axis, node
    outer, inner = sources
    assert outer is not None
    assert inner is not None
    return outer, inner, perms[0][axis], back


def _slice(graph: ir.Graph, node: ir.Node, value: ir.Value, start: int, stop: int, axis: int) -> ir.Value:
    bounds = [new_constant(graph, np.array([number], np.int64), name="assigned") for number in (start, stop, axis)]
    made = insert_node(node, "Slice", [value, *bounds], like=value)
    if value.shape is not None:
        made.shape = ir.Shape([stop - start if index == axis else side for index, side in enumerate(value.shape)])
    return made
