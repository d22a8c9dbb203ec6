"""Write the operators that multiply by weights as ncnn's layers: convolutions, transposed ones, products with a matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...bundle.graph_content import Node
from .builder import Array, Blob, Builder, Convert, Value
from .constants import integer, integers, number, text
from .model import Number, Weights

# ncnn's product of matrices first gathers all that each output pixel reads: 6 GB for 9×9 of 64 channels (SRGAN x2) at 233×299.
# Beyond so many numbers per input pixel (3×3 of 64 channels are 576) it convolves without.
_MOST_GATHERED = 600
_WITHOUT, _GATHERING = 31, 1 << 5


def _picture(build: Builder, node: Node, value: Value | None) -> Blob:
    """Return an input that must be (1, C, H, W)."""
    if not isinstance(value, Blob) or len(value.shape) != 4:
        raise build.refuse(node, "reads something else than pictures of four axes")
    return value


def _constant(build: Builder, node: Node, value: Value | None) -> Array | None:
    if isinstance(value, Blob):
        raise build.refuse(node, "has a weight that the graph computes")
    return value


def _spatial(build: Builder, node: Node, weight: Array) -> dict[int, Number]:
    if text(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise build.refuse(node, f"has auto_pad {text(node, 'auto_pad', '')}")
    if weight.ndim != 4:
        raise build.refuse(node, f"has a kernel of {weight.ndim - 2} dimensions, expected 2")
    strides, dilations = integers(node, "strides", (1, 1)), integers(node, "dilations", (1, 1))
    top, left, bottom, right = integers(node, "pads", (0, 0, 0, 0))
    sides = {1: weight.shape[3], 11: weight.shape[2], 2: dilations[1], 12: dilations[0], 3: strides[1], 13: strides[0]}
    return {**sides, 4: left, 14: top, 15: right, 16: bottom}


def convolution(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write Conv as Convolution, of several groups as ConvolutionDepthWise."""
    picture, weight = _picture(build, node, inputs[0]), _constant(build, node, inputs[1])
    bias = _constant(build, node, inputs[2]) if len(inputs) > 2 else None
    assert weight is not None
    spatial, group = _spatial(build, node, weight), integer(node, "group", 1)
    height, width = (
        (side + spatial[before] + spatial[after] - spatial[dilation] * (spatial[kernel] - 1) - 1) // spatial[stride] + 1
        for side, before, after, dilation, kernel, stride in zip(
            picture.shape[2:], (14, 4), (16, 15), (12, 2), (11, 1), (13, 3), strict=True
        )
    )
    parameters = {0: weight.shape[0], **spatial, 5: int(bias is not None), 6: weight.size, **({7: group} if group > 1 else {})}
    if weight[0].size > _MOST_GATHERED * spatial[3] * spatial[13]:
        parameters[_WITHOUT] = _GATHERING
    weights = [Weights(weight, tagged=True), *([] if bias is None else [Weights(bias)])]
    shape = (1, weight.shape[0], int(height), int(width))
    kind = "Convolution" if group == 1 else "ConvolutionDepthWise"
    return build.add(node, kind, (picture,), shape, parameters=parameters, weights=weights)


