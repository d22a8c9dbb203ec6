"""Read an NVIDIA GPU's clocks and power while it is timed: counters in, a sentence for the report out; nothing is changed.

A workstation tells through nvidia-smi, a Jetson through nvpmodel and the kernel.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_FIELDS = (
    "name",
    "driver_version",
    "pstate",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "clocks_event_reasons.active",
)
_JETSON_CLOCKS = Path("/sys/class/devfreq")
_PATIENCE_S = 10


def read_gpu_state() -> dict[str, str]:
    """Return what can be read here, by the name of its source, with its unit; empty where there is no NVIDIA GPU."""
    return {**_from_nvidia_smi(), **_from_jetson()}


def _from_nvidia_smi() -> dict[str, str]:
    line = _ask("nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader").partition("\n")[0]
    values = [value.strip() for value in line.split(",")]
    if len(values) != len(_FIELDS):  # an error, in words
        return {}
    return {name: value for name, value in zip(_FIELDS, values, strict=True) if not value.startswith(("[", "N/A"))}


def _from_jetson() -> dict[str, str]:
    mode = " ".join(_ask("nvpmodel", "-q").split()).removeprefix("NV Power Mode: ")
    clocks = {}
    for path in sorted(_JETSON_CLOCKS.glob("*gpu*/cur_freq")):
        try:
            clocks[f"{path.parent.name} clock"] = f"{int(path.read_text(encoding='ascii')) // 1_000_000} MHz"
        except (OSError, ValueError):
            continue
    return {**({"power mode": mode} if mode else {}), **clocks}


def _ask(program: str, *arguments: str) -> str:
    """Return what the program prints; nothing where there is none, or it fails."""
    found = shutil.which(program)
    if found is None:
        return ""
    try:
        done = subprocess.run([found, *arguments], capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
