"""Report progress: a long stage calls an `OnStep` with what it does and how far it is."""

from __future__ import annotations

from collections.abc import Callable

OnStep = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are done, and of how many."""


def ignore_step(phase: str, done: int, total: int) -> None:
    """An `OnStep` that shows nothing."""
