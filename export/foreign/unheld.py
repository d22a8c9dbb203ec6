"""Say what the normal form cannot hold, as one sentence that names the operator."""

from __future__ import annotations

from pathlib import Path

import onnx

from runtime.errors import UserError

_STANDARD = ("", "ai.onnx")
_QUANTIZED = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"),
    *("ConvInteger", "MatMulInteger"),
)
_UNROLL = "export the model so that its loops and branches are decided: torch.onnx.export traces them at a fixed count"
_REASONS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("Loop", "Scan"), "repeats a part of the graph, which no accelerator's graph can", _UNROLL),
    (("If",), "chooses a part of the graph by what the picture holds, which no accelerator's graph can", _UNROLL),
    (_QUANTIZED, "is of a network that is quantized already", "give the file of floats that it was made from"),
    (
        ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"),
        "gives something else at every run",
        "export the model in evaluation mode",
    ),
)
_KINDS = (
    ("Sequence", "works on a sequence of tensors"),
    ("Optional", "works on an optional value"),
    ("String", "works on text"),
    ("TfIdf", "works on text"),
    ("Regex", "works on text"),
)


def refuse_other_domains(proto: onnx.ModelProto, path: Path) -> None:
    """Raise UserError where an operator is none of ONNX's own: the name, and whose it is."""
    for node in proto.graph.node:
        if node.domain not in _STANDARD:
            raise _refuse(
                path,
                node,
                f"is an operator of {node.domain}, not of the ONNX standard",
                hint="export the model with the operators of the standard, before any runtime has optimized it",
            )


def refuse_unheld(proto: onnx.ModelProto, path: Path) -> None:
    """Raise UserError where an operator repeats, chooses, is quantized, random, or works on what is no tensor of numbers."""
    for node in proto.graph.node:
        for operators, reason, hint in _REASONS:
            if node.op_type in operators:
                raise _refuse(path, node, reason, hint=hint)
        for word, reason in _KINDS:
            if word in node.op_type:
                raise _refuse(path, node, reason, hint="export the model with tensors of numbers alone")


def _refuse(path: Path, node: onnx.NodeProto, reason: str, *, hint: str) -> UserError:
    return UserError(f"{path}: {node.op_type} {node.name or node.output[0]} {reason}", hint=hint)
