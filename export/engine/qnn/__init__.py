"""Compile a graph for Qualcomm's Hexagon NPU: an int8 ONNX graph in, a context binary for each architecture out.

No NPU runs here: an emulator runs the binaries (`runtime/backends/qnn.py`).
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from export.engine.compiled import Compiled, CompileRequest, OnStep, pack_plans
from export.engine.qnn.contexts import Context, compile_context
from export.engine.qnn.htp_form import bring_into_htp_form
from export.engine.sizes import fix_quantized
from runtime import __version__
from runtime.backends.compiled_engines import EngineLayer
from runtime.backends.qnn_library import version as qnn_version
from runtime.errors import PipelineError, UserError

__all__ = ["compile_graph", "version"]

_ENDS = ("Quantize", "Dequantize")  # of the picture: from floats and to floats
_UNPROVEN = "time, power and memory: no Hexagon NPU has run this, an emulator on x86 stands for its arithmetic alone"


def version() -> str:
    return f"{qnn_version()}+sredge.{__version__}"


def compile_graph(request: CompileRequest, *, on_step: OnStep) -> Compiled:
    """Compile for each architecture; the plan is an ONNX model around one context binary, or an archive of one for each.

    Raises:
        UserError: the graph takes raw pixels.
        PipelineError: a node would not run on the NPU, or in floats there; names it.
    """
    assert request.profile is not None  # the list of compilers says that engines of this one have one size
    if request.io == "uint8":
        raise UserError(
            "QNN does not compile a graph of raw pixels: what is between pixels and codes is in float", hint="--io float32"
        )
    model = ir.from_proto(fix_quantized(onnx.load_model_from_string(request.graph), (1, *request.profile.min)))
    rounded = bring_into_htp_form(model)
    graph = ir.to_proto(model)
    contexts: dict[str, Context] = {}
    for done, architecture in enumerate(request.architectures):
        on_step(f"compiling for {architecture}", done, len(request.architectures))
        contexts[architecture] = compile_context(graph, architecture, name=request.name)
    layers = _layers(graph, contexts)
    plan, suffix = pack_plans({architecture: context.model for architecture, context in contexts.items()}, suffix=".onnx")
    notes = (f"constants rounded to codes of their own: {', '.join(rounded)}"[:250],) if rounded else ()
    return Compiled(plan=plan, suffix=suffix, layers=layers, unproven=(*notes, _UNPROVEN))


def _layers(graph: onnx.ModelProto, contexts: dict[str, Context]) -> tuple[EngineLayer, ...]:
    """Return the operators of `graph` that are nodes of QNN's; the graph that it is given is the same for every architecture.

    Raises:
        PipelineError: one runs in floats.
    """
    nodes = next(iter(contexts.values())).nodes
    floats = [f"{node.type} ({node.name})" for node in nodes if node.reads != "int8" and node.type not in _ENDS]
    if floats:
        raise PipelineError(f"the NPU would compute in floats: {', '.join(floats)}", hint="change the network there")
    names = {node.name for node in graph.graph.node}
    found = {node.name: node for node in nodes if node.name in names and node.type not in _ENDS}
    return tuple(EngineLayer(name=node.name, op=node.type, precision=node.reads, unit="HTP") for node in found.values())
