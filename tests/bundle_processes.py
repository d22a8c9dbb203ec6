"""What processes of tests do to a bundle: write to it beside others, or open one that may be hostile. Light to import."""

from __future__ import annotations

import resource
import time
from multiprocessing.connection import Connection
from pathlib import Path

from export.graph.pixel_io import add_pixel_io
from runtime.backends.engines import EngineKey, write_engine
from runtime.bundle import Bundle
from runtime.describe import describe
from runtime.errors import SredgeError
from runtime.targets import Precision


def add_pixels(directory: Path, precision: Precision, delay_s: float) -> None:
    """Opens the bundle, works for a while, and adds the graph of raw pixels of that precision."""
    bundle = Bundle.open(directory)
    time.sleep(delay_s)
    add_pixel_io(bundle, bundle.variant(precision))


def add_engine(path: Path, plan: bytes, key: EngineKey, delay_s: float) -> None:
    time.sleep(delay_s)
    write_engine(path, plan, key)


def open_it(path: Path, memory_bytes: int, answer: Connection) -> None:
    """Opens, describes and reads the bundle with that much more memory; answers the errors' types and texts, seconds and bytes."""
    before = _memory_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, resource.RLIM_INFINITY))
    began, errors = time.process_time(), []
    try:
        bundle = Bundle.open(path)
        list(describe(bundle))
        for variant in bundle.manifest.variants:
            bundle.read(variant)
    except SredgeError as error:
        errors = [(type(error).__name__, str(error))]
    answer.send((errors, time.process_time() - began, _memory_bytes() - before))


def _memory_bytes() -> int:
    """The most that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
