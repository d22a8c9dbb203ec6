"""A layer that reads its input's rounding error too: what is left of the error, and what the graph then is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibration.ranges import Method
from calibration.table import CalibrationTable
from export.engine.tensorrt.qdq_rules import broken_rules
from quantize.explain.sensitivity import measure_layers
from quantize.graph.input_correction import RANK, corrected_layers, extra_channels
from quantize.graph.keep_in_float import find_liftable
from quantize.graph.read_qdq import rounded_layers, stored_tensors
from quantize.graph.switches import SwitchedGraph
from quantize.int8 import quantize_int8
from quantize.options import Int8Options, Step
from quantize.prepare import prepare
from runtime.errors import UserError
from runtime.targets import TARGETS, Target, find_target
from tests.graphs import Array, Graph
from tests.small_int8 import measured_on, output_error

WRITE_FLOATS = [
    replace(target, float_dtype="float32") for target in TARGETS if target.writes_floats
]  # float16 rounds as much itself
EACH_TARGET = pytest.mark.parametrize("target", WRITE_FLOATS, ids=lambda target: str(target.name))
ENLARGED = pytest.mark.parametrize("enlarged", [1, 2], ids=["as it was made", "shuffled"])
CHANNELS = 24
Quantized = tuple[onnx.ModelProto, onnx.ModelProto]


def _network(
    *, kernel: int, outputs: int, factor: int = 1, pad: int | None = None, active: bool = True, enlarged: int = 1
) -> tuple[onnx.ModelProto, str]:
    """A layer between others that hears `outputs` directions at most of what every pixel of a window holds; and the layer's name.

    Of its own weight, which is of ones and zeros, int8 loses nothing. What it reads was shuffled to be `enlarged`.
    """
    graph = Graph(3, channels=3)
    given = graph.conv("input", CHANNELS * enlarged**2, 3)
    given = graph.add("Relu", given) if active else given
    given = graph.shuffle(given, enlarged) if enlarged > 1 else given
    weight = graph.rng.integers(-1, 2, (outputs, CHANNELS, kernel, kernel)) / (CHANNELS * kernel**2)
    layer = graph.conv(given, outputs, kernel, weight=graph.constant(weight.astype(np.float32)), pad=pad)
    moved = graph.shuffle(layer, factor) if factor > 1 else layer
    last = graph.constant(graph.random(3, graph.channels[moved], 1, 1) / 10)
    grey = graph.constant(np.full(3, 0.5))  # about which nothing is clipped
    return graph.proto(graph.add("Conv", moved, last, grey, channels=3)), layer


def _pictures() -> list[Array]:
    rng = np.random.default_rng(1)
    return [rng.random((1, 3, 24, 20)).astype(np.float32) for _ in range(5)]


def _options(target: Target, *lifted: str) -> Int8Options:
    """Constants lie as the fp32 graph has them."""
    left_out: frozenset[Step] = frozenset({"pixel-grid", "kernel-layouts"})
    return Int8Options(target=target, method=Method.MINMAX, without=left_out, lifted=frozenset(lifted))


def _others(model: onnx.ModelProto, layer: str) -> list[str]:
    return [node.name for node in model.graph.node if node.op_type == "Conv" and node.name != layer]


def _quantized(model: onnx.ModelProto, table: CalibrationTable, options: Int8Options) -> Quantized:
    """The fp32 graph with the tensors of the int8 one, and that."""
    prepared = prepare(model, table, options).model
    plain = quantize_int8(model, table, replace(options, lifted=frozenset()))
    int8 = quantize_int8(model, table, options, crops=_pictures(), rounded=plain.rounded)
    return ir.to_proto(prepared), int8.model


def _error(reference: onnx.ModelProto, int8: onnx.ModelProto) -> float:
    return output_error(reference, int8, _pictures())


@EACH_TARGET
@pytest.mark.parametrize("active", [True, False], ids=["never negative", "of either sign"])
@pytest.mark.parametrize(("kernel", "outputs", "factor", "enlarged"), [(1, 4, 1, 1), (1, 4, 2, 1), (3, 1, 1, 1), (1, 4, 1, 2)])
def test_of_what_a_layer_hears_little_is_lost(
    target: Target, kernel: int, outputs: int, factor: int, enlarged: int, active: bool
) -> None:
    """Four directions at most: those of a 1×1 layer of four outputs; a 3×3 one of one output has nine, of which four are not all.

    They are found for rounding errors that are alike in all channels; those of channels that are mostly zero are smaller.
    """
    model, layer = _network(kernel=kernel, outputs=outputs, factor=factor, active=active, enlarged=enlarged)
    table = measured_on(model, _pictures())
    options = _options(target, *_others(model, layer))  # what is left is the layer's own
    reference, plain = _quantized(model, table, options)
    _, corrected = _quantized(model, table, replace(options, lifted=options.lifted | {f"{layer}.input"}))

    left = _error(reference, corrected) / _error(reference, plain)

    assert left < (0.2 if kernel == 1 else 0.7), left


@EACH_TARGET
def test_the_picture_may_have_no_whole_number_of_pixels_for_each_of_the_input(target: Target) -> None:
    """Nothing pads it: it has two rows and columns less."""
    model, layer = _network(kernel=3, outputs=1, pad=0)
    table = measured_on(model, _pictures())
    reference, plain = _quantized(model, table, _options(target, *_others(model, layer)))
    _, corrected = _quantized(model, table, _options(target, *_others(model, layer), f"{layer}.input"))

    assert _error(reference, corrected) < 0.7 * _error(reference, plain)


@EACH_TARGET
@pytest.mark.parametrize("pad", [0, 1])
def test_what_a_layer_is_given_may_be_padded_before_it_is_shuffled(target: Target, pad: int) -> None:
    graph = Graph(3, channels=3)
    padded = graph.add("Pad", graph.conv("input", 4 * CHANNELS, 3), graph.constant(np.array([0, 0, pad, pad] * 2)))
    layer = graph.conv(graph.shuffle(padded), 3, 3)
    model = graph.proto(layer)

    _, corrected = _quantized(model, measured_on(model, _pictures()), _options(target, f"{layer}.input"))

    shapes = {constant.name: tuple(constant.dims) for constant in corrected.graph.initializer}
    assert shapes[f"{layer}.weight.quantized"] == (3, CHANNELS + extra_channels(target), 3, 3)


@EACH_TARGET
@ENLARGED
def test_the_layer_goes_on_reading_integers_as_its_target_wants_them(target: Target, enlarged: int) -> None:
    model, layer = _network(kernel=3, outputs=4, factor=2, enlarged=enlarged)
    table = measured_on(model, _pictures())

    _, corrected = _quantized(model, table, _options(target, f"{layer}.input"))

    graph = ir.from_proto(corrected).graph
    (node,) = (node for node in graph if node.name == layer)
    read = node.inputs[0]
    assert read is not None
    assert read.producer().op_type == "DequantizeLinear"  # type: ignore[union-attr] # else the assertion fails
    assert corrected_layers(graph) == {layer}
    shapes = {constant.name: tuple(constant.dims) for constant in corrected.graph.initializer}
    assert shapes[f"{layer}.weight.quantized"] == (4, CHANNELS + extra_channels(target), 3, 3)
    if target.name.startswith("tensorrt"):
        assert not broken_rules(corrected)


@EACH_TARGET
@ENLARGED
def test_what_is_read_back_is_what_the_fp32_graph_has(target: Target, enlarged: int) -> None:
    model, layer = _network(kernel=3, outputs=4, factor=2, enlarged=enlarged)
    table = measured_on(model, _pictures())
    reference, corrected = _quantized(model, table, _options(target, f"{layer}.input"))
    _, plain = _quantized(model, table, _options(target))
    graphs = [ir.from_proto(graph).graph for graph in (corrected, plain)]

    one, other = (rounded_layers(graph) for graph in graphs)
    for name in one:
        for mine, theirs in zip(one[name], other[name], strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert stored_tensors(graphs[0]).keys() <= {name for node in reference.graph.node for name in (*node.input, *node.output)}
    rows = measure_layers(reference, corrected, _pictures(), layers=[layer], target=target, on_step=lambda *_: None)
    assert layer in {row.name for row in rows}


@EACH_TARGET
@ENLARGED
def test_what_a_search_takes_it_for_is_what_it_is(target: Target, enlarged: int) -> None:
    """Simulated, the whole of the input's rounding error is gone."""
    model, layer = _network(kernel=1, outputs=RANK, enlarged=enlarged)
    table = measured_on(model, _pictures())
    others = _others(model, layer)
    reference, everything = _quantized(model, table, _options(target))
    _, plain = _quantized(model, table, _options(target, *others))
    _, corrected = _quantized(model, table, _options(target, *others, f"{layer}.input"))
    switched = SwitchedGraph(reference, everything, _pictures(), target=target)

    simulated = [switched.psnr_db(switched.operators.difference(others), corrected=names) for names in ((), (layer,))]

    measured = [-10 * np.log10(_error(reference, graph)) for graph in (plain, corrected)]
    assert simulated[0] == pytest.approx(measured[0], abs=0.01)
    assert simulated[1] is None or simulated[1] > measured[1] > measured[0] + 7


