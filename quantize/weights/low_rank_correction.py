"""Correct an int8 layer's input-rounding error along the few directions that the picture depends on most.

    y = W x̂ + (W U) Uᵀ(x - x̂)

x is the input, (C,) at every pixel, x̂ what int8 stores of it, U (C, R) orthonormal. An upsampling convolution hears all of its
input's rounding noise, but most of what becomes of it in the picture comes from a few directions among the channels.
(Scetbon & Hensman 2024, arXiv 2412.07902, correct language models so, with Uᵀ and W U in float. Here Uᵀ(x - x̂) is R channels more
in int8, enlarged and at the scale of x̂, and W U as many columns more of the weight. Uᵀ is in float: C·R multiply-accumulates a
pixel.)

U is measured. With e = x̂ - x, d what e alone changes in the picture, and d(p) all of it that lies where pixel p of x does,

    A_s = Σ_p d(p) e(p + s)ᵀ,    U = the first R eigenvectors of Σ_s A_sᵀ A_s,    s over a pixel's neighbours:

rounding errors of different channels and pixels have next to nothing to do with each other, so that A_s is the network's linear
part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.watch import watch_tensors
from export.graph.constants import constant_input, new_constant
from quantize.graph.input_correction import RANK, directions_name, producer_of, readings_of_input
from quantize.graph.qdq import QuantizationParameters, RoundedWeight, write_qdq
from quantize.graph.walk import Array
from runtime.targets import Target

CROPS = 4  # that U is measured on; with 32 what is left of the error was less by three in a thousand
_REACH = 2  # pixels of x to each side
_GAIN = 16  # of the new channels: more rounds their columns of the weight more coarsely, less the channels themselves

Numbers = NDArray[np.float64]


def principal_directions(
    model: ir.Model, layer: ir.Node, parameters: QuantizationParameters, crops: Sequence[Array], *, target: Target
) -> Numbers:
    """(C, R): U of the module's docstring for `layer` of the fp32 `model`; `crops`, (1, C, H, W) each.

    Where the picture has not a whole number of pixels for each of x, the layer's own weight takes the place of A.
    """
    readings = readings_of_input(layer, target)
    while len(readings) > 1 and readings[-2].reader.op_type == "Pad":  # whose border has no error, and no pixel of the picture
        readings.pop()
    before_pad = readings[-1]
    read, output = str(before_pad.tensor.name), str(model.graph.outputs[0].name)
    rough = ir.from_proto(ir.to_proto(model))
    others = [str(node.name) for node in rough.graph if node.name != before_pad.reader.name]
    write_qdq(rough, parameters={read: parameters}, rounded={}, target=target, float_readers=others)
    in_both = watch_tensors(model, iter(crops), {output}), watch_tensors(rough, iter(crops), {output, read, f"{read}.dequantized"})
    maps: Numbers = np.zeros(())  # (S, O, C)
    for exact, rounded in zip(*in_both, strict=True):
        change, error = rounded[output] - exact[output], rounded[f"{read}.dequantized"] - rounded[read]
        factor = change.shape[2] // error.shape[2]
        if change.shape[2:] != (factor * error.shape[2], factor * error.shape[3]):
            weight = constant_input(layer, 1)
            maps = weight.reshape(*weight.shape[:2], -1).transpose(2, 0, 1).astype(np.float64)
            break
        maps = maps + linear_part(pixel_blocks(change[0], factor), error[0])
    _, vectors = np.linalg.eigh(np.einsum("soc,sod->cd", maps, maps))
    return np.ascontiguousarray(vectors[:, : -RANK - 1 : -1])


def pixel_blocks(change: Array, factor: int) -> Array:
    """(O, H·f, W·f) -> (O·f·f, H·W): all that lies where each pixel of a tensor f times smaller does."""
    outputs, height, width = len(change), change.shape[1] // factor, change.shape[2] // factor
    tiles = change.reshape(outputs, height, factor, width, factor).transpose(0, 2, 4, 1, 3)
    return tiles.reshape(-1, height * width)


def linear_part(blocks: Array, error: Array) -> Numbers:
    """(V, H·W) and (C, H, W) -> A of the module's docstring, (S, V, C)."""
    channels, height, width = error.shape
    padded = np.pad(error, ((0, 0), (_REACH, _REACH), (_REACH, _REACH)))
    shifts = range(2 * _REACH + 1)
    nearby = [padded[:, top : top + height, left : left + width].reshape(channels, -1) for top in shifts for left in shifts]
    return np.stack([(blocks @ shifted.T).astype(np.float64) for shifted in nearby])


def widen_weight(rounded: RoundedWeight, directions: Numbers, target: Target) -> RoundedWeight:
    """With columns for the channels that `correct_input` adds, in steps of the scale that the others have."""
    columns = np.einsum("oikl,ir->orkl", rounded.weight.astype(np.float64), _signed(directions, target)) / _GAIN
    steps = np.clip(np.rint(columns), -target.largest_weight, target.largest_weight).astype(np.int8)
    return replace(rounded, weight=np.concatenate([rounded.weight, steps], axis=1))


def correct_input(graph: ir.Graph, layer: ir.Node, directions: Numbers, target: Target) -> None:
    """Give `layer` of an int8 graph, whose weight is widened, the channels that its new columns are for."""
    name = f"{layer.name}.input"
    restored = layer.inputs[0]
    quantize = producer_of(producer_of(restored).inputs[0])
    exact, scale, zero_point = quantize.inputs
    columns = _GAIN * _signed(directions, target).T[:, :, np.newaxis, np.newaxis]
    kernel = new_constant(graph, columns.astype(np.float32), name=directions_name(str(layer.name)))

    def add(op: str, part: str, inputs: Sequence[ir.Value | None], **attributes: int) -> ir.Value:
        node = ir.node(op, inputs, attributes, name=f"{name}.{part}")
        node.outputs[0].name = node.name
        graph.append(node)
        return node.outputs[0]

    projected = add("Conv", "projected", [add("Sub", "missed", [exact, restored]), kernel])
    if not target.activation_symmetric:
        projected = add("Relu", "to_either_side", [projected])  # of what could be stored with either sign, both would store it
    if target.moves_integers:
        codes = add("QuantizeLinear", "codes", [projected, scale, zero_point])
        wide = add("Concat", "wide", [quantize.outputs[0], codes], axis=1)
    else:
        wide = add("QuantizeLinear", "codes", [add("Concat", "wide", [exact, projected], axis=1), scale, zero_point])
    layer.replace_input_with(0, add("DequantizeLinear", "dequantized", [wide, scale, zero_point]))
    graph.sort()


def _signed(directions: Numbers, target: Target) -> Numbers:
    return directions if target.activation_symmetric else np.concatenate([directions, -directions], axis=1)
