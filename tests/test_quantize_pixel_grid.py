"""Ends put on a picture's own grid: the network stays what it was, borders included, and the 256 values of a pixel are codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.graph.constants import constant_input
from quantize.exact.pixel_grid import PixelGrid, align_ends
from quantize.graph.qdq import activation_parameters
from runtime.targets import find_target
from tests.graphs import Array, Graph

CPU = find_target("cpu")
SYMMETRIC = replace(CPU, activation_dtype="int8", activation_symmetric=True)
SCHEMES = {"asymmetric": CPU, "symmetric": SYMMETRIC, "symmetric uint8": replace(SYMMETRIC, activation_dtype="uint8")}
EACH_SCHEME = pytest.mark.parametrize("scheme", SCHEMES)
COLOURS = 3
PIXELS = (np.arange(256) / 255).astype(np.float32)
SIDES = (7, 16)  # smaller than the windows of three convolutions: borders are everywhere
FLOAT32 = 2.0**-24
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=20)
Build = Callable[[Graph], str]


def _run(model: ir.Model, name: str = "") -> Array:
    """The output, or the tensor called so, for a picture of 8-bit values."""
    proto = ir.to_proto(model)
    if name:
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    picture = np.random.default_rng(1).permuted(np.resize(PIXELS, 2 * COLOURS * 7 * 16)).reshape(2, COLOURS, *SIDES)
    result: Array = session.run([name] if name else None, {"input": picture})[0]
    return result


def _assert_aligned_without_change(model: ir.Model, scheme: str) -> PixelGrid:
    before = _run(model)
    grid = align_ends(model, SCHEMES[scheme])
    # The same sums in another order, over a few hundred products that reach far beyond the output where they cancel.
    tolerance = 1e3 * FLOAT32 * max(1.0, float(np.abs(before).max()))
    np.testing.assert_allclose(_run(model), before, rtol=0, atol=tolerance)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return grid


def _mean_taken_off(graph: Graph, *, bias: bool = True) -> str:
    return graph.conv("input", COLOURS, 1, bias=bias)


def _codes(values: NDArray[np.floating], grid: PixelGrid, name: str, scheme: str) -> tuple[NDArray[np.float64], float]:
    """QuantizeLinear in float64, before it rounds, by the range found for `name`; and the scale."""
    parameters = activation_parameters(grid.ranges[name], SCHEMES[scheme])
    return values.astype(np.float64) / parameters.scale + parameters.zero_point, parameters.scale


def _assert_on_the_grid(values: Array, grid: PixelGrid, name: str, scheme: str) -> None:
    """`values` are 256, one for each code, no further from it than float32 holds them."""
    codes, scale = _codes(values, grid, name, scheme)
    limits = np.iinfo(SCHEMES[scheme].activation_dtype)
    assert scale == np.float32(1 / 255)
    np.testing.assert_array_equal(np.rint(codes), np.arange(limits.min, limits.max + 1))
    # Three roundings to float32 of numbers up to 1: the pixel, what is taken off, the scale. In steps.
    assert np.abs(codes - np.rint(codes)).max() <= 3 * 256 * FLOAT32


# What stays


@EACH_SCHEME
@quick
@given(seed=seeds, bias=st.booleans(), kernel=st.sampled_from([1, 3, 5]), pad=st.integers(0, 2))
def test_a_network_that_begins_with_a_convolution_stays_the_same(scheme: str, seed: int, bias: bool, kernel: int, pad: int) -> None:
    graph = Graph(seed, channels=COLOURS)
    hidden = graph.add("Relu", graph.conv("input", 8, kernel, bias=bias, pad=pad))

    _assert_aligned_without_change(graph.model(graph.conv(hidden, 3, 3)), scheme)


@EACH_SCHEME
@quick
@given(seed=seeds, bias=st.booleans(), kernel=st.sampled_from([1, 3, 5]), pad=st.integers(0, 2), readers=st.integers(1, 3))
def test_a_network_that_takes_a_mean_off_first_stays_the_same(
    scheme: str, seed: int, bias: bool, kernel: int, pad: int, readers: int
) -> None:
    graph = Graph(seed, channels=COLOURS)
    mean = _mean_taken_off(graph, bias=bias)
    total, *others = [graph.add("Relu", graph.conv(mean, 6, kernel, pad=pad)) for _ in range(readers)]
    for other in others:
        total = graph.add("Add", total, other)

    _assert_aligned_without_change(graph.model(graph.conv(total, 3, 3)), scheme)


@EACH_SCHEME
@quick
@given(seed=seeds, mode=st.sampled_from(["CRD", "DCR"]), mean=st.booleans())
def test_a_network_that_ends_in_a_shuffle_stays_the_same(scheme: str, seed: int, mode: str, mean: bool) -> None:
    graph = Graph(seed, channels=COLOURS)
    source = _mean_taken_off(graph) if mean else "input"
    hidden = graph.add("Relu", graph.conv(source, 8, 3))

    _assert_aligned_without_change(graph.model(graph.shuffle(graph.conv(hidden, 12, 3), 2, mode)), scheme)


def _skipped_over(graph: Graph) -> str:
    """The picture is read by an Add, too."""
    return graph.add("Add", graph.conv(graph.conv("input", 8, 3), COLOURS, 3), "input")


def _mean_skipped_over(graph: Graph) -> str:
    mean = _mean_taken_off(graph)
    return graph.add("Add", graph.conv(graph.conv(mean, 8, 3), COLOURS, 3), mean)


def _activated_at_the_end(graph: Graph) -> str:
    return graph.add("Relu", graph.conv(graph.conv("input", 8, 3), COLOURS, 3))


def _activated_at_the_beginning(graph: Graph) -> str:
    return graph.conv(graph.add("Relu", "input"), COLOURS, 3)


def _grouped_at_the_beginning(graph: Graph) -> str:
    weight = graph.constant(graph.random(6, 1, 3, 3))
    return graph.conv(graph.add("Conv", "input", weight, channels=6, group=3, pads=[1] * 4), COLOURS, 3)


def _shared_weights_at_the_beginning(graph: Graph) -> str:
    weight = graph.constant(graph.random(COLOURS, COLOURS, 3, 3))
    return graph.conv(graph.conv("input", COLOURS, 3, weight=weight), COLOURS, 3, weight=weight)


def _one_convolution(graph: Graph) -> str:
    return graph.conv("input", COLOURS, 3)


def _one_convolution_without_window(graph: Graph) -> str:
    """It has a mean's shape."""
    return graph.conv("input", COLOURS, 1)


