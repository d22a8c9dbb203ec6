"""Check, before a graph is written, that the backends here compute it: a graph in, one verdict per backend out."""

from __future__ import annotations

from dataclasses import dataclass

from ..backends import BACKENDS, open_backend
from ..bundle import Contract
from ..errors import BackendError, PipelineError
from ..targets import Precision, Target
from .overflow import OVERFLOW, overflows
from .value_check import measure_values


@dataclass(frozen=True)
class BackendCheck:
    """What became of the graph on one backend: in words, and whether it may run there."""

    backend: str
    found: str
    passed: bool


def check_backends(
    graph: bytes, fp32: bytes, target: Target | None, contract: Contract, *, precision: Precision = "int8"
) -> tuple[BackendCheck, ...]:
    """Hold each backend that is installed and named by `target` against `graph` simulated, or fp32, on one small picture.

    Args:
        fp32: the graph it was made from.
        target: None of a graph for every target, which every backend that has its precision may run.

    Raises:
        PipelineError: there are such backends, and none computes it right.
    """
    named = [entry for entry in BACKENDS if target is None or entry.name in target.backends]
    entries = [entry for entry in named if entry.opens_graphs and precision in entry.precisions]
    checks = []
    for entry in entries:
        try:
            with open_backend(entry.name, graph, precision=precision, spinning=False) as backend:
                check = measure_values(backend, graph, fp32, contract, precision=precision)
        except BackendError as error:
            checks.append(BackendCheck(entry.name, str(error), passed=False))
        else:
            overflow = f"; {OVERFLOW}" if overflows(entry, target, precision) else ""
            checks.append(BackendCheck(entry.name, f"{check}{overflow}", check.passed))
    if checks and not any(check.passed for check in checks):
        raise PipelineError(
            f"no backend computes the {precision} graph{f' for {target.name}' if target is not None else ''} right: "
            + "; ".join(f"{check.backend} {check.found}" for check in checks),
            hint="quantize for another target, or say so to sredge's authors with the network",
        )
    return tuple(checks)
