"""What a command that was typed did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ran:
    """Its exit code, and what it printed."""

    code: object
    out: str
    err: str
