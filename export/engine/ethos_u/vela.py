"""Run Arm's Vela: a .tflite file and an Ethos-U configuration in, the compiled file and Vela's figures of it out.

Vela runs as a process of its own, in a temporary folder: it prints reports, and a failure inside ends it alone.
https://pypi.org/project/ethos-u-vela
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path

from runtime.backends.litert_layers import read_layers
from runtime.errors import PipelineError

_LONGEST_S = 600.0  # our networks take 2 s
_READABLE = "pip install 'ethos-u-vela==5.2.0', with which sredge was tried; or --for litert"
_NPU = "CUSTOM"  # what Vela makes of all that runs on the NPU
_MEMORIES = {"SRAM": "sram", "DRAM": "dram", "on-chip flash": "on_chip_flash", "off-chip flash": "off_chip_flash"}


@dataclass(frozen=True, kw_only=True)
class VelaResult:
    """What Vela made of a file for one configuration.

    Attributes:
        file: the compiled .tflite file.
        cycles: of the whole network, as Vela's model of NPU and memories counts them.
        npu_cycles: of the NPU alone.
        clock_hz: at which that is `ms` milliseconds.
        memory_kib: what is used of each memory, by its name; of those that are used.
        system, memory_mode: the configuration of Vela's own that was taken.
        on_cpu: operators that are left on the CPU, by the name of their node.
    """

    file: bytes
    cycles: int
    npu_cycles: int
    clock_hz: float
    memory_kib: Mapping[str, float]
    system: str
    memory_mode: str
    on_cpu: tuple[str, ...]

    @property
    def ms(self) -> float:
        return self.cycles / self.clock_hz * 1e3


def vela_version() -> str:
    return version_of("ethos-u-vela")


def run_vela(file: bytes, configuration: str, *, name: str) -> VelaResult:
    """Compile `file` for that configuration of Vela's ("ethos-u55-128"); `name` is for messages.

    Raises:
        PipelineError: Vela fails, or writes something else than a .tflite file and its figures.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            compiled, figures = _run(file, configuration, name=name, folder=Path(folder))
    except OSError as error:
        raise PipelineError(
            f"{name} cannot be given to Vela in {error.filename or tempfile.gettempdir()}: {error.strerror or error}",
            hint="free some space there, or let TMPDIR name another folder",
        ) from error
    try:
        return _result(compiled, figures)
    except (KeyError, ValueError) as error:
        raise PipelineError(f"Vela {vela_version()} gives other figures than sredge knows: {error!r}", hint=_READABLE) from error


def _run(file: bytes, configuration: str, *, name: str, folder: Path) -> tuple[bytes, dict[str, str]]:
    """Return what Vela makes of `file` in `folder`, and its figures by their names."""
    source, made = folder / "network.tflite", folder / "made"
    source.write_bytes(file)
    command = [sys.executable, "-m", "ethosu.vela", str(source), "--accelerator-config", configuration, "--output-dir", str(made)]
    failed = f"Vela {vela_version()} does not compile {name} for {configuration}"
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False, cwd=folder)
    except subprocess.TimeoutExpired as error:
        raise PipelineError(f"{failed}: {error}") from error
    plans, summaries = sorted(made.glob("*.tflite")), sorted(made.glob("*_summary_*.csv"))
    if ran.returncode or len(plans) != 1 or len(summaries) != 1:
        told = [line for line in (ran.stderr + ran.stdout).splitlines() if line.strip()]
        reason = told[-1].strip() if told else f"it ended with {ran.returncode}"
        raise PipelineError(f"{failed}: {reason}", hint=_READABLE)
    with summaries[0].open(encoding="utf-8", newline="") as lines:
        return plans[0].read_bytes(), next(csv.DictReader(lines), {})


def _result(compiled: bytes, figures: Mapping[str, str]) -> VelaResult:
    return VelaResult(
        file=compiled,
        cycles=int(float(figures["cycles_total"])),
        npu_cycles=int(float(figures["cycles_npu"])),
        clock_hz=float(figures["core_clock"]),
        memory_kib={memory: used for memory, column in _MEMORIES.items() if (used := float(figures[f"{column}_memory_used"])) > 0},
        system=figures["system_config"],
        memory_mode=figures["memory_mode"],
        on_cpu=tuple(layer.name for layer in read_layers(compiled) if layer.op != _NPU),
    )
