"""What one accelerator can run, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .operators import Part, Row

Precision = Literal["fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """The constraints placement and the QDQ writer follow.

    Attributes:
        activation_dtype: storage type of quantized activations; one scale and zero point a tensor.
        activation_symmetric: True pins the zero point to the middle of the type.
        power_of_two_scales: every scale is one, so that requantizing is a shift.
        weight_dtype: storage type of quantized weights; symmetric (zero point 0).
        weight_per_channel: weights have one scale an output channel; else one scale a tensor.
        largest_weight: the largest code of a weight.
        bias_dtype: "int32" writes biases as DequantizeLinear of int32 at scale input·weight; "float" leaves them.
        float_dtype: what is outside the quantizers computes in, and scales are stored as.
        operators: the table of what runs in int8 there, one row per operator.
        everything_int8: an int8 graph may hold no operator that the table lacks.
        moves_integers: what moves data stands between the quantizers and moves the integers themselves; else each such operator has
            a pair before and after.
        writes_floats: a layer may write floats: only what reads integers has a quantizer; additions and inputs may stay in float.
        static_shapes: a graph for it has one shape of input.
        opset_range: lowest and highest ONNX opset an int8 graph for it may have.
        backends: those that compute its int8 graphs faithfully, its own first; no other is given one. Measured:
            `python -m benchmarks.faithfulness`.
    """

    name: str
    description: str
    precisions: tuple[Precision, ...]
    activation_dtype: Literal["uint8", "int8", "int16", "uint16"]
    activation_symmetric: bool
    weight_dtype: Literal["int8"]
    bias_dtype: Literal["int32", "float"]
    operators: tuple[Row, ...]
    opset_range: tuple[int, int]
    backends: tuple[str, ...]
    weight_per_channel: bool = True
    largest_weight: int = 127  # and not -128, so that a weight and its negative are stored alike
    power_of_two_scales: bool = False
    float_dtype: Literal["float32", "float16"] = "float32"
    everything_int8: bool = False
    moves_integers: bool = True
    writes_floats: bool = False
    static_shapes: bool = False

    @property
    def has_wide_codes(self) -> bool:
        """Whether activations have 16 bits: so many codes that none need be saved, by clipping or by shifting what ReLU makes."""
        return self.activation_dtype in ("int16", "uint16")

    @property
    def default_backend(self) -> str:
        """Its own backend, which `auto` takes where it is installed."""
        return self.backends[0]

    @property
    def int8_ops(self) -> tuple[str, ...]:
        """Operators that compute on int8 there."""
        return self._named(Part.LAYER, Part.COMPUTE)

    @property
    def moving_ops(self) -> tuple[str, ...]:
        """Operators that only move data, at one scale and zero point."""
        return self._named(Part.MOVE)

    @property
    def fused_activations(self) -> tuple[str, ...]:
        """Operators computed inside the one before."""
        return self._named(Part.FUSED)

    @property
    def fuses_addition(self) -> bool:
        """Whether a layer takes in the addition behind it."""
        return bool(self._named(Part.INSIDE))

    @property
    def int8_only_ops(self) -> tuple[str, ...]:
        """Operators that the accelerator runs on int8 alone."""
        return tuple(row.operator for row in self.operators if row.int8_only)

    def _named(self, *parts: Part) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.operator for row in self.operators if row.part in parts))
