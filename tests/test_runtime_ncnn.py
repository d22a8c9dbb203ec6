"""ncnn computes what the graph says, of any size and batch; what it cannot run is refused by name; precisions are told truly."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.foreign import read_foreign
from export.models import Network
from export.stage import export_foreign
from runtime.backends import BACKENDS, open_backend
from runtime.backends.onnxruntime import run_as_written
from runtime.bundle import Bundle, Contract
from runtime.bundle.graph_content import read_graph_content
from runtime.cli import main
from runtime.errors import BackendError
from runtime.targets import Precision
from runtime.upscaler import Upscaler
from runtime.verify.value_check import measure_values
from tests.architectures import ARCHITECTURES
from tests.architectures.exporters import find_exporter, write_onnx
from tests.architectures.weights import scale_of
from tests.graphs import Graph
from tests.stand_ins.libraries import ROOT

if not any(entry.name == "ncnn" and entry.installed for entry in BACKENDS):
    pytest.skip("ncnn is not installed: pip install 'sredge[ncnn]'", allow_module_level=True)

# float32 sums in another order, over a few dozen layers of values near 1: 1.5e-5 is the most that was measured (SRGAN x2).
TOLERANCE = 5e-5
# Between them they have every operator that the others have; swinir's windows, cut by a reshape to six axes, are refused.
OPERATORS_OF = ("fsrcnn", "imdn", "rfdn", "lapsrn", "pan", "unet", "plksr", "safmn")


def _inputs(channels: int, *sizes: tuple[int, int], batch: int = 1) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return [rng.random((batch, channels, *size), np.float32) for size in sizes]


def _hold(graph: bytes, arrays: list[NDArray[np.float32]]) -> None:
    with open_backend("ncnn", graph, precision="fp32", threads=1) as backend:
        for array in arrays:
            wanted, got = run_as_written(graph, array), backend.run(array)
            assert got.shape == wanted.shape
            assert np.abs(got - wanted).max() < TOLERANCE * max(1.0, float(np.abs(wanted).max()))


@pytest.mark.parametrize("network", [one for one in ARCHITECTURES if one.name in OPERATORS_OF], ids=lambda network: network.name)
def test_networks_of_other_people_give_what_onnx_says(network: Network, tmp_path: Path) -> None:
    write_onnx(network, find_exporter("legacy"), tmp_path / "network.onnx")
    foreign = read_foreign(tmp_path / "network.onnx", scale=scale_of(network), order=None, value_range=None, static=None)
    bundle = export_foreign(foreign, tmp_path / "network.onnx", directory=tmp_path / "bundle")
    contract = bundle.manifest.contract
    sizes = [contract.filled_size(size) for size in ((48, 64), (37, 53), (24, 17))]
    _hold(bundle.read(bundle.variant("fp32")), _inputs(contract.channels, *sizes))


def test_an_operator_it_does_not_have_is_named_with_its_node_and_another_backend() -> None:
    graph = Graph(0)
    output = graph.add("Trilu", graph.conv("input", 4, 3))
    with pytest.raises(BackendError, match=rf"Trilu \(node '{output}'\)") as caught:
        open_backend("ncnn", graph.proto(output).SerializeToString(), precision="fp32")
    assert "--backend" in caught.value.hint


def test_int8_is_refused_with_the_backends_that_have_it(quantized: Bundle) -> None:
    with pytest.raises(BackendError, match="no int8 arithmetic") as caught:
        open_backend("ncnn", quantized.read(quantized.variant("int8")), precision="int8")
    assert "onnxruntime" in caught.value.hint


def test_raw_pixels_are_refused_with_what_to_type(exported_small: Bundle) -> None:
    graph = exported_small.read(exported_small.variant("fp32"))
    with pytest.raises(BackendError, match="raw 8-bit pixels") as caught:
        open_backend("ncnn", graph, precision="fp32", io="uint8")
    assert "--io float32" in caught.value.hint


def _operators() -> dict[str, bytes]:
    found = {}

    def keep(name: str, graph: Graph, output: str) -> None:
        found[name] = graph.proto(output).SerializeToString()

    for name in ("Sigmoid", "Tanh", "Erf", "Softplus", "Abs", "Neg", "Exp", "HardSwish", "HardSigmoid"):
        graph = Graph(1)
        keep(name, graph, graph.add(name, graph.conv("input", 4, 3)))
    for name in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
        graph = Graph(2)
        per_channel = graph.constant(np.float32(2) + graph.random(1, 4, 1, 1))
        keep(f"{name} by channel", graph, graph.add(name, graph.conv("input", 4, 3), per_channel))
        graph = Graph(3)
        keep(f"{name} from a number", graph, graph.add(name, graph.constant(3.0), graph.add("Exp", "input")))
    for mode in ("DCR", "CRD"):
        graph = Graph(4)
        keep(f"DepthToSpace {mode}", graph, graph.shuffle(graph.conv("input", 8, 3), 2, mode))
    for mode in ("constant", "edge", "reflect"):
        graph = Graph(5)
        pads = graph.constant(np.array([0, 0, 1, 2, 0, 0, 3, 4]))
        keep(f"Pad {mode}", graph, graph.conv(graph.add("Pad", "input", pads, mode=mode), 4, 3))
    for step, group in ((2, 1), (3, 2)):
        graph = Graph(6)
        weight = graph.constant(graph.random(4, 6 // group, 4, 4))
        keys: dict[str, Any] = {"strides": [step] * 2, "pads": [1, 0, 2, 1], "output_padding": [1, 0], "group": group}
        keep(f"ConvTranspose {step} {group}", graph, graph.add("ConvTranspose", "input", weight, channels=6, **keys))
    for padding, dilation, stride, group in (([0, 1, 2, 3], 2, 1, 1), ([1, 1, 1, 1], 1, 2, 4), ([2, 2, 2, 2], 1, 3, 2)):
        graph = Graph(7)
        weight = graph.constant(graph.random(8, 4 // group, 3, 3))
        spatial: dict[str, Any] = {"pads": padding, "dilations": [dilation] * 2, "strides": [stride] * 2, "group": group}
        keep(f"Conv {padding} {dilation} {stride} {group}", graph, graph.add("Conv", "input", weight, channels=8, **spatial))
    for name in ("MaxPool", "AveragePool"):
        graph = Graph(8)
        keep(name, graph, graph.add(name, "input", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]))
    for mode, coordinates in (("linear", "half_pixel"), ("linear", "align_corners"), ("cubic", "half_pixel")):
        graph = Graph(9)
        scales = graph.constant(np.array([1, 1, 2, 3], np.float32))
        how: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
        keep(f"Resize {mode} {coordinates}", graph, graph.add("Resize", "input", "", scales, **how))
    graph = Graph(10)
    keep("a fused activation that two read", graph, graph.add("Add", *[graph.add("Relu", one := graph.conv("input", 4, 3)), one]))
    for order in ([0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2], [0, 3, 2, 1]):
        graph = Graph(11)
        turned = graph.add("Transpose", "input", perm=order)
        back = graph.add("Transpose", graph.add("Softmax", turned, axis=-1), perm=np.argsort(order).tolist())
        keep(f"Transpose {order}", graph, back)
    return found


OPERATORS = _operators()


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_gives_what_onnx_says(name: str) -> None:
    _hold(OPERATORS[name], _inputs(4, (13, 18), (16, 7)))


def test_a_batch_and_odd_sizes_give_what_onnx_says(exported: Bundle) -> None:
    graph = exported.read(exported.variant("fp32"))
    _hold(graph, [*_inputs(3, (37, 53), (1, 1), (2, 9)), *_inputs(3, (11, 6), batch=3)])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_layer_is_told_to_run_in_half_precision_only_where_values_changed(quantized: Bundle, precision: Precision) -> None:
    """What is told to be fp32 in every layer gives the float32 result; what is not, does not."""
    graph = quantized.read(quantized.variant("fp32"))
    (array,) = _inputs(3, (24, 32))
    with open_backend("ncnn", graph, precision="fp32") as exact, open_backend("ncnn", graph, precision=precision) as half:
        told = {layer.precision for layer in half.precisions()}
        same = np.array_equal(exact.run(array), half.run(array))
    assert told <= {"fp32", precision}
    assert same == (told == {"fp32"})


def test_networks_of_many_sizes_run_in_several_threads(quantized: Bundle) -> None:
    with Upscaler.open(quantized, precision="fp32", backend="ncnn", parallel=3, threads=3, tile=24) as upscaler:
        pictures = [np.full((20 + 9 * at, 31, 3), 40 * at, np.uint8) for at in range(5)]
        expected = [upscaler(picture) for picture in pictures]
        with ThreadPoolExecutor(3) as pool:
            assert all(np.array_equal(*pair) for pair in zip(pool.map(upscaler, pictures), expected, strict=True))


@pytest.mark.parametrize("device", ["GPU", "Vulkan.77", "cpu:0"])
def test_a_device_that_ncnn_has_not_is_refused(exported_small: Bundle, device: str) -> None:
    with pytest.raises(BackendError, match=device):
        open_backend("ncnn", exported_small.read(exported_small.variant("fp32")), precision="fp32", device=device)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_vulkan_gives_what_the_graph_says(exported: Bundle, precision: Precision) -> None:
    import ncnn

    if not ncnn.get_gpu_count():
        pytest.skip("this machine has no Vulkan driver: apt install mesa-vulkan-drivers has one for the CPU")
    graph = exported.read(exported.variant("fp32"))
    (array,) = _inputs(3, (24, 33), batch=2)
    with open_backend("ncnn", graph, precision=precision, device="Vulkan") as backend:
        error = backend.run(array) - run_as_written(graph, array)
        told = {layer.precision for layer in backend.precisions()}
    assert np.abs(error).max() < {"fp32": TOLERANCE, "fp16": 0.03, "bf16": 0.2}[precision]  # 11 and 8 bits, through 24 layers
    assert told <= {"fp32", precision}


def test_upscale_takes_it_by_name(
    exported_small: Bundle, picture_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = picture_folder((9, 14))
    large = folder / "large.png"
    main(["upscale", str(folder / "0.png"), "-o", str(large), "--bundle", str(exported_small.directory), "--backend", "ncnn"])
    assert "fp32 on ncnn" in capsys.readouterr().out
    assert large.is_file()


def test_the_reader_of_graphs_reads_what_onnx_reads(exported: Bundle) -> None:
    data = exported.read(exported.variant("fp32"))
    model, found = onnx.load_model_from_string(data), read_graph_content(data)
    assert [node.operator for node in found.nodes] == [node.op_type for node in model.graph.node]
    for node, read in zip(model.graph.node, found.nodes, strict=True):
        assert (tuple(node.input), tuple(node.output), node.name) == (read.inputs, read.outputs, read.name)
        for attribute in node.attribute:
            value = helper.get_attribute_value(attribute)
            value = value.decode() if isinstance(value, bytes) else tuple(value) if isinstance(value, list) else value
            assert read.attributes[attribute.name] == value
    for tensor in model.graph.initializer:
        assert np.array_equal(found.constants[tensor.name], onnx.numpy_helper.to_array(tensor))


@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "BFLOAT16", "INT64", "INT32", "DOUBLE"])
@pytest.mark.parametrize("raw", [True, False])
def test_constants_of_every_type_are_read(kind: str, raw: bool) -> None:
    values = np.array([-1.5, 0, 2, 250], np.float32)
    number = getattr(TensorProto, kind)
    tensor = helper.make_tensor("constant", number, (2, 2), values)
    if raw:
        tensor = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), "constant")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, "h", "w")) for name in ("input", "output")]
    node = helper.make_node("Relu", ["input"], ["output"], name="relu")
    graph = helper.make_graph([node], "graph", ends[:1], ends[1:], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (read,) = read_graph_content(model.SerializeToString()).constants.values()
    assert np.array_equal(read.astype(np.float64), onnx.numpy_helper.to_array(tensor).astype(np.float64))


_WAITING = """
import os
from runtime.backends.ncnn.library import ncnn
print(ncnn.__version__, "OMP_WAIT_POLICY" in os.environ)
"""


@pytest.mark.parametrize(("asked", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE")], ids=str)
def test_threads_of_ncnn_sleep_where_they_wait_unless_the_user_decided(asked: dict[str, str], policy: str) -> None:
    """libgomp shows how it was set where it is asked to."""
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment = {**kept, **asked, "OMP_DISPLAY_ENV": "true", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", _WAITING], env=environment, capture_output=True, text=True, check=True)
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr
    assert done.stdout.split()[1:] == [str(bool(asked))]


def test_a_graph_whose_values_bf16_does_not_hold_fails_the_value_check() -> None:
    """100 ± 1 has 8 bits in bfloat16: a step of 1/2, which the difference is left with."""
    graph = Graph(12, channels=3)
    raised = graph.add("Relu", graph.add("Add", graph.conv("input", 3, 3), graph.constant(100.0)))
    data = graph.proto(graph.add("Sub", raised, graph.constant(100.0))).SerializeToString()
    found = {}
    for precision in ("fp32", "bf16"):
        with open_backend("ncnn", data, precision=precision) as backend:
            if {layer.precision for layer in backend.precisions()} >= {precision}:
                found[precision] = measure_values(backend, data, data, Contract(), precision=precision).passed
    assert found.items() <= {"fp32": True, "bf16": False}.items()
    assert "fp32" in found


def test_an_upscaler_of_ncnn_has_had_its_values_checked(exported_small: Bundle) -> None:
    with Upscaler.open(exported_small, precision="fp32", backend="ncnn", verify="always") as opened:
        assert opened.value_check is not None
        assert opened.value_check.psnr_db > 100


def test_tiles_are_smaller_where_ncnn_takes_more_memory(exported: Bundle) -> None:
    kept = {}
    for backend in ("onnxruntime", "ncnn"):
        with Upscaler.open(exported, precision="fp32", backend=backend, memory_bytes=256 << 20, verify="never") as opened:
            kept[backend] = opened.plan(np.zeros((1080, 1920, 3), np.uint8)).count
    assert kept["ncnn"] > 2 * kept["onnxruntime"]
