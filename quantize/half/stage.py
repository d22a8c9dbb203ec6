"""Make a target's half-precision graphs: an fp32 graph in; the graphs, and why one is missing, out. int8 goes on without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from calibration.table import CalibrationTable
from export.graph.serialized import serialize
from quantize.half.cast import HALF_PRECISIONS, Half, HalfGraph, make_half
from quantize.half.float16_range import LARGEST
from runtime.bundle import Contract
from runtime.errors import PipelineError
from runtime.targets import Target
from runtime.verify.faithful import BackendCheck, check_backends


@dataclass(frozen=True)
class HalfGraphs:
    """What became of each half precision of a target.

    Attributes:
        made: the graphs.
        missing: why there is none.
        checks: what the backends here made of them.
    """

    made: Mapping[Half, HalfGraph] = field(default_factory=dict)
    missing: Mapping[Half, str] = field(default_factory=dict)
    checks: Mapping[Half, tuple[BackendCheck, ...]] = field(default_factory=dict)


def half_precisions_of(target: Target) -> tuple[Half, ...]:
    """Return the half precisions that `target` has; graphs of others stay in a bundle as other targets left them."""
    return tuple(half for half in HALF_PRECISIONS if half in target.precisions)


def make_half_graphs(
    model: onnx.ModelProto, target: Target, contract: Contract, *, ranges: Mapping[str, float] | None = None
) -> HalfGraphs:
    """Return the fp32 `model` in each half precision of `target`, checked against fp32 on the backends that are installed.

    Args:
        ranges: the largest magnitudes that calibration saw, by tensor, beside those measured on made pictures.
    """
    fp32 = serialize(model)
    made: dict[Half, HalfGraph] = {}
    missing: dict[Half, str] = {}
    checks: dict[Half, tuple[BackendCheck, ...]] = {}
    for half in half_precisions_of(target):
        try:
            graph = make_half(model, half, ranges=ranges)
            data = serialize(graph.model)
            checks[half] = check_backends(data, fp32, None, contract, precision=half)
        except PipelineError as error:
            missing[half] = str(error)
        else:
            made[half] = graph
    return HalfGraphs(made, missing, checks)


def seen_ranges(table: CalibrationTable) -> dict[str, float]:
    """Return the largest magnitude of each tensor of the fp32 graph that `table` has, where it is beyond what float16 is trusted
    with.

    A table of an equalized graph says nothing of the graph as it was.
    """
    if table.equalization is not None:
        return {}
    largest = {name: max(-one.minimum, one.maximum) for name, one in table.tensors.items()}
    return {name: value for name, value in largest.items() if value > LARGEST}
