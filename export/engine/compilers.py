"""Vendors' compilers, as data: this list says which there are, what each needs installed, and what its engines can be built for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import Protocol, cast

from export.engine.compiled import Compiled, CompileRequest, OnStep
from runtime.backends import choose_entry, missing_packages, tensorrt_rtx_library
from runtime.errors import BackendError, UnknownNameError, UserError
from runtime.targets import Precision

_ON_THIS_MACHINE = "tensorrt"


class Compiler(Protocol):
    """What the module of a compiler offers."""

    def version(self) -> str:
        """Return the compiler's own version; part of every engine's key."""
        ...

    def compile_graph(self, request: CompileRequest, *, on_step: OnStep) -> Compiled:
        """Compile the graph.

        Raises:
            PipelineError: the compiler refuses it, or makes something else of it; names the nodes.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class CompilerEntry:
    """A compiler; its module is imported only when it compiles.

    Attributes:
        packages: the imports that must be installed.
        precisions: of the graphs that it takes, the default first.
        targets: whose int8 graphs it takes, the best first.
        architectures: what `--architecture` may name; empty where an engine runs on every device, or on this machine alone.
        default_architectures: what it compiles for where none is named.
        fixed_size: an engine takes pictures of one size.
        ranged: an engine has a smallest, a usual and a largest size; else it takes what the graph takes.
    """

    name: str
    description: str
    module: str
    packages: tuple[str, ...]
    install: str
    precisions: tuple[Precision, ...]
    targets: tuple[str, ...]
    architectures: tuple[str, ...] = ()
    default_architectures: tuple[str, ...] = ()
    fixed_size: bool = False
    ranged: bool = False

    @property
    def missing(self) -> tuple[str, ...]:
        """Those of `packages` that are not installed."""
        return missing_packages(self.packages)

    @property
    def on_this_machine(self) -> bool:
        """It builds for the GPU of this machine alone, by a command of its own."""
        return self.name == _ON_THIS_MACHINE

    def check_installed(self) -> None:
        """Raise BackendError, which says how to get it, where the compiler is not installed."""
        if self.missing:
            missing = " and ".join(self.missing)
            raise BackendError(f"the compiler of {self.name!r} is not installed: {missing} cannot be found", hint=self.install)

    def load(self) -> Compiler:
        """Import the compiler; BackendError where it is not installed or cannot be loaded."""
        self.check_installed()
        try:
            return cast(Compiler, importlib.import_module(self.module))
        except (ImportError, OSError) as error:
            raise BackendError(f"{self.name}'s compiler is installed but cannot be loaded: {error}", hint=self.install) from error

    def for_target(self, name: str | None) -> CompilerEntry:
        """Return this one for the graphs of that target alone; UnknownNameError lists the targets whose graphs it takes."""
        if name is None:
            return self
        if name not in self.targets:
            raise UnknownNameError(f"target of {self.name}", name, valid=self.targets)
        return replace(self, targets=(name,))

    def choose_architectures(self, asked: str | None) -> tuple[str, ...]:
        """Return the architectures that "A,B" names, or the default ones.

        Raises:
            UserError, UnknownNameError: there is no such architecture, or the compiler has none to choose from.
        """
        if asked is None:
            return self.default_architectures
        if not self.architectures:
            where = "for the GPU of this machine" if self.on_this_machine else "one engine for every device"
            raise UserError(f"--architecture {asked}: {self.name} builds {where}", hint="leave --architecture out")
        names = tuple(dict.fromkeys(name.strip().lower() for name in asked.split(",")))
        for name in names:
            if name not in self.architectures:
                raise UnknownNameError(f"architecture of {self.name}", name, valid=self.architectures)
        return names


_TENSORRT, _QNN = choose_entry(_ON_THIS_MACHINE), choose_entry("qnn")
COMPILERS: tuple[CompilerEntry, ...] = (
    CompilerEntry(
        name=_ON_THIS_MACHINE,
        description="NVIDIA GPUs: a plan for the GPU of this machine",
        module="export.engine.tensorrt.command",
        packages=_TENSORRT.packages,
        install=_TENSORRT.install,
        precisions=_TENSORRT.precisions,
        targets=("tensorrt",),
        ranged=True,
    ),
    CompilerEntry(
        name="tensorrt-rtx",
        description="NVIDIA RTX GPUs, by compute capability: one plan for all that are named",
        module="export.engine.tensorrt_rtx",
        packages=tensorrt_rtx_library.PACKAGES,
        install=tensorrt_rtx_library.INSTALL,
        precisions=("fp32", "fp16", "bf16", "int8"),
        targets=("tensorrt-rtx", "tensorrt"),
        architectures=("75", "80", "86", "89", "120", "121"),
        default_architectures=("86", "89", "120"),
        ranged=True,
    ),
    CompilerEntry(
        name="litert",
        description="phones, desktops, microcontrollers: a .tflite file for LiteRT and its delegates",
        module="export.engine.litert",
        packages=("ai_edge_litert", "flatbuffers"),
        install="pip install 'sredge[litert]'",
        precisions=("fp32", "fp16", "int8"),
        targets=("litert",),
    ),
    CompilerEntry(
        name="ethos-u",
        description="Arm's Ethos-U NPUs: a .tflite file compiled by Vela, and its estimates",
        module="export.engine.ethos_u",
        packages=("ethosu", "ai_edge_litert", "flatbuffers"),
        install="pip install 'sredge[ethos-u]'",
        precisions=("int8",),
        targets=("litert",),
        architectures=("u55-128", "u55-256", "u65-256", "u65-512", "u85-256", "u85-512", "u85-1024"),
        default_architectures=("u55-128", "u55-256", "u65-512", "u85-512"),
        fixed_size=True,
    ),
    CompilerEntry(
        name="qnn",
        description="Qualcomm's Hexagon NPUs: a context binary for each architecture that is named",
        module="export.engine.qnn",
        packages=_QNN.packages,
        install=_QNN.install,
        precisions=_QNN.precisions,
        targets=("qnn", "qnn-a16"),
        architectures=("v68", "v69", "v73", "v75", "v79", "v81"),
        default_architectures=("v73",),
        fixed_size=True,
    ),
)


def find_compiler(name: str) -> CompilerEntry:
    """Return the compiler of that name; UnknownNameError lists the valid ones."""
    for entry in COMPILERS:
        if entry.name == name:
            return entry
    raise UnknownNameError("compiler", name, valid=(entry.name for entry in COMPILERS), hint="--list shows what is installed")