@EACH_TARGET
def test_a_layer_that_is_lifted_reads_floats_anyway(target: Target) -> None:
    model, layer = _network(kernel=3, outputs=4)
    table = measured_on(model, _pictures())

    graphs = [_quantized(model, table, _options(target, *names))[1] for names in ((layer,), (layer, f"{layer}.input"))]

    assert graphs[0] == graphs[1]


def test_inputs_can_be_lifted_where_there_is_something_to_gain() -> None:
    """Not of pictures, nor of few channels, nor where a layer has to write integers, nor what was shuffled for others too."""
    graph = Graph(0, channels=3)
    first = graph.conv("input", CHANNELS, 3)
    narrow = graph.conv(graph.conv(first, 4, 3), CHANNELS, 3)
    moved = graph.conv(graph.shuffle(graph.conv(narrow, 4 * CHANNELS, 3)), 4 * CHANNELS, 3)
    shared = graph.shuffle(moved)
    model = graph.model(graph.add("Add", graph.conv(shared, 3, 3), graph.conv(shared, 3, 3)))

    for target in TARGETS:
        expected = () if not target.writes_floats else ("conv1.input", "conv3.input", "conv5.input")
        assert tuple(find_liftable(model.graph, target).inputs) == expected


def test_directions_are_measured_on_pictures() -> None:
    model, layer = _network(kernel=3, outputs=4)
    table = measured_on(model, _pictures())

    with pytest.raises(UserError, match="there are none") as raised:
        quantize_int8(model, table, _options(find_target("openvino"), f"{layer}.input"))
    assert "--calib" in str(raised.value.hint)
