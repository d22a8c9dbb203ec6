"""Rewrite Upsample (opset 7 to 9) and Resize (10) as today's Resize.

Before opset 11 an output pixel i of an enlargement by s lies at i / s of the input: "asymmetric", linear as well as nearest, which
takes the pixel before it (https://onnx.ai/onnx/operators/onnx__Upsample.html; of opset 10, where it makes smaller, ONNX Runtime
takes the pixel behind it). onnx's own converter leaves that out, and Resize-11 then takes half_pixel: other coordinates. So these
operators pass it by under a name of their own.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter

from export.graph.opset import opset_of
from runtime.errors import PipelineError

_OLD = ("Upsample", "Resize")
_ASIDE = "sredge.old"
_FIRST_OF_TODAY = 11


def raise_opset(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return `proto` at `opset`, with old resizes as their own definition has them.

    Raises:
        PipelineError: onnx's converter knows no way.
    """
    found = opset_of(proto)
    if found >= opset:
        return proto
    aside = onnx.ModelProto()
    aside.CopyFrom(proto)
    if found < _FIRST_OF_TODAY:
        _put_aside(aside)
    try:
        converted = version_converter.convert_version(aside, opset)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise PipelineError(
            f"opset {found} cannot be converted to {opset}: {reason}", hint="export the model at a newer opset"
        ) from error
    return _bring_back(converted, downwards="ceil" if found == _FIRST_OF_TODAY - 1 else "floor")


def _put_aside(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        if node.op_type in _OLD and node.domain in ("", "ai.onnx"):
            node.domain = _ASIDE
    proto.opset_import.append(helper.make_opsetid(_ASIDE, 1))


def _bring_back(proto: onnx.ModelProto, *, downwards: str) -> onnx.ModelProto:
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer if tensor.dims in ([4], [5], [3])}
    for node in proto.graph.node:
        if node.domain != _ASIDE:
            continue
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if "scales" in given:
            name = f"{node.output[0]}_scales"
            constants[name] = np.array(given["scales"], np.float32)
            proto.graph.initializer.append(numpy_helper.from_array(constants[name], name))
            node.input.append(name)
        mode = {"bilinear": "linear"}.get(given.get("mode", b"nearest").decode(), given.get("mode", b"nearest").decode())
        smaller = node.input[1] in constants and bool((constants[node.input[1]] < 1).any())
        resize = helper.make_node(
            "Resize",
            [node.input[0], "", node.input[1]],
            [*node.output],
            name=node.name,
            mode=mode,
            coordinate_transformation_mode="asymmetric",
            **({"nearest_mode": downwards if smaller else "floor"} if mode == "nearest" else {}),
        )
        node.CopyFrom(resize)
    kept = [entry for entry in proto.opset_import if entry.domain != _ASIDE]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    return proto
