"""Somebody's ONNX file: read, brought to normal form and to the contract."""

from __future__ import annotations

from export.foreign.contract_ends import ORDERS, Order
from export.foreign.read import Foreign, read_foreign

__all__ = ["ORDERS", "Foreign", "Order", "read_foreign"]