def _read_by_two(graph: Graph) -> str:
    """What a mean's shape has is then a branch."""
    return graph.add("Add", graph.conv("input", COLOURS, 1), graph.conv("input", COLOURS, 3))


def _strided_at_the_beginning(graph: Graph) -> str:
    """A convolution from colours to colours without a window, of every other pixel."""
    weight, bias = graph.constant(graph.random(COLOURS, COLOURS, 1, 1)), graph.constant(graph.random(COLOURS))
    return graph.conv(graph.add("Conv", "input", weight, bias, strides=[2, 2]), COLOURS, 3)


def _no_bias_at_the_end(graph: Graph) -> str:
    return graph.conv(graph.conv("input", 8, 3), COLOURS, 3, bias=False)


def _shared_bias_at_the_end(graph: Graph) -> str:
    bias = graph.constant(np.zeros(COLOURS, np.float32))
    first = graph.add("Conv", "input", graph.constant(graph.random(COLOURS, COLOURS, 3, 3)), bias, pads=[1] * 4)
    return graph.add("Conv", first, graph.constant(graph.random(COLOURS, COLOURS, 3, 3)), bias, pads=[1] * 4)


def _padded_at_the_end(graph: Graph) -> str:
    """The zeros around the picture do not come from the convolution."""
    pads = graph.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    return graph.add("Pad", graph.conv(graph.conv("input", 8, 3), COLOURS, 3), pads)


