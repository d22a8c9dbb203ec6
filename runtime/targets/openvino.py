"""CPUs with 8-bit dot products through openvino alone, which adds a skip inside the convolution before it, unrounded."""

from dataclasses import replace

from runtime.targets import cpu

TARGET = replace(
    cpu.TARGET,
    name="openvino",
    description="CPU through openvino alone: as cpu, with additions inside the convolutions",
    int8_ops=("Conv",),
    fuses_addition=True,
    default_backend="openvino",
)
