"""Tell which backend was measured fastest for graphs like one: a bundle's fp32 graph in, a backend's name out, nothing timed here.

ncnn convolves 3×3 kernels by Winograd's minimal filtering, F(6×6, 3×3), with 64 products in place of 324 (Lavin and Gray, 2016,
https://arxiv.org/abs/1509.09308); what it gains depends on how many channels share each transform. For other kernels it is slower
than openvino. ncnn's CPU time of one thread as a multiple of that of openvino or onnxruntime, whichever took less, by the share of
multiply-accumulates in such convolutions (deploy_docs/ncnn.md has the milliseconds):

    share in 3×3 from and to 64 channels   network            x86 with AVX2   with AVX-512
    0.96 to 1.00                           LESRCNN, MDSR      0.67 to 0.93    0.84
    0.78 to 0.88                           SRGAN              0.96 to 0.99    0.91 to 0.92
    0.62                                   ESPCN              1.17            0.95
    0                                      SRCNN              2.75            2.72
    0                                      EDSR of 24, SPAN   1.40 to 1.43
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..bundle import Bundle, Layer, Variant
from ..bundle.graph_content import Array, GraphContent, Node, read_graph_content
from ..errors import BundleError

_NCNN = "ncnn"
_KERNEL, _LEAST_CHANNELS = (3, 3), 64  # of 48 and 32 channels ncnn takes 0.98 and 1.02 of the others' time
_LEAST_SHARE = 0.75  # between SRGAN x8, 0.99 of the others' time, and ESPCN, 1.17
# What the measured networks are made of. None of these reads a size, so that ncnn makes one network for all of them.
_ACTIVATIONS = {"Clip", "LeakyRelu", "PRelu", "Relu", "Sigmoid"}
_OPERATORS = {"Add", "Concat", "Conv", "DepthToSpace", "Mul", "ReduceMax", "ReduceMean", "Sub", *_ACTIVATIONS}
_PLAIN = {"strides": (1, 1), "dilations": (1, 1), "group": 1}  # and what each is where a node leaves it out


def fastest_backend(bundle: Bundle, variant: Variant) -> str | None:
    """Return the backend to take before all others; None where their own order holds."""
    if (variant.precision, variant.io, variant.target) != ("fp32", "float32", None):
        return None
    try:
        graph = read_graph_content(bundle.read(variant))
    except BundleError:  # which opening the graph reports
        return None
    known = {node.operator for node in graph.nodes} <= _OPERATORS
    return _NCNN if known and winograd_share(graph, bundle.manifest.layers) >= _LEAST_SHARE else None


def winograd_share(graph: GraphContent, layers: Sequence[Layer]) -> float:
    """Return the share of multiply-accumulates in convolutions that Winograd gains much for, 0 to 1."""
    suited = {node.name for node in graph.nodes if node.operator == "Conv" and _is_suited(node, graph.constants)}
    return sum(layer.macs for layer in layers if layer.name in suited) / max(sum(layer.macs for layer in layers), 1)


def _is_suited(node: Node, constants: Mapping[str, Array]) -> bool:
    """Return whether its kernel is 3×3, in steps of 1, and its channels are many and in one group."""
    weight = constants.get(node.inputs[1])
    plain = all(node.attributes.get(name, value) == value for name, value in _PLAIN.items())
    return plain and weight is not None and weight.shape[2:] == _KERNEL and min(weight.shape[:2]) >= _LEAST_CHANNELS
