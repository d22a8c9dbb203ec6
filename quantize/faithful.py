"""Does what runs here compute the int8 graph that was just made? Asked before it is written: "verified" means values."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.backends import BACKENDS, open_backend
from runtime.bundle import Contract
from runtime.errors import BackendError, PipelineError
from runtime.targets import Target
from runtime.value_check import measure_values


@dataclass(frozen=True)
class BackendCheck:
    """What became of the graph on one backend: in words, and whether it may run there."""

    backend: str
    found: str
    passed: bool


def check_backends(graph: bytes, fp32: bytes, target: Target, contract: Contract) -> tuple[BackendCheck, ...]:
    """Holds each backend that is installed and named by `target` against the int8 `graph` simulated, on one small picture.

    Args:
        fp32: the graph it was made from.

    Raises:
        PipelineError: there are such backends, and none computes it right.
    """
    entries = [entry for entry in BACKENDS if entry.name in target.backends and entry.opens_graphs and "int8" in entry.precisions]
    checks = []
    for entry in entries:
        try:
            with open_backend(entry.name, graph, precision="int8") as backend:
                check = measure_values(backend, graph, fp32, contract, precision="int8")
        except BackendError as error:
            checks.append(BackendCheck(entry.name, str(error), passed=False))
        else:
            checks.append(BackendCheck(entry.name, str(check), check.passed))
    if checks and not any(check.passed for check in checks):
        raise PipelineError(
            f"no backend computes the int8 graph for {target.name} right: "
            + "; ".join(f"{check.backend} {check.found}" for check in checks),
            hint="quantize for another target, or say so to sredge's authors with the network",
        )
    return tuple(checks)
