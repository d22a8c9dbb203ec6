"""What a process does that writes to a bundle beside others; light, since each writer of a test is a process of its own."""

from __future__ import annotations

import time
from pathlib import Path

import onnx

from runtime.bundle import Bundle
from runtime.engines import EngineKey, write_engine
from runtime.pixel_io import add_pixel_io
from runtime.targets import Precision


def add_pixels(directory: Path, precision: Precision, delay_s: float) -> None:
    """Opens the bundle, works for a while, and adds the graph of raw pixels of that precision."""
    bundle = Bundle.open(directory)
    time.sleep(delay_s)
    add_pixel_io(bundle, bundle.variant(precision), parse=onnx.load_model_from_string)


def add_engine(path: Path, plan: bytes, key: EngineKey, delay_s: float) -> None:
    time.sleep(delay_s)
    write_engine(path, plan, key)
