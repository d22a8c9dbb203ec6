"""Read a .tflite file: its bytes in; what each operator multiplies in and writes out, by the name of the node in the ONNX graph.

export/engine/litert names what an operator makes after its node. https://ai.google.dev/edge/litert/conversion/tensorflow/metadata
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from ..errors import BackendError
from .backend import LayerPrecision, RanIn

_TYPES: Mapping[int, RanIn] = {
    schema.TensorType.FLOAT32: "fp32",
    schema.TensorType.FLOAT16: "fp16",
    schema.TensorType.INT8: "int8",
    schema.TensorType.UINT8: "int8",
}
_CODES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
_READS = {"TRANSPOSE_CONV": 2}
"""Which input the activation is, where it is not the first."""


def read_layers(file: bytes) -> tuple[LayerPrecision, ...]:
    """Return what each operator multiplies in: fp16 where it reads weights that are stored so.

    Raises:
        BackendError: these are not the bytes of a .tflite file.
    """
    if file[4:8] != b"TFL3":
        raise BackendError("this is not a .tflite file: its bytes 4 to 8 are not TFL3")
    model = schema.ModelT.InitFromPackedBuf(file, 0)
    (graph,) = model.subgraphs
    halves = set()
    layers = []
    for operator in graph.operators:
        name = _CODES[max(model.operatorCodes[operator.opcodeIndex].builtinCode, 0)]
        read = operator.inputs[_READS.get(name, 0)]
        if name == "DEQUANTIZE" and graph.tensors[read].type == schema.TensorType.FLOAT16:
            halves.update(operator.outputs)
            continue
        made = graph.tensors[operator.outputs[0]]
        of_halves = halves.intersection(operator.inputs)
        reads: RanIn = "fp16" if of_halves else _type(graph.tensors[read])
        layers.append(LayerPrecision(_text(made.name), name, reads, _type(made)))
    return tuple(layers)


def _type(tensor: Any) -> RanIn:  # noqa: ANN401 # the generated schema has no types
    return _TYPES.get(tensor.type, "other")


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
