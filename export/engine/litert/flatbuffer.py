"""Serialize a `TfliteGraph`: nouns and metadata in, the bytes of a .tflite file out, the same bytes for the same graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export.engine.litert.tflite import Codes, Dtype, Operator, Tensor, TfliteGraph

_IDENTIFIER = b"TFL3"
_SCHEMA_VERSION = 3
_ALIGNMENT = 16  # of constants, as the schema forces it: kernels read them where they lie in the file
_PLACEHOLDER_CODE = 127  # what old readers find in the field of eight bits where a code needs more
_TYPES: Mapping[Dtype, int] = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int32": schema.TensorType.INT32,
}
_OPTIONS: Mapping[str, str] = {
    "ADD": "AddOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "DIV": "DivOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "GATHER": "GatherOptions",
    "GELU": "GeluOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "MIRROR_PAD": "MirrorPadOptions",
    "MUL": "MulOptions",
    "PACK": "PackOptions",
    "REDUCE_MAX": "ReducerOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "SHAPE": "ShapeOptions",
    "SOFTMAX": "SoftmaxOptions",
    "SPACE_TO_DEPTH": "SpaceToDepthOptions",
    "SQUEEZE": "SqueezeOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "SUB": "SubOptions",
    "SUM": "ReducerOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions",
}
# The version of an operator that has int8, or this use of it; elsewhere 1.
_INT8_VERSIONS: Mapping[str, int] = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 5, "TRANSPOSE_CONV": 3}
_ONE_VERSION = frozenset(("QUANTIZE", "HARD_SWISH", "RESHAPE", "SHAPE", "BATCH_MATMUL"))
_FLOAT_VERSIONS: Mapping[str, int] = {"FULLY_CONNECTED": 5, "TRANSPOSE_CONV": 3}  # keepNumDims; a bias


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc] # the generated schema has no types
    """The schema's buffer, whose bytes lie at a multiple of 16."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802 # the schema's name for it
        if self.data is None:
            return int(super().Pack(builder))
        data = bytes(self.data)
        builder.StartVector(1, len(data), _ALIGNMENT)
        builder.head -= len(data)
        builder.Bytes[builder.head : builder.head + len(data)] = data
        vector = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, vector)
        return int(schema.BufferEnd(builder))


def serialize(graph: TfliteGraph, *, description: str, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a .tflite file; `metadata` is kept in it, each text under its name."""
    model = schema.ModelT()
    model.version, model.description = _SCHEMA_VERSION, description
    model.buffers = [_AlignedBuffer()]  # the empty one, which tensors without constants name
    codes = sorted({(operator.code, _version(operator, graph)) for operator in graph.operators})
    model.operatorCodes = [_operator_code(*code) for code in codes]
    subgraph = schema.SubGraphT()
    subgraph.name = "main"
    subgraph.tensors = [_tensor(tensor, model.buffers) for tensor in graph.tensors]
    subgraph.inputs, subgraph.outputs = [graph.input.index], [graph.output.index]
    numbers = {code: number for number, code in enumerate(codes)}
    subgraph.operators = [_operator(operator, numbers[operator.code, _version(operator, graph)]) for operator in graph.operators]
    model.subgraphs = [subgraph]
    model.signatureDefs = [_signature(graph)]
    model.metadata = []
    for name, text in sorted(metadata.items()):
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, _add_buffer(model.buffers, np.frombuffer(text.encode(), np.uint8))
        model.metadata.append(entry)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _version(operator: Operator, graph: TfliteGraph) -> int:
    read = [graph.tensors[index].dtype for index in operator.inputs]
    if operator.code == "DEQUANTIZE":
        return 3 if "float16" in read else 2
    if operator.code in _ONE_VERSION:
        return 1
    if "int8" not in read:
        return _FLOAT_VERSIONS.get(operator.code, 1)
    return _INT8_VERSIONS.get(operator.code, 3 if operator.options.get("halfPixelCenters") else 2)


def _operator_code(name: str, version: int) -> Any:  # noqa: ANN401 # the generated schema has no types
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode = min(code.builtinCode, _PLACEHOLDER_CODE)
    code.version = version
    return code


def _operator(operator: Operator, code: int) -> Any:  # noqa: ANN401 # the generated schema has no types
    written = schema.OperatorT()
    written.opcodeIndex = code
    written.inputs, written.outputs = list(operator.inputs), list(operator.outputs)
    kind = _OPTIONS.get(operator.code)
    if kind is not None:
        written.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        written.builtinOptions = getattr(schema, f"{kind}T")()
        for name, value in operator.options.items():
            assert hasattr(written.builtinOptions, name), f"{kind} has no {name}"
            setattr(written.builtinOptions, name, value)
    return written


def _tensor(tensor: Tensor, buffers: list[Any]) -> Any:  # noqa: ANN401 # the generated schema has no types
    written = schema.TensorT()
    written.name, written.type = tensor.name, _TYPES[tensor.dtype]
    written.shape = [1 if side is None else side for side in tensor.shape]
    if None in tensor.shape:
        written.shapeSignature = [-1 if side is None else side for side in tensor.shape]
    written.hasRank = True
    written.buffer = 0 if tensor.data is None else _add_buffer(buffers, tensor.data)
    written.quantization = None if tensor.codes is None else _quantization(tensor.codes)
    return written


def _add_buffer(buffers: list[Any], array: np.typing.NDArray[Any]) -> int:
    buffer = _AlignedBuffer()
    buffer.data = np.ascontiguousarray(array).tobytes()
    buffers.append(buffer)
    return len(buffers) - 1


def _quantization(codes: Codes) -> Any:  # noqa: ANN401 # the generated schema has no types
    written = schema.QuantizationParametersT()
    written.scale = np.array(codes.scales, np.float32)
    written.zeroPoint = np.array(codes.zero_points, np.int64)
    written.quantizedDimension = codes.axis
    return written


def _signature(graph: TfliteGraph) -> Any:  # noqa: ANN401 # the generated schema has no types
    """The picture's ends by name, as apps that use signatures ask for them."""
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    for name, tensor in (("inputs", graph.input), ("outputs", graph.output)):
        end = schema.TensorMapT()
        end.name, end.tensorIndex = tensor.name, tensor.index
        setattr(signature, name, [end])
    return signature