def _clipped_at_the_end(graph: Graph) -> str:
    zero, one = graph.constant(0.0), graph.constant(1.0)
    return graph.shuffle(graph.add("Clip", graph.conv(graph.conv("input", 8, 3), 12, 3), zero, one))


def _clipped_and_skipped_over(graph: Graph) -> str:
    last = graph.conv(graph.conv("input", 8, 3), COLOURS, 3)
    return graph.add("Clip", graph.add("Add", last, last), graph.constant(0.0), graph.constant(1.0))


def _mean_subtracted(graph: Graph) -> str:
    mean = graph.constant(graph.random(1, COLOURS, 1, 1))
    return graph.conv(graph.conv(graph.add("Sub", "input", mean), 8, 3), COLOURS, 3)


def _taken_from_a_number(graph: Graph) -> str:
    return graph.conv(graph.conv(graph.add("Sub", graph.constant(1.0), "input", channels=COLOURS), 8, 3), COLOURS, 3)


@pytest.mark.parametrize(
    "build",
    [
        _clipped_at_the_end,
        _clipped_and_skipped_over,
        _mean_subtracted,
        _taken_from_a_number,
        _skipped_over,
        _mean_skipped_over,
        _activated_at_the_end,
        _activated_at_the_beginning,
        _grouped_at_the_beginning,
        _shared_weights_at_the_beginning,
        _one_convolution,
        _one_convolution_without_window,
        _read_by_two,
        _strided_at_the_beginning,
        _no_bias_at_the_end,
        _shared_bias_at_the_end,
        _padded_at_the_end,
    ],
)
@EACH_SCHEME
def test_an_unusual_end_is_aligned_exactly_or_left_alone(scheme: str, build: Build) -> None:
    graph = Graph(0, channels=COLOURS)

    _assert_aligned_without_change(graph.model(build(graph)), scheme)


@EACH_SCHEME
def test_input_and_output_keep_their_names(scheme: str) -> None:
    graph = Graph(0, channels=COLOURS)
    output = graph.shuffle(graph.conv(_mean_taken_off(graph), 12, 3))
    model = graph.model(output)

    align_ends(model, SCHEMES[scheme])

    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["input", output]


@EACH_SCHEME
def test_a_mean_subtracted_goes_into_the_first_convolution(scheme: str) -> None:
    graph = Graph(0, channels=COLOURS)
    model = graph.model(_mean_subtracted(graph))

    grid = align_ends(model, SCHEMES[scheme])

    assert "Sub" not in [node.op_type for node in model.graph]
    assert len(grid.made_of) == 1


@EACH_SCHEME
def test_a_clip_at_the_end_is_on_the_grid(scheme: str) -> None:
    graph = Graph(0, channels=COLOURS)
    model = graph.model(output := _clipped_at_the_end(graph))

    ranges = align_ends(model, SCHEMES[scheme]).ranges

    clipped = next(node.outputs[0] for node in model.graph if node.op_type == "Clip")
    assert clipped.name in ranges
    assert output in [value.name for value in model.graph.outputs]


# What the grid is


@EACH_SCHEME
@pytest.mark.parametrize("mean", [False, True], ids=["a convolution first", "a mean first"])
def test_every_value_of_a_pixel_is_a_code_of_the_first_quantizer(scheme: str, mean: bool) -> None:
    graph = Graph(0, channels=COLOURS)
    model = graph.model(graph.conv(graph.conv(_mean_taken_off(graph) if mean else "input", 8, 3), 3, 3))

    grid = align_ends(model, SCHEMES[scheme])

    first = next(node for node in model.graph if node.op_type == "Conv")
    assert first.inputs[0] is not None
    name = str(first.inputs[0].name)
    values = _run(model, name)[:, :COLOURS] if name != "input" else PIXELS
    _assert_on_the_grid(np.unique(values), grid, name, scheme)


