"""Accelerators, as data: one file per target, and this list."""

from typing import get_args

from ..errors import UnknownNameError
from . import cpu, cpu_avx2, litert, npu, npu16, openvino, qnn, tensorrt, tensorrt_rtx, vacc
from .target import Precision, Target

__all__ = ["PRECISIONS", "TARGETS", "Precision", "Target", "find_precision", "find_target"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TARGETS: tuple[Target, ...] = (
    cpu.TARGET,
    cpu_avx2.TARGET,
    openvino.TARGET,
    tensorrt.TARGET,
    tensorrt_rtx.TARGET,
    vacc.TARGET,
    npu.TARGET,
    npu.POWER_OF_TWO,
    npu16.TARGET,
    litert.TARGET,
    qnn.TARGET,
    qnn.WIDE,
)


def find_target(name: str) -> Target:
    """Return the target of that name; UnknownNameError lists the valid ones."""
    for target in TARGETS:
        if target.name == name:
            return target
    raise UnknownNameError("target", name, valid=(target.name for target in TARGETS))


def find_precision(name: str) -> Precision:
    """Return `name` as a precision; UnknownNameError lists the valid ones."""
    for precision in PRECISIONS:
        if precision == name:
            return precision
    raise UnknownNameError("precision", name, valid=PRECISIONS)
