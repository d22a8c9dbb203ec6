"""Describe the machine that a result was measured on: processor, cores, memory and library versions out."""

from __future__ import annotations

import platform
from importlib import metadata

from runtime.backends.processor import count_cores, processor_name, read_processors
from runtime.bundle import Noun

__all__ = ["Machine", "count_cores", "describe_machine"]

# Instructions that decide how fast 8- and 16-bit arithmetic can be.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "asimddp", "i8mm")
_BACKENDS = ("onnxruntime", "openvino", "ncnn", "tensorrt", "tensorrt_rtx_cu13_bindings", "pycuda")
_PACKAGES = ("sredge", *_BACKENDS, "numpy", "opencv-python-headless", "scikit-image", "pillow")


class Machine(Noun):
    """What a latency figure depends on besides the network."""

    processor: str
    cores: int
    instructions: tuple[str, ...]
    system: str
    python: str
    versions: dict[str, str]


def describe_machine() -> Machine:
    first = next(iter(read_processors()), {})
    flags = first.get("flags", first.get("Features", "")).split()
    return Machine(
        processor=processor_name(),
        cores=count_cores(),
        instructions=tuple(name for name in _INSTRUCTIONS if name in flags),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: version for name in _PACKAGES if (version := _version(name))},
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
