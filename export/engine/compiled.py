"""What a compiler is given and what it returns: a graph, sizes and architectures in, a plan and an account of its layers out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runtime.backends.compiled_engines import EngineLayer, Estimate
from runtime.backends.engines import ShapeProfile
from runtime.bundle import Io, Manifest
from runtime.targets import Precision, Target

OTHER_WAY = "another way to the device: --list shows the compilers; or change the network and export it again"
"""What to do where a compiler has not what the graph has."""
OnStep = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are done, and of how many."""


@dataclass(frozen=True, kw_only=True)
class CompileRequest:
    """A graph to compile, and for what.

    Attributes:
        name: the graph's file, for messages and for the engine's own metadata.
        graph: the serialized ONNX model.
        target: that an int8 graph was quantized for; None of a graph for every target.
        architectures: names of the compiler's list; empty where it has none.
        profile: the sizes of pictures to take; None where the engine is to take every size that the graph takes.
    """

    name: str
    graph: bytes
    precision: Precision
    io: Io
    target: Target | None
    manifest: Manifest
    architectures: tuple[str, ...]
    profile: ShapeProfile | None


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What a compiler made.

    Attributes:
        plan: the engine's bytes.
        suffix: of its file, with the dot.
        layers: every operator of the ONNX graph that computes, by its name there: what it multiplies in, and on which unit.
        estimates: figures of the compiler's model of the chip.
        unproven: what compiling alone cannot show, one sentence each.
    """

    plan: bytes
    suffix: str
    layers: tuple[EngineLayer, ...]
    estimates: tuple[Estimate, ...] = ()
    unproven: tuple[str, ...] = ()
