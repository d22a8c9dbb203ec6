"""The processor that tests run on: where openvino's products of bytes overflow its sums, int8 is tested on what is exact there."""

from __future__ import annotations

import pytest

from runtime.backends import choose_backend
from runtime.backends.processor import products_overflow
from runtime.targets import Target
from runtime.verify.overflow import overflows

# The CPU backend whose int8 is exact on this processor.
EXACT_BACKEND = "onnxruntime" if products_overflow() else "openvino"


def skip_where_products_overflow(backend: str, target: Target | None = None) -> None:
    """Skip the test where int8 graphs for `target` (None: for every target) overflow on `backend` here."""
    if overflows(choose_backend(backend), target, "int8"):
        pytest.skip(f"without VNNI {backend}'s products of bytes overflow: tests of target cpu-avx2 hold it there")
