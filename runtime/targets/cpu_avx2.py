"""x86 CPUs without VNNI (Intel before 2019, AMD before Zen 4), through openvino or onnxruntime: weights of 7 bits.

Their fastest multiplication of bytes, vpmaddubsw, adds two products in 16 bits and saturates. With weights of at most 64 it never
does: 255 · 64 · 2 = 32640. https://oneapi-src.github.io/oneDNN/dev_guide_int8_computations.html
"""

from dataclasses import replace

from . import cpu

TARGET = replace(
    cpu.TARGET,
    name="cpu-avx2",
    description="x86 CPU without VNNI, through openvino or onnxruntime: as cpu, weights of 7 bits, so that nothing overflows",
    largest_weight=64,
)
