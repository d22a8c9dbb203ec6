"""Every network of sredge's own, and one whose branches run side by side, as engines of TensorRT for RTX in every precision."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from calibration.ranges import Method
from calibration.steps import ignore_step
from export.engine.strongly_typed import TypedGraph
from export.engine.tensorrt_rtx.build import build_plan
from export.engine.tensorrt_rtx.builder_log import layer_precisions
from export.models import NETWORKS, Network
from export.passes.simplify import simplify
from quantize.half.cast import HALF_PRECISIONS, make_half
from quantize.int8 import quantize_int8
from quantize.options import Effort, Int8Options
from runtime.backends.engines import EngineInput, ShapeProfile
from runtime.errors import PipelineError
from runtime.targets import Precision, find_target
from tests.architectures import find_architecture
from tests.architectures.exporters import find_exporter, write_onnx
from tests.rtx import CAPABILITIES, needs_rtx
from tests.small_int8 import measured_on

pytestmark = needs_rtx
SIZE = (16, 24)
MULTIPLIES = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def _shallow(network: Network) -> torch.nn.Module:
    """The network with random weights, less the repetitions of a deep trunk: a few of its blocks show what thirty-two would."""
    scale = network.scales[0]
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in network.build(scale).state_dict().items()}
    torch.manual_seed(0)
    kept = {key: shape for key, shape in shapes.items() if not any(part.isdigit() and int(part) > 1 for part in key.split("."))}
    try:
        return network.build_for(scale, kept).eval()
    except KeyError:  # of one depth
        return network.build(scale).eval()


def _fp32(module: torch.nn.Module, channels: int, path: Path) -> onnx.ModelProto:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        given = (torch.rand(1, channels, *SIZE),)
        torch.onnx.export(module, given, path, opset_version=18, dynamo=False, input_names=["input"], output_names=["output"])
    return onnx.shape_inference.infer_shapes(ir.to_proto(simplify(ir.load(path))[0]))


def _layers(model: onnx.ModelProto, precision: Precision, size: tuple[int, int] = SIZE) -> dict[str, str]:
    profile = ShapeProfile(min=size, opt=size, max=size)
    typed = TypedGraph(graph=model.SerializeToString(), precision=precision, takes=EngineInput("float32", profile))
    layers = build_plan(typed, CAPABILITIES, on_step=ignore_step, cancelled=threading.Event()).layers
    return {layer.name: layer.precision for layer in layer_precisions(layers)}


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_every_network_is_built_in_every_precision_with_every_layer_as_its_graph_has_it(network: Network, tmp_path: Path) -> None:
    channels = network.contract.channels
    fp32 = _fp32(_shallow(network), channels, tmp_path / "network.onnx")
    multiplied = [node.name for node in fp32.graph.node if node.op_type in MULTIPLIES]
    crops = [np.random.default_rng(0).random((1, channels, *SIZE), np.float32)]
    options = Int8Options(target=find_target("tensorrt-rtx"), method=Method.MINMAX, effort=Effort.FAST)
    int8 = quantize_int8(fp32, measured_on(fp32, crops), options)
    graphs: dict[Precision, onnx.ModelProto] = {"fp32": fp32, "int8": int8.model}
    for half in HALF_PRECISIONS:
        graphs[half] = make_half(fp32, half, tolerance_db=None).model
    for precision, graph in graphs.items():
        expected = int8.int8_layers if precision == "int8" else multiplied
        found = _layers(graph, precision)
        assert {name: found.get(name) for name in expected} == dict.fromkeys(expected, precision), precision


def test_kernels_of_branches_that_wait_for_each_other_are_read_too(tmp_path: Path) -> None:
    write_onnx(find_architecture("pan"), find_exporter("fixed"), tmp_path / "pan.onnx")
    found = _layers(onnx.load(tmp_path / "pan.onnx"), "fp32", (48, 64))
    assert set(found.values()) <= {"fp32", "other"}
    assert len(found) > 20


def test_a_transposed_convolution_in_bfloat16_is_refused_in_the_builders_words(tmp_path: Path) -> None:
    fp32 = _fp32(torch.nn.ConvTranspose2d(3, 3, 4, stride=2, padding=1), 3, tmp_path / "transposed.onnx")
    with pytest.raises(PipelineError, match=r"built no bf16 engine: .*deconv"):
        _layers(make_half(fp32, "bf16", tolerance_db=None).model, "bf16")
