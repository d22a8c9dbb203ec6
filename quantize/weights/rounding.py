"""Round a network's weights layer by layer, from input to output, each layer for the inputs that the int8 network then gives it.

Every layer is fitted so that it makes of that what it makes in fp32 (`quantize/weights/fit_layer.py`), and makes up for what
rounding did to the layers before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from quantize.graph.layers import along, bias_gain, output_axis
from quantize.graph.operators import computed_inputs
from quantize.graph.placement import Placement
from quantize.graph.qdq import QuantizationParameters, RoundedWeight, fake_quantize
from quantize.graph.walk import Array, run_node
from quantize.weights.fit_layer import fit_layer
from runtime.targets import Target


def round_layers(
    model: ir.Model,
    placement: Placement,
    parameters: Mapping[str, QuantizationParameters],
    crops: Sequence[Array],
    *,
    target: Target,
    rng: np.random.Generator,
    on_step: Callable[[int, int], None],
    float_readers: Collection[str] = (),
) -> dict[str, RoundedWeight]:
    """Round every layer of `model` in int8 that has parts (`quantize/weights/layer_parts.py`), on `crops`, (1, C, H, W) each.

    `float_readers`, operators by name, read no tensor rounded.
    """
    exact: dict[str, list[Array]] = {str(model.graph.inputs[0].name): list(crops)}
    rough = dict(exact)
    left = {value: len(list(value.uses())) for node in model.graph for value in (*model.graph.inputs, *node.outputs)}
    opsets = dict(model.graph.opset_imports)
    rounded: dict[str, RoundedWeight] = {}
    for index, node in enumerate(model.graph):
        on_step(index, len(model.graph))
        values = computed_inputs(node)
        names = [str(value.name) for value in values]
        made = run_node(node, [exact[name] for name in names], opsets=opsets, crops=len(crops))
        stored = {} if node.name in float_readers else parameters
        given = [[_quantized(name, array, stored) for array in rough[name]] for name in names]
        wanted, rough_made = made[0], made
        if node.name in placement.int8_layers and wanted is not None:
            layer = fit_layer(node, given[0], wanted, rng, target=target, input_scale=parameters[names[0]].scale)
            if layer is not None:
                rounded[str(node.name)] = layer
            changed = node if layer is None else _with_rounded(node, layer)
            rough_made = run_node(changed, given, opsets=opsets, crops=len(crops))
        elif any(rough[name] is not exact[name] or name in stored for name in names):
            rough_made = run_node(node, given, opsets=opsets, crops=len(crops))
        for output, one, other in zip(node.outputs, made, rough_made, strict=True):
            if one is not None and other is not None:
                exact[str(output.name)], rough[str(output.name)] = one, other
        for value in values:
            left[value] -= 1
            if not left[value]:
                del exact[str(value.name)], rough[str(value.name)]
    return rounded


def _with_rounded(node: ir.Node, layer: RoundedWeight) -> ir.Node:
    """Return a node like `node`, with the weight and the bias that its rounded ones stand for."""
    axis = output_axis(node)
    parts = {"weight": (layer.weight * along(layer.scale, layer.weight.ndim, axis)).astype(np.float32)}
    if bias_gain(node):
        parts["bias"] = layer.bias.astype(np.float32)
    constants = [ir.val(f"{node.name}.{part}", const_value=ir.tensor(array)) for part, array in parts.items()]
    return ir.Node("", node.op_type, [node.inputs[0], *constants], list(node.attributes.values()), outputs=[ir.val("made")])


def _quantized(name: str, array: Array, parameters: Mapping[str, QuantizationParameters]) -> Array:
    return fake_quantize(array, parameters[name]) if name in parameters else array
