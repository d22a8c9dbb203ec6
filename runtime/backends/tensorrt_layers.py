"""Read which precision an engine's layers run in, from the JSON of TensorRT's engine inspector, versions 10 and 11.

A tensor has its layout and type in one text in 10 ("Format/Datatype": "Row major linear FP16 format") and in two fields in 11
("Format", "Datatype"). The ONNX nodes that a layer is made of are in its "Metadata", each as "[ONNX Layer: NAME]"; where that is
empty, they are the layer's name, joined by " + " or " || ".
https://docs.nvidia.com/deeplearning/tensorrt/11.0.0/api/migration/tensorrt-10x-to-11x-IEngineInspector.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ..errors import PipelineError
from .backend import LayerPrecision, RanIn

_TYPES: dict[str, RanIn] = {
    "fp32": "fp32",
    "float": "fp32",
    "float32": "fp32",
    "fp16": "fp16",
    "half": "fp16",
    "float16": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "int8": "int8",
}
_TYPE_FIELDS = ("Datatype", "DataType", "Format/Datatype", "Format")
_ONNX_LAYER = "[ONNX Layer: "
_SEPARATOR = "\x1e"  # between the entries of "Metadata"
_COPIES = ("Reformat", "Constant", "NoOp")  # they bear the names of the layers they serve
_MULTIPLIES = re.compile(r"conv|gemm|matrixmultiply", re.IGNORECASE)


def parse_layers(text: str) -> tuple[LayerPrecision, ...]:
    """Return one entry for each ONNX node that a layer which computes is made of; of several such layers, that which multiplies.

    Raises:
        PipelineError: this is not what the inspector gives for an engine that was built with detailed profiling.
    """
    try:
        layers = json.loads(text)["Layers"]
        found: dict[str, tuple[bool, LayerPrecision]] = {}
        for layer in layers:
            kind = layer["LayerType"]
            if kind in _COPIES:
                continue
            multiplies = "Weights" in layer or _MULTIPLIES.search(f"{kind} {layer.get('TacticName', '')}") is not None
            for name in _onnx_names(layer):
                if name not in found or (multiplies and not found[name][0]):
                    found[name] = (multiplies, LayerPrecision(name, kind, _ran_in(layer)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PipelineError(
            "TensorRT's engine inspector tells nothing of the layers' types that this sredge can read",
            hint="build the engine again with python -m export.engine, which asks for detailed profiling",
        ) from error
    return tuple(layer for _, layer in found.values())


def _onnx_names(layer: dict[str, Any]) -> Iterator[str]:
    """Yield the ONNX nodes of a layer."""
    entries = [entry for entry in layer.get("Metadata", "").split(_SEPARATOR) if entry.startswith(_ONNX_LAYER)]
    if entries:
        yield from (entry.removeprefix(_ONNX_LAYER).removesuffix("]") for entry in entries)
    else:
        yield from re.split(r" \+ | \|\| ", layer["Name"])


def _ran_in(layer: dict[str, Any]) -> RanIn:
    """Return the type a layer multiplies: that of its weights where it tells of them, else of the first tensor that it reads."""
    if "Weights" in layer:
        return _type_named(layer["Weights"]["Type"])
    first = layer["Inputs"][0] if layer["Inputs"] else {}
    return _type_named(next((first[field] for field in _TYPE_FIELDS if field in first), ""))


def _type_named(text: str) -> RanIn:
    words = re.findall(r"[a-z]+\d*", text.lower())
    return next((_TYPES[word] for word in words if word in _TYPES), "other")
