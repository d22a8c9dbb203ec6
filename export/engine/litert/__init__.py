"""Write .tflite files: an ONNX graph, fp32, fp16 or int8, in; a file for LiteRT out, with the graph's own integers."""

from __future__ import annotations

import onnx

from export.engine.compiled import Compiled, CompileRequest, OnStep
from export.engine.litert.flatbuffer import serialize
from export.engine.litert.walk import write_tflite
from runtime import __version__
from runtime.backends.compiled_engines import EngineLayer
from runtime.backends.engines import ShapeProfile
from runtime.backends.litert import check_file
from runtime.backends.litert import version as litert_version
from runtime.backends.litert_layers import read_layers
from runtime.bundle import Manifest
from runtime.errors import BackendError, PipelineError, UserError

__all__ = ["compile_graph", "fixed_size", "version"]

_HALVES = "fp16 is how weights are stored: a GPU and an Arm CPU with half precision compute in it, an x86 CPU in fp32"
_DELEGATES = "what a delegate for a phone's GPU or NPU computes: LiteRT's own CPU kernels alone have run such files here"


def version() -> str:
    """Return the versions of the writer, which is sredge's, and of LiteRT, which opens what it writes."""
    return f"{__version__}+litert.{litert_version()}"


def compile_graph(request: CompileRequest, *, on_step: OnStep) -> Compiled:
    """Write the file, and open it with LiteRT.

    Raises:
        UserError: the graph has an operator that a .tflite file cannot hold; names its node.
        PipelineError: LiteRT does not open what was written.
    """
    on_step("writing", 0, 0)
    graph = write_tflite(onnx.load_model_from_string(request.graph), size=fixed_size(request.profile))
    file = serialize(graph, description=f"{request.name}, by sredge {__version__}", metadata=metadata_of(request))
    try:
        check_file(file)
        read = read_layers(file)
    except BackendError as error:
        raise PipelineError(f"the .tflite file of {request.name} is not one: {error}") from error
    layers = tuple(EngineLayer(name=layer.name, op=layer.op, precision=layer.precision, unit="CPU or delegate") for layer in read)
    unproven = (*graph.notes, *((_HALVES,) if request.precision == "fp16" else ()), _DELEGATES)
    return Compiled(plan=file, suffix=".tflite", layers=layers, unproven=unproven)


def fixed_size(profile: ShapeProfile | None) -> tuple[int, int] | None:
    """Return the one (H, W) that a profile has; None where a file is to take every size.

    Raises:
        UserError: it is a range.
    """
    if profile is None:
        return None
    if not profile.fixed:
        raise UserError(
            f"a .tflite file takes pictures of one size or of every size, not {profile}", hint="--window HxW, or nothing"
        )
    return profile.min


def metadata_of(request: CompileRequest) -> dict[str, str]:
    """Return what the file says of itself, by name; the second name is LiteRT's own, for CPUs that compute in half precision."""
    manifest: Manifest = request.manifest
    found = {
        "sredge": __version__,
        "name": request.name,
        "model": manifest.model,
        "scale": f"{manifest.scale:g}",
        "colour": manifest.contract.colour,
    }
    return found | ({"reduced_precision_support": "fp16accfp32"} if request.precision == "fp16" else {})
