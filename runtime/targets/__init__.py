"""Accelerators, as data: one file a target, and this list."""

from runtime.errors import UnknownNameError
from runtime.targets import cpu
from runtime.targets.target import Precision, Target

__all__ = ["TARGETS", "Precision", "Target", "find_target"]

TARGETS: tuple[Target, ...] = (cpu.TARGET,)


def find_target(name: str) -> Target:
    """The target of that name; UnknownNameError lists the valid ones."""
    for target in TARGETS:
        if target.name == name:
            return target
    raise UnknownNameError("target", name, valid=(target.name for target in TARGETS))
