"""TensorRT for RTX as tests use it: where its packages are not installed they skip, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import pytest

from calibration.steps import ignore_step
from export.engine.compiled import Compiled, CompileRequest
from export.engine.compilers import find_compiler
from export.engine.tensorrt_rtx import compile_graph
from runtime.backends.engines import ShapeProfile
from runtime.backends.tensorrt_rtx_library import load_tensorrt_rtx, shared_logger
from runtime.bundle import Bundle, Io
from runtime.targets import Precision, find_target

needs_rtx = pytest.mark.skipif(bool(find_compiler("tensorrt-rtx").missing), reason=find_compiler("tensorrt-rtx").install)
FIXED = ShapeProfile(min=(16, 16), opt=(16, 16), max=(16, 16))
RANGE = ShapeProfile(min=(16, 16), opt=(24, 32), max=(32, 48))
CAPABILITIES = ("86", "89", "120")


def compiled(
    bundle: Bundle,
    precision: Precision,
    *,
    profile: ShapeProfile = FIXED,
    architectures: tuple[str, ...] = CAPABILITIES,
    io: Io = "float32",
    target: str = "tensorrt-rtx",
) -> Compiled:
    """The engine of the bundle's graph."""
    variant = bundle.variant(precision, target=target, io=io)
    request = CompileRequest(
        name=variant.file,
        graph=bundle.read(variant),
        precision=precision,
        io=io,
        target=None if variant.target is None else find_target(variant.target),
        manifest=bundle.manifest,
        architectures=architectures,
        profile=profile,
    )
    return compile_graph(request, on_step=ignore_step)


def refusals(model: onnx.ModelProto) -> str:
    """What the parser or the builder says against the graph, whose input has one shape; empty where it is built."""
    trt: Any = load_tensorrt_rtx()
    logger = shared_logger()
    logger.begin()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        return "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    return "" if builder.build_serialized_network(network, config) is not None else str(logger.reasons)


def conv_layers(made: Compiled) -> Iterator[tuple[str, str]]:
    """The layers that multiply, each with what it runs in."""
    return ((layer.name, layer.precision) for layer in made.layers if layer.op != "kgen")
