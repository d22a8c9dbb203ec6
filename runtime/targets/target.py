"""What one accelerator can run, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """The constraints placement and the QDQ writer follow.

    Attributes:
        activation_dtype: storage type of quantized activations; one scale and zero point a tensor.
        activation_symmetric: True pins the zero point to the middle of the type.
        weight_dtype: storage type of quantized weights; symmetric (zero point 0), one scale an output channel.
        bias_dtype: "int32" writes biases as DequantizeLinear of int32 at scale input·weight; "float32" leaves them.
        int8_ops: ONNX operators that compute on int8 there.
        moving_ops: operators that only move data: they move the integers themselves, at one scale and zero point.
        fused_activations: operators folded into the one before, so that no quantizer stands between.
        opset_range: lowest and highest ONNX opset an int8 graph for it may have.
        default_backend: the backend that `auto` stands for, where it is installed.
    """

    name: str
    description: str
    precisions: tuple[Precision, ...]
    activation_dtype: Literal["uint8", "int8"]
    activation_symmetric: bool
    weight_dtype: Literal["int8"]
    bias_dtype: Literal["int32", "float32"]
    int8_ops: tuple[str, ...]
    moving_ops: tuple[str, ...]
    fused_activations: tuple[str, ...]
    opset_range: tuple[int, int]
    default_backend: str
