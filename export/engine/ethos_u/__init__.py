"""Compile a graph for Arm's Ethos-U by Vela: an int8 ONNX graph in, a .tflite file for the NPU and Vela's own figures out.

No NPU runs here: milliseconds and cycles are of Vela's model of the chip, and are called so.
"""

from __future__ import annotations

import onnx

from export.engine.compiled import Compiled, CompileRequest, OnStep, pack_plans
from export.engine.ethos_u.shuffles import FORMS, operators_with
from export.engine.ethos_u.vela import VelaResult, run_vela, vela_version
from export.engine.litert import fixed_size, metadata_of
from export.engine.litert import version as writer_version
from export.engine.litert.flatbuffer import serialize
from export.engine.litert.walk import write_tflite
from runtime.backends.compiled_engines import EngineLayer, Estimate
from runtime.backends.litert_layers import read_layers
from runtime.errors import UserError

__all__ = ["ARCHITECTURES", "compile_graph", "version"]

ARCHITECTURES = {
    "u55-128": "ethos-u55-128",
    "u55-256": "ethos-u55-256",
    "u65-256": "ethos-u65-256",
    "u65-512": "ethos-u65-512",
    "u85-256": "ethos-u85-256",
    "u85-512": "ethos-u85-512",
    "u85-1024": "ethos-u85-1024",
}
"""The names that `--architecture` takes, and Vela's for them."""


def version() -> str:
    return f"vela.{vela_version()}+{writer_version()}"


def compile_graph(request: CompileRequest, *, on_step: OnStep) -> Compiled:
    """Compile for each architecture; the plan is one .tflite file, or an archive of one for each.

    Raises:
        UserError: the graph has an operator that a .tflite file cannot hold.
        PipelineError: Vela fails.
    """
    size = fixed_size(request.profile)
    if size is None:
        raise UserError("an engine for Ethos-U takes pictures of one size", hint="--window HxW")
    model = onnx.load_model_from_string(request.graph)
    forms = {form: write_tflite(model, size=size, operators=operators_with(form)) for form in FORMS}
    description, metadata = f"{request.name}, for Ethos-U, by sredge", metadata_of(request)
    files = {form: serialize(graph, description=description, metadata=metadata) for form, graph in forms.items()}
    results: dict[str, VelaResult] = {}
    done, total = 0, len(request.architectures) * len(files)
    for architecture in request.architectures:
        for form, file in files.items():
            on_step(f"compiling for {architecture}, shuffles by {form}", done, total)
            result = run_vela(file, ARCHITECTURES[architecture], name=request.name)
            done += 1
            best = results.get(architecture)
            if best is None or (len(result.on_cpu), result.cycles) < (len(best.on_cpu), best.cycles):
                results[architecture] = result
    plan, suffix = pack_plans({architecture: result.file for architecture, result in results.items()}, suffix=".tflite")
    left = {name for result in results.values() for name in result.on_cpu}
    layers = tuple(
        EngineLayer(name=layer.name, op=layer.op, precision=layer.precision, unit="CPU" if layer.name in left else "NPU")
        for layer in read_layers(files[FORMS[0]])
    )
    notes = forms[FORMS[0]].notes
    estimates = tuple(estimate for architecture, result in results.items() for estimate in _estimates(architecture, result))
    return Compiled(plan=plan, suffix=suffix, layers=layers, estimates=estimates, unproven=(*notes, *_unproven(results)))


def _estimates(architecture: str, result: VelaResult) -> list[Estimate]:
    figures = [
        (f"latency at {result.clock_hz / 1e6:g} MHz", round(result.ms, 2), "ms"),
        ("cycles", result.cycles, "cycles"),
        ("NPU cycles", result.npu_cycles, "cycles"),
        *((memory, round(kib, 1), "KiB") for memory, kib in result.memory_kib.items()),
        ("left on the CPU", len(result.on_cpu), "operators"),
    ]
    by = f"Vela {vela_version()}"
    return [Estimate(architecture=architecture, what=what, value=value, unit=unit, by=by) for what, value, unit in figures]


def _unproven(results: dict[str, VelaResult]) -> list[str]:
    said = ["cycles, milliseconds and memory: estimated by Vela, no Ethos-U has run this"]
    for architecture, result in results.items():
        said.append(f"{architecture} is taken to be Vela's {result.system} with {result.memory_mode}")
        if result.on_cpu:
            said.append(f"{architecture}: left on the CPU, whose time is not counted: {', '.join(result.on_cpu)}"[:250])
    return said
