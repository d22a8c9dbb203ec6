"""What every backend gives: run an array, and say which precision each layer really ran in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

RanIn = Literal["fp32", "fp16", "bf16", "int8", "other"]


@dataclass(frozen=True)
class LayerPrecision:
    """The arithmetic one operator ran in: the type it multiplied, which is not always the one asked for, and the type it wrote."""

    name: str
    op: str
    precision: RanIn
    writes: RanIn


@dataclass(frozen=True, kw_only=True)
class BackendOptions:
    """What `open_backend` was asked for; see there."""

    threads: int | None = None
    parallel: int = 1
    device: str | None = None
    cache: Path | None = None


class Backend(Protocol):
    """One compiled graph. A context manager; the timer is outside it. Several threads may call `run`."""

    name: str

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def run(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, C, H, W) float32 in [0, 1] -> (N, C, H·scale, W·scale) float32."""
        ...

    def precisions(self) -> tuple[LayerPrecision, ...]:
        """What each operator of the compiled graph ran in, by its name in the ONNX graph; may run the graph once."""
        ...
