"""CPUs with 8-bit dot products, through openvino alone: it adds a skip inside the convolution before it, unrounded."""

from dataclasses import replace

from . import cpu
from .operators import ADDITION_INSIDE, LAYERS, MATMUL_BIAS, MOVES, SIGNED_PRODUCT, fused

_ACTIVATIONS = fused("Relu", "PRelu", "Sigmoid", "LeakyRelu", "Clip")  # as its runtime graph shows them

TARGET = replace(
    cpu.TARGET,
    name="openvino",
    description="CPU through openvino alone: as cpu, with additions and activations inside the convolutions",
    operators=(*LAYERS, SIGNED_PRODUCT, ADDITION_INSIDE, MATMUL_BIAS, *MOVES, *_ACTIVATIONS),
    writes_floats=True,
)