@EACH_SCHEME
def test_every_value_of_a_pixel_is_a_code_of_the_last_quantizer(scheme: str) -> None:
    graph = Graph(0, channels=COLOURS)
    output = graph.shuffle(last := graph.conv(graph.conv("input", 8, 3), 12, 3))
    model = graph.model(output)

    grid = align_ends(model, SCHEMES[scheme])

    shift = np.float32(128 / 255) if SCHEMES[scheme].activation_symmetric else np.float32(0)
    end = f"{output}.shifted" if SCHEMES[scheme].activation_symmetric else output
    for name in (last, end):
        _assert_on_the_grid(PIXELS - shift, grid, name, scheme)


@EACH_SCHEME
def test_the_channel_of_ones_is_a_code(scheme: str) -> None:
    graph = Graph(0, channels=COLOURS)
    model = graph.model(graph.conv(graph.conv(_mean_taken_off(graph), 8, 3), 3, 3))

    grid = align_ends(model, SCHEMES[scheme])

    ((name, (_, _, _, one)),) = grid.made_of.items()
    (code,), _ = _codes(np.array([one]), grid, name, scheme)
    assert round(code) == np.iinfo(SCHEMES[scheme].activation_dtype).max
    assert abs(code - round(code)) <= 3 * 256 * FLOAT32
    np.testing.assert_array_equal(_run(model, name)[:, COLOURS], np.full((2, *SIDES), one, np.float32))


def test_an_asymmetric_scheme_changes_nothing_of_a_network_without_mean() -> None:
    graph = Graph(0, channels=COLOURS)
    model = graph.model(graph.conv(graph.conv("input", 8, 3), 3, 3))
    before = ir.to_proto(model).SerializeToString()

    grid = align_ends(model, CPU)

    assert ir.to_proto(model).SerializeToString() == before
    assert grid.ranges == {"input": (0.0, 1.0), "conv1": (0.0, 1.0)}


# What is told of it


@EACH_SCHEME
def test_a_mean_that_moved_into_the_next_layer_is_named(scheme: str) -> None:
    graph = Graph(0, channels=COLOURS)
    mean = _mean_taken_off(graph)
    model = graph.model(graph.conv(graph.conv(mean, 8, 3), 3, 3))

    grid = align_ends(model, SCHEMES[scheme])

    assert grid.merged_layers == (mean,)
    assert [node.op_type for node in model.graph].count("Conv") == 2


@EACH_SCHEME
def test_the_means_of_new_tensors_follow_from_what_is_told_of_them(scheme: str) -> None:
    graph = Graph(0, channels=COLOURS)
    model = graph.model(graph.conv(graph.conv(_mean_taken_off(graph), 8, 3), 3, 3))

    grid = align_ends(model, SCHEMES[scheme])

    ((name, (source, factor, added, one)),) = grid.made_of.items()
    assert source == "input"
    found = _run(model, name).mean(axis=(0, 2, 3), dtype=np.float64)
    picture = np.random.default_rng(1).permuted(np.resize(PIXELS, 2 * COLOURS * 7 * 16)).reshape(2, COLOURS, *SIDES)
    wanted = [*(picture.mean(axis=(0, 2, 3), dtype=np.float64) * factor + added), one]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2 * FLOAT32)  # the picture less the shift, and the one, in float32


def test_weights_of_the_first_layer_are_those_of_the_algebra() -> None:
    graph = Graph(0, channels=COLOURS)
    mean = _mean_taken_off(graph)
    model = graph.model(graph.conv(graph.conv(mean, 8, 3), 3, 3))
    nodes = list(model.graph)
    matrix, offset, weight = constant_input(nodes[0], 1)[:, :, 0, 0], constant_input(nodes[0], 2), constant_input(nodes[1], 1)

    align_ends(model, CPU)

    found = constant_input(next(node for node in model.graph if node.op_type == "Conv"), 1)
    for row, column in np.ndindex(3, 3):
        window = weight[:, :, row, column].astype(np.float64)
        # Sums of three float32 products, rounded to float32.
        np.testing.assert_allclose(found[:, :COLOURS, row, column], window @ matrix, atol=4 * FLOAT32)
        np.testing.assert_allclose(found[:, COLOURS, row, column], window @ offset, atol=4 * FLOAT32)
