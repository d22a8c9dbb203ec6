"""The machine a result was measured on, and with which versions."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from runtime.bundle import Noun

# Instructions that decide how fast 8- and 16-bit arithmetic can be.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "asimddp", "i8mm")
_PACKAGES = ("sredge", "onnxruntime", "openvino", "tensorrt", "pycuda", "numpy", "opencv-python-headless", "scikit-image", "pillow")


class Machine(Noun):
    """What a latency figure depends on besides the network."""

    processor: str
    cores: int
    instructions: tuple[str, ...]
    system: str
    python: str
    versions: dict[str, str]


def describe_machine() -> Machine:
    first = next(iter(_processors()), {})
    flags = first.get("flags", first.get("Features", "")).split()
    return Machine(
        processor=first.get("model name", platform.processor() or platform.machine()),
        cores=count_cores(),
        instructions=tuple(name for name in _INSTRUCTIONS if name in flags),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: version for name in _PACKAGES if (version := _version(name))},
    )


def count_cores() -> int:
    """Physical cores this process may use; a second thread on a core adds nothing to arithmetic that fills it."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {
        (processor["physical id"], processor["core id"])
        for processor in _processors()
        if "core id" in processor and int(processor["processor"]) in usable
    }
    return len(cores) or len(usable)


def _processors() -> list[dict[str, str]]:
    """The entries of /proc/cpuinfo; none where there is no such file."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return []
    blocks = path.read_text().strip().split("\n\n")
    split = ([line.partition(":") for line in block.splitlines()] for block in blocks)
    return [{key.strip(): value.strip() for key, _, value in lines} for lines in split]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
