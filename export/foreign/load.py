"""Load somebody's ONNX file, with weights in files beside it, and check that it is a whole and valid model."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from export.onnx_export import NATIVE_OPSET
from runtime.errors import UserError

_DAMAGED = (DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError, OSError, ValueError)
_STANDARD = "ai.onnx"
_IR_VERSION = 8  # before 4 weights had to be listed as inputs; what is read here has them as constants


def load_file(path: Path) -> onnx.ModelProto:
    """Return the model in `path`, its weights in it; where they are also listed as inputs, as ir_version 3 wants it, no more there.

    Raises:
        UserError: there is no such file, or it is no ONNX model, or not all of one.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file", hint="give the path of an ONNX file")
    try:
        proto = onnx.load_model(path)
        _name_standard_domain(proto)
        _name_missing_shapes(proto)
        onnx.checker.check_model(proto)
    except _DAMAGED as error:
        raise _refuse(path, error) from error
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.ir_version = max(proto.ir_version, _IR_VERSION)
    return proto


def _name_standard_domain(proto: onnx.ModelProto) -> None:
    """The standard's operators have no domain here, which may also be written "ai.onnx", and there is an opset of theirs."""
    for holder in (proto, *proto.functions):
        for entry in holder.opset_import:
            entry.domain = "" if entry.domain == _STANDARD else entry.domain
        for node in holder.graph.node if isinstance(holder, onnx.ModelProto) else holder.node:
            node.domain = "" if node.domain == _STANDARD else node.domain
    if not any(entry.domain == "" for entry in proto.opset_import):
        inside = [entry.version for function in proto.functions for entry in function.opset_import if entry.domain == ""]
        proto.opset_import.append(onnx.helper.make_opsetid("", max(inside, default=NATIVE_OPSET)))


def _name_missing_shapes(proto: onnx.ModelProto) -> None:
    """Ends whose shape the file does not say are pictures of any size and channels."""
    for value in (*proto.graph.input, *proto.graph.output):
        tensor = value.type.tensor_type
        if value.type.WhichOneof("value") == "tensor_type" and not tensor.HasField("shape"):
            for _ in range(4):
                tensor.shape.dim.add()


def check_types(proto: onnx.ModelProto, path: Path) -> None:
    """Raise UserError where the operators' types or shapes contradict each other."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except _DAMAGED as error:
        raise _refuse(path, error) from error


def _refuse(path: Path, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(f"{path} is not a valid ONNX model: {reason}", hint="is the file complete? copy it again")
