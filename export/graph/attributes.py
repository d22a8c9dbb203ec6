"""Read the attributes of an ONNX node."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir


def has_own_pads(convolution: ir.Node) -> bool:
    """Return whether what it pads with is in `pads`, and not named by `auto_pad`."""
    return "auto_pad" not in convolution.attributes or convolution.attributes["auto_pad"].as_string() == "NOTSET"


def attribute(node: ir.Node, name: str, default: Any) -> Any:  # noqa: ANN401 # of whatever type ONNX gives it
    """Return the value of an attribute, or what it is where it is left out."""
    return node.attributes[name].value if name in node.attributes else default


def groups(convolution: ir.Node) -> int:
    return convolution.attributes["group"].as_int() if "group" in convolution.attributes else 1


def pads(convolution: ir.Node) -> bool:
    """Return whether it reads anything beyond its input."""
    named = "auto_pad" in convolution.attributes and convolution.attributes["auto_pad"].as_string() not in ("NOTSET", "VALID")
    return named or ("pads" in convolution.attributes and any(convolution.attributes["pads"].as_ints()))
