"""The machine a result was measured on, and with which versions."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict

# Instructions that decide how fast 8- and 16-bit arithmetic can be.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "asimddp", "i8mm")
_PACKAGES = ("sredge", "onnxruntime", "openvino", "numpy", "opencv-python-headless", "scikit-image", "pillow")


class Machine(BaseModel):
    """What a latency figure depends on besides the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processor: str
    cores: int
    instructions: tuple[str, ...]
    system: str
    python: str
    versions: dict[str, str]


def describe_machine() -> Machine:
    flags = _cpuinfo().get("flags", _cpuinfo().get("Features", "")).split()
    return Machine(
        processor=_cpuinfo().get("model name", platform.processor() or platform.machine()),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        instructions=tuple(name for name in _INSTRUCTIONS if name in flags),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: version for name in _PACKAGES if (version := _version(name))},
    )


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; empty where there is no such file."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    lines = (line.partition(":") for line in path.read_text().split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
