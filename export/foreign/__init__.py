"""Read somebody's ONNX file: any file in, a graph in normal form that keeps the contract out."""

from __future__ import annotations

from export.foreign.contract_ends import ORDERS, Order
from export.foreign.read import Foreign, read_foreign

__all__ = ["ORDERS", "Foreign", "Order", "read_foreign"]
