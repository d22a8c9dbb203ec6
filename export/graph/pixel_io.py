"""Wrap a graph so that it takes and gives raw pixels: (N, H, W, C) uint8 in, (N, H·scale, W·scale, C) uint8 out.

An app then needs no code for floats.

What `runtime/pictures/pixels.py` does around a graph of floats, in ONNX operators. With x the picture and f the graph,

    y = uint8(clip(round(255 · transpose(f(transpose(float(x)) / 255))), 0, 255))       round: to the nearest, ties to even

The operators are chosen so that backends give the runtime's own bytes. openvino would make a multiplication by float32(1/255) of
the division, which is an ulp off for 126 of the 256 codes. Since 255 · 257 = 2¹⁶ - 1, instead

    x / 255 = x · 257/2¹⁶ + x / (255 · 2¹⁶)

whose first product is exact in float32; the sum is x / 255 to the nearest for every code, with or without a fused multiply-add.
At the end the transposition comes first: what stood next to the network's last operator would be merged with it, 255 with a
convolution's weights, or the clipping with a quantizer, where openvino then makes 254 of white.
Bytes are cast before anything else and at the very end, since that is all that TensorRT does with them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import onnx

from runtime.bundle import Bundle, Variant, extend_bundle, sha256_bytes

_FLOAT, _UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
_TO_PLANES, _TO_PIXELS = (0, 3, 1, 2), (0, 2, 3, 1)
_CONSTANTS = {
    "pixels_0": 0.0,
    "pixels_255": 255.0,
    "pixels_257/2^16": 257 / (1 << 16),
    "pixels_1/(255*2^16)": 1 / (255 * (1 << 16)),
}


def add_pixel_io(bundle: Bundle, variant: Variant) -> Bundle:
    """Add a graph beside that of `variant` that takes and gives raw pixels; return `bundle` itself where it has that graph."""
    data = with_pixel_io(onnx.load_model_from_string(bundle.read(variant))).SerializeToString(deterministic=True)
    pixels = variant.model_copy(
        update={
            "file": f"{variant.file.removesuffix('.onnx')}.uint8-io.onnx",
            "sha256": sha256_bytes(data),
            "io": "uint8",
            "parent_sha256": variant.sha256,
            "passes": (),
            "parity": None,
            "psnr_vs_fp32_db": None,
        }
    )
    if pixels in bundle.manifest.variants:
        return bundle
    return extend_bundle(bundle, lambda manifest: manifest.with_variant(pixels), files={pixels.file: data})


def with_pixel_io(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model`, (N, C, H, W) float32 in [0, 1] in and out, as one that takes and gives pixels, `pixels_in` to `pixels_out`.

    Works on an fp32 or int8 graph alike: what is quantized stays as it is, and so do the names in it. Opset 11 or above.
    """
    wrapped = copy.deepcopy(model)
    graph = wrapped.graph
    (source,), (result,) = graph.input, graph.output
    for name, value in _CONSTANTS.items():
        graph.initializer.add(name=name, data_type=_FLOAT, float_data=[value])
    network = [copy.deepcopy(node) for node in graph.node]
    del graph.node[:]
    _add(graph, "Cast", ["pixels_in"], "pixels_float", to=_FLOAT)
    _add(graph, "Transpose", ["pixels_float"], "pixels_nchw", permutation=_TO_PLANES)
    _add(graph, "Mul", ["pixels_nchw", "pixels_257/2^16"], "pixels_exact")
    _add(graph, "Mul", ["pixels_nchw", "pixels_1/(255*2^16)"], "pixels_rest")
    _add(graph, "Add", ["pixels_exact", "pixels_rest"], source.name)
    graph.node.extend(network)
    _add(graph, "Transpose", [result.name], "pixels_nhwc", permutation=_TO_PIXELS)
    _add(graph, "Mul", ["pixels_nhwc", "pixels_255"], "pixels_levels")
    _add(graph, "Round", ["pixels_levels"], "pixels_rounded")
    _add(graph, "Clip", ["pixels_rounded", "pixels_0", "pixels_255"], "pixels_clipped")
    _add(graph, "Cast", ["pixels_clipped"], "pixels_out", to=_UINT8)
    for value, name in ((source, "pixels_in"), (result, "pixels_out")):
        _declare(value, name, axes=_TO_PIXELS, elem_type=_UINT8)
    return wrapped


def _add(
    graph: onnx.GraphProto,
    operator: str,
    inputs: list[str],
    output: str,
    *,
    permutation: Iterable[int] | None = None,
    to: int | None = None,
) -> None:
    node = graph.node.add(op_type=operator, name=f"{output}.{operator.lower()}", input=inputs, output=[output])
    if permutation is not None:
        node.attribute.add(name="perm", type=onnx.AttributeProto.INTS, ints=permutation)
    if to is not None:
        node.attribute.add(name="to", type=onnx.AttributeProto.INT, i=to)


def _declare(value: onnx.ValueInfoProto, name: str, *, axes: Iterable[int], elem_type: int) -> None:
    """Declare a graph's input or output under that name, of that type, its dimensions in the order of `axes`."""
    value.name = name
    tensor = value.type.tensor_type
    sizes = [copy.deepcopy(tensor.shape.dim[axis]) for axis in axes]
    tensor.elem_type = elem_type
    del tensor.shape.dim[:]
    tensor.shape.dim.extend(sizes)


def has_pixel_io(model: onnx.ModelProto) -> bool:
    """Return whether `model` is one that `with_pixel_io` gave."""
    return bool(model.graph.input[0].name == "pixels_in")


def without_pixel_io(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph of floats that `with_pixel_io` made `model` of: for a compiler that has ends of its own for pixels."""
    inner = copy.deepcopy(model)
    graph = inner.graph
    (last,) = [node for node in graph.node if node.output[0] == "pixels_nhwc"]
    ends = {node.name: node for node in graph.node if node.output[0].startswith("pixels_") or "pixels_rest" in node.input}
    (first,) = [node for node in ends.values() if "pixels_rest" in node.input]
    for value, name in ((graph.input[0], first.output[0]), (graph.output[0], last.input[0])):
        _declare(value, name, axes=_TO_PLANES, elem_type=_FLOAT)
    network = [copy.deepcopy(node) for node in graph.node if node.name not in ends]
    constants = [copy.deepcopy(tensor) for tensor in graph.initializer if tensor.name not in _CONSTANTS]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(network)
    graph.initializer.extend(constants)
    return inner
