"""Name what a .tflite file holds: tensors with their codes, and operators; frozen data, no bytes yet.

https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

Dtype = Literal["float32", "float16", "int8", "uint8", "int32"]
Side = int | None
"""A tensor's size along one axis; None where it is free."""


@dataclass(frozen=True)
class Codes:
    """What integers stand for: (q - zero_point) · scale, of the whole tensor or of each channel along `axis`."""

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int = 0

    @property
    def scale(self) -> float:
        """The one scale of an activation."""
        (scale,) = self.scales
        return scale

    @property
    def zero_point(self) -> int:
        """The one zero point of an activation."""
        (zero_point,) = self.zero_points
        return zero_point

    def code_of(self, number: float, *, dtype: Dtype = "int8") -> int:
        """Return the code nearest to `number`."""
        low, high = (0, 255) if dtype == "uint8" else (-128, 127)
        return max(low, min(high, round(number / self.scale) + self.zero_point))


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor; constant where it has `data`."""

    index: int
    name: str
    dtype: Dtype
    shape: tuple[Side, ...]
    codes: Codes | None = None
    data: NDArray[Any] | None = None


@dataclass(frozen=True)
class Operator:
    """One operator by its name in the schema; `options` by the schema's names for them."""

    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TfliteGraph:
    """A whole file: one subgraph, of one input and one output.

    Attributes:
        notes: constants that the file holds less exactly than the graph, as "node: what".
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    input: Tensor
    output: Tensor
    notes: tuple[str, ...] = ()
