"""Move an activation ahead of DepthToSpace, to the convolution that a runtime can fuse it into.

DepthToSpace only moves values, so an operator that treats each value by itself commutes with it: a(D(x)) = D(a(x)). A PReLU with a
slope a channel has that slope repeated for the r² channels that one channel is shuffled from.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.graph.constants import constant, new_constant
from export.graph.editing import discard, hand_over, insert_node, only_reader, producer

_ELEMENTWISE = ("Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "Elu")


def move_activations(model: ir.Model) -> tuple[ir.Model, str]:
    count = 0
    for shuffle in list(model.graph):
        if shuffle.op_type != "DepthToSpace" or producer(shuffle.inputs[0], "Conv") is None:
            continue
        activation = only_reader(shuffle.outputs[0])
        if activation is None or activation.op_type not in _ELEMENTWISE:
            continue
        parameters = _parameters(activation, shuffle)
        wide = shuffle.inputs[0]
        if parameters is None or wide is None:
            continue
        moved = insert_node(shuffle, activation.op_type, [wide, *parameters], list(activation.attributes.values()), like=wide)
        shuffle.replace_input_with(0, moved)
        hand_over(activation.outputs[0], shuffle.outputs[0])
        discard(activation)
        count += 1
    return model, f"{count} moved"


def _parameters(activation: ir.Node, shuffle: ir.Node) -> list[ir.Value | None] | None:
    """Return the activation's further inputs as they must be ahead of the shuffle; None where it cannot be moved."""
    given = list(activation.inputs[1:])
    if activation.op_type != "PRelu":
        return given if activation.inputs[0] is shuffle.outputs[0] else None
    slope = constant(given[0])
    if slope is None or activation.inputs[0] is not shuffle.outputs[0]:
        return None
    if slope.size == 1:
        return given
    if slope.ndim < 3 or slope.shape[-2:] != (1, 1) or slope.size != slope.shape[-3]:
        return None
    repeats = shuffle.attributes["blocksize"].as_int() ** 2
    mode = shuffle.attributes["mode"].as_string() if "mode" in shuffle.attributes else "DCR"
    flat = slope.reshape(-1)
    wide = np.repeat(flat, repeats) if mode == "CRD" else np.tile(flat, repeats)
    assert activation.graph is not None
    assert given[0] is not None
    return [new_constant(activation.graph, wide.reshape(-1, 1, 1), name=str(given[0].name))]
