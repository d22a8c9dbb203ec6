"""CPUs with 8-bit dot products through openvino alone, which adds a skip inside the convolution before it, unrounded."""

from dataclasses import replace

from runtime.targets import cpu

TARGET = replace(
    cpu.TARGET,
    name="openvino",
    description="CPU through openvino alone: as cpu, with additions and activations inside the convolutions",
    int8_ops=("Conv",),
    fused_activations=("Relu", "PRelu", "Sigmoid"),  # as its runtime graph shows them
    fuses_addition=True,
    writes_floats=True,
)
