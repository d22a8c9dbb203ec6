"""Tell where products of bytes overflow: a target and a backend in; whether int8 graphs for it lose more on this processor out.

x86 processors without VNNI add two products in 16 bits; see runtime/targets/cpu_avx2.py.
"""

from __future__ import annotations

from ..backends import BackendEntry, choose_entry
from ..backends.processor import products_overflow
from ..targets import Precision, Target

OVERFLOW = "(!) without VNNI products of bytes overflow: --target cpu-avx2 loses less on this processor"
_LARGEST_SAFE_WEIGHT = 64  # 255 · 64 · 2 = 32640 fits 16 bits


def overflows(entry: BackendEntry, target: Target | None, precision: Precision) -> bool:
    """Return whether graphs of `precision` for `target` (None: for every target) lose more than they must, on `entry` here."""
    wide = target is None or target.largest_weight > _LARGEST_SAFE_WEIGHT
    return precision == "int8" and entry.sums_in_16_bits and wide and products_overflow()


def is_made_for_overflow(target: Target) -> bool:
    """Return whether products of bytes overflow on this processor, and `target` is one whose weights are small enough for it."""
    sums_in_16_bits = choose_entry(target.default_backend).sums_in_16_bits
    return sums_in_16_bits and target.largest_weight <= _LARGEST_SAFE_WEIGHT and products_overflow()
