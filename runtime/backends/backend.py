"""What every backend gives: run an array, and say which precision each layer really ran in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ..bundle import Io
from ..sizes import SizeLimits

Values = TypeVar("Values", np.float32, np.uint8)
RanIn = Literal["fp32", "fp16", "bf16", "int8", "other"]


@dataclass(frozen=True)
class LayerPrecision:
    """The arithmetic one operator ran in: the type it multiplied, which is not always the one asked for, and the type it wrote
    (None where the backend does not say)."""

    name: str
    op: str
    precision: RanIn
    writes: RanIn | None = None


@dataclass(frozen=True, kw_only=True)
class BackendOptions:
    """What `open_backend` was asked for; see there."""

    threads: int | None = None
    parallel: int = 1
    device: str | None = None
    cache: Path | None = None
    engines: Path | None = None
    io: Io = "float32"
    spinning: bool = True


@dataclass(frozen=True)
class DeviceTimes:
    """Milliseconds of each of several runs by the accelerator's own clock: the network alone, and with the copies to and fro."""

    network_ms: tuple[float, ...]
    with_copies_ms: tuple[float, ...]


class Backend(Protocol):
    """One compiled graph. A context manager; the timer is outside it. Several threads may call `run`."""

    name: str
    limits: SizeLimits | None
    """The limits of the inputs' sizes; None where the backend takes all that the graph does."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def run(self, array: NDArray[Values]) -> NDArray[Values]:
        """(N, C, H, W) float32 in [0, 1] -> (N, C, H·scale, W·scale) float32; of a graph of raw pixels (N, H, W, C) uint8 both."""
        ...

    def precisions(self) -> tuple[LayerPrecision, ...]:
        """Return what each operator of the compiled graph ran in, by its name in the ONNX graph; may run the graph once."""
        ...


@runtime_checkable
class DeviceTimer(Protocol):
    """A backend whose accelerator has a clock of its own."""

    def time_on_device(self, array: NDArray[Values], count: int) -> DeviceTimes:
        """Run `array` so many times, one after the other."""
        ...
