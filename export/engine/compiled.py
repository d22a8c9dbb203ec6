"""What a compiler is given and what it returns: a graph, sizes and architectures in, a plan and an account of its layers out."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from runtime.backends.compiled_engines import EngineLayer, Estimate
from runtime.backends.engines import ShapeProfile
from runtime.bundle import Io, Manifest
from runtime.targets import Precision, Target

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every file in an archive
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


def pack_plans(plans: Mapping[str, bytes], *, suffix: str) -> tuple[bytes, str]:
    """Return the one plan and its `suffix`; of several, by architecture, an archive of ARCHITECTURE and `suffix` each."""
    if len(plans) == 1:
        (plan,) = plans.values()
        return plan, suffix
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for architecture, plan in plans.items():
            archive.writestr(zipfile.ZipInfo(f"{architecture}{suffix}", _EPOCH), plan)
    return packed.getvalue(), ".zip"
