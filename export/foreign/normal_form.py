"""Bring somebody's ONNX graph into normal form, so that all that reads it later sees one form only.

What reads it: the rewrites, the count of multiply-accumulates, and the choice of which tensors get quantizers.

One graph of ONNX's own operators at the exporter's opset or above: functions inlined, branches by a constant decided, constants as
initializers, every float a float32, weights that are cast or dequantized at run time folded, nothing that hands a value on as it
is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxscript.optimizer
from onnx import defs, helper, inliner, numpy_helper
from onnx.reference import ReferenceEvaluator

from export.foreign.floats import widen_floats
from export.foreign.load import check_types
from export.foreign.old_resize import raise_opset
from export.foreign.space_to_depth import restore_space_to_depth
from export.foreign.transposes import join_transposes
from export.foreign.unheld import refuse_other_domains, refuse_unheld
from export.graph.opset import opset_of
from export.onnx_export import NATIVE_OPSET
from export.passes.depth_to_space import restore_depth_to_space
from export.passes.simplify import simplify
from runtime.errors import UserError


@dataclass(frozen=True)
class NormalForm:
    """The graph; the same before constants were folded into its weights; and what of the file is not in it any more: kinds of
    floats, and weights in integers."""

    model: ir.Model
    unfolded: ir.Model
    floats: tuple[str, ...]
    dequantized: int


def to_normal_form(proto: onnx.ModelProto, path: Path) -> NormalForm:
    """Bring a valid `proto`, whose ends are in order, to the normal form; `proto` itself stays as it is.

    Raises:
        UserError: the form cannot hold an operator; names it.
        PipelineError: an opset that cannot be raised.
    """
    inlined = _inline_functions(proto, path)
    refuse_other_domains(inlined, path)
    current = _write_out_newer(raise_opset(inlined, NATIVE_OPSET))
    floats = widen_floats(current)
    dequantized = _dequantize_constants(current)
    check_types(current, path)
    try:
        lifted = lift_constants(ir.from_proto(current))
        onnxscript.optimizer.fold_constants(lifted, onnx_shape_inference=True)
        unfolded = ir.from_proto(ir.to_proto(lifted))
        simplified, _ = simplify(lifted)
    except RuntimeError as error:  # of onnxsim, on what it cannot infer
        refuse_unheld(current, path)
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} cannot be brought to normal form: {reason}", hint="export the model at opset 18") from error
    refuse_unheld(ir.to_proto(simplified), path)
    model, _ = restore_depth_to_space(restore_space_to_depth(join_transposes(lift_constants(simplified))))
    return NormalForm(model, unfolded, floats, dequantized)


def lift_constants(model: ir.Model) -> ir.Model:
    """Return `model`, in place, with Constant nodes as initializers and no entry of operators or functions that it does not use."""
    for step in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        step(model)
    return model


def _inline_functions(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return a copy of `proto` in which the bodies of its own functions stand where they are called."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    if not copy.functions:
        return copy
    try:
        if all(_relabel(function, opset_of(copy)) for function in copy.functions):
            return inliner.inline_local_functions(copy)
        return inliner.inline_local_functions(onnx.shape_inference.infer_shapes(copy), convert_version=True)
    except (RuntimeError, onnx.shape_inference.InferenceError) as error:
        names = ", ".join(sorted({function.name for function in copy.functions}))
        raise UserError(f"{path}: its functions ({names}) cannot be inlined", hint="export the model without functions") from error


def _relabel(function: onnx.FunctionProto, opset: int) -> bool:
    """Return whether a function's operators are the same at `opset`; it then says that it is of that, as its caller is."""
    for entry in function.opset_import:
        if entry.domain not in ("", "ai.onnx"):
            continue
        own = [node.op_type for node in function.node if node.domain in ("", "ai.onnx")]
        if entry.version != opset and any(_since(name, entry.version) != _since(name, opset) for name in own):
            return False
        entry.version = opset
    return True


def _since(operator: str, opset: int) -> int:
    return int(defs.get_schema(operator, opset).since_version)


def _write_out_newer(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Operators that came after NATIVE_OPSET, Gelu or RMSNormalization, by their own definition in older ones; attributes that came
    after it and have the value that they had to have before go."""
    opset = opset_of(proto)
    if opset <= NATIVE_OPSET:
        return proto
    newer = {node.op_type for node in proto.graph.node if not _is_known(node.op_type, NATIVE_OPSET)}
    for node in proto.graph.node:
        if node.op_type in newer:
            _name_defaults(node, opset)
    if newer:
        proto = inliner.inline_selected_functions(proto, [("", name) for name in sorted(newer)], inline_schema_functions=True)
    for node in proto.graph.node:
        if not _is_known(node.op_type, NATIVE_OPSET):
            continue
        known, now = (defs.get_schema(node.op_type, version).attributes for version in (NATIVE_OPSET, opset))
        kept = [attribute for attribute in node.attribute if attribute.name in known or not _is_default(attribute, now)]
        del node.attribute[:]
        node.attribute.extend(kept)
    return proto


def _name_defaults(node: onnx.NodeProto, opset: int) -> None:
    """Attributes that the node leaves to their default, said: the body of its definition refers to them."""
    given = {attribute.name for attribute in node.attribute}
    for name, attribute in defs.get_schema(node.op_type, opset).attributes.items():
        if name not in given and attribute.default_value.name:
            node.attribute.append(attribute.default_value)


def _is_known(operator: str, opset: int) -> bool:
    try:
        defs.get_schema(operator, opset)
    except defs.SchemaError:
        return False
    return True


def _is_default(attribute: onnx.AttributeProto, schema: dict[str, defs.OpSchema.Attribute]) -> bool:
    value = helper.get_attribute_value(attribute)
    if attribute.name == "dilations":
        return all(number == 1 for number in value)
    default = schema[attribute.name].default_value if attribute.name in schema else None
    return default is not None and bool(default.name) and helper.get_attribute_value(default) == value


def _dequantize_constants(proto: onnx.ModelProto) -> int:
    """Weights kept in integers, DequantizeLinear of constants, as the floats they stand for; how many."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    found = [node for node in proto.graph.node if node.op_type == "DequantizeLinear" and constants.keys() >= {*node.input} - {""}]
    for node in found:
        given = {name: numpy_helper.to_array(constants[name]) for name in node.input if name}
        (array,) = ReferenceEvaluator(node).run(None, given)
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), node.output[0]))
        proto.graph.node.remove(node)
    return len(found)