def transposed_convolution(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write ConvTranspose as Deconvolution, whose weight has its output channels before its input channels."""
    picture, weight = _picture(build, node, inputs[0]), _constant(build, node, inputs[1])
    bias = _constant(build, node, inputs[2]) if len(inputs) > 2 else None
    assert weight is not None
    if "output_shape" in node.attributes:
        raise build.refuse(node, "has an output_shape")
    spatial, group = _spatial(build, node, weight), integer(node, "group", 1)
    more = integers(node, "output_padding", (0, 0))
    height, width = (
        (side - 1) * spatial[stride] - spatial[before] - spatial[after] + spatial[dilation] * (spatial[kernel] - 1) + 1 + extra
        for side, before, after, dilation, kernel, stride, extra in zip(
            picture.shape[2:], (14, 4), (16, 15), (12, 2), (11, 1), (13, 3), more, strict=True
        )
    )
    read, made = weight.shape[0] // group, weight.shape[1]
    turned = weight.reshape(group, read, made, *weight.shape[2:]).transpose(0, 2, 1, 3, 4)
    parameters = {0: made * group, **spatial, 5: int(bias is not None), 6: weight.size, 18: more[1], 19: more[0]}
    parameters |= {7: group} if group > 1 else {}
    weights = [Weights(turned, tagged=True), *([] if bias is None else [Weights(bias)])]
    kind = "Deconvolution" if group == 1 else "DeconvolutionDepthWise"
    return build.add(node, kind, (picture,), (1, made * group, int(height), int(width)), parameters=parameters, weights=weights)


def product(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write MatMul: a row, or a matrix of rows, by constant weights as InnerProduct, any other as MatMul."""
    one, other = inputs[0], inputs[1]
    assert one is not None
    assert other is not None
    if isinstance(one, Blob) and not isinstance(other, Blob) and other.ndim == 2 and len(one.shape) <= 3:
        return _inner_product(build, node, one, other.T, None)
    rank = max(len(value.shape) for value in (one, other))
    blobs = [build.blob(node, value, rank=rank) for value in (one, other)]
    if any(len(blob.shape) != rank or rank < 3 for blob in blobs) or blobs[0].shape[:-2] != blobs[1].shape[:-2]:
        raise build.refuse(node, f"multiplies shapes {blobs[0].shape} and {blobs[1].shape}, of which ncnn has no product")
    return build.add(node, "MatMul", blobs, (*blobs[0].shape[:-1], blobs[1].shape[-1]))


def general_product(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write Gemm of one row by constant weights as InnerProduct."""
    weight, bias = _constant(build, node, inputs[1]), _constant(build, node, inputs[2]) if len(inputs) > 2 else None
    row = inputs[0]
    if not isinstance(row, Blob) or weight is None or integer(node, "transA", 0) or number(node, "alpha", 1.0) != 1.0:
        raise build.refuse(node, "is no product of a row with constant weights")
    if bias is not None and (number(node, "beta", 1.0) != 1.0 or bias.size != weight.shape[0 if integer(node, "transB", 0) else 1]):
        raise build.refuse(node, "has a third input that is no bias")
    return _inner_product(build, node, row, weight if integer(node, "transB", 0) else weight.T, bias)


def _inner_product(build: Builder, node: Node, row: Blob, weight: Array, bias: Array | None) -> list[Blob]:
    """`weight` is (output channels, input channels)."""
    parameters = {0: weight.shape[0], 1: int(bias is not None), 2: weight.size}
    weights = [Weights(weight, tagged=True), *([] if bias is None else [Weights(bias)])]
    return build.add(node, "InnerProduct", (row,), (*row.shape[:-1], weight.shape[0]), parameters=parameters, weights=weights)


def layer_normalization(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Blob]:
    """Write LayerNormalization over the last axis as LayerNorm."""
    blob, scale = inputs[0], _constant(build, node, inputs[1])
    shift = _constant(build, node, inputs[2]) if len(inputs) > 2 else None
    if not isinstance(blob, Blob) or scale is None or integer(node, "axis", -1) not in (-1, len(blob.shape) - 1):
        raise build.refuse(node, "normalizes over more than the last axis")
    size = blob.shape[-1]
    weights = [Weights(scale), Weights(np.zeros(size, np.float32) if shift is None else shift)]
    parameters: dict[int, Number] = {0: size, 1: number(node, "epsilon", 1e-5), 2: 1}
    return build.add(node, "LayerNorm", (blob,), blob.shape, parameters=parameters, weights=weights)


OPERATORS: dict[str, Convert] = {
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Gemm": general_product,
    "LayerNormalization": layer_normalization,
    "MatMul": product,
}
