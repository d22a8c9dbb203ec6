"""Name the processor that a measurement is made on, and count the cores that this process may use."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# What /proc/cpuinfo says of a processor's kind; x86, then Arm, then RISC-V.
_KIND = {"vendor_id", "cpu family", "model", "model name", "stepping", "flags"} | {
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features", "isa", "uarch"
}  # fmt: skip


def processor_name() -> str:
    first = next(iter(read_processors()), {})
    return first.get("model name", platform.processor() or platform.machine())


def describe_processor() -> list[str]:
    """Return all that tells which instructions code may be compiled to here; on Linux of every kind of core there is."""
    found = {f"{key}: {value}" for processor in read_processors() for key, value in processor.items() if key in _KIND}
    return sorted({platform.machine(), platform.processor(), os.environ.get("ONEDNN_MAX_CPU_ISA", ""), *found})


def products_overflow() -> bool:
    """Return whether this is an x86 processor without VNNI: what multiplies bytes fast there adds two products in 16 bits, and
    saturates where both are large.

    https://oneapi-src.github.io/oneDNN/dev_guide_int8_computations.html
    """
    flags = next(iter(read_processors()), {}).get("flags", "").split()
    return "sse2" in flags and not {"avx512_vnni", "avx_vnni"} & set(flags)


def count_cores() -> int:
    """Physical cores this process may use; a second thread on a core adds nothing to arithmetic that fills it."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {
        (processor["physical id"], processor["core id"])
        for processor in read_processors()
        if "core id" in processor and int(processor["processor"]) in usable
    }
    return len(cores) or len(usable)


def read_processors() -> list[dict[str, str]]:
    """Return the entries of /proc/cpuinfo; none where there is no such file."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return []
    blocks = path.read_text(encoding="utf-8", errors="replace").strip().split("\n\n")
    split = ([line.partition(":") for line in block.splitlines()] for block in blocks)
    return [{key.strip(): value.strip() for key, _, value in lines} for lines in split]
