"""A file fixed to one size is freed where it is proven that no constant in it stands for that size; else it stays fixed, and says
which operator has it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from export.cli import main
from runtime.bundle import Bundle
from tests.graphs import Array, Graph

HEIGHT, WIDTH = OWN = (24, 40)
PIXELS, CHANNELS = HEIGHT * WIDTH, 8
Middle = Callable[[Graph, str], str]
"""Adds what stands in the middle of a network, behind features of CHANNELS channels; their name and that of what it makes."""


def _network(middle: Middle, sides: tuple[int | str, int | str]) -> onnx.ModelProto:
    graph = Graph(0, channels=3, sides=sides)
    made = middle(graph, graph.conv("input", CHANNELS, 3))
    model = graph.proto(graph.shuffle(graph.conv(made, 12, 3)))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return model


def _ints(graph: Graph, *numbers: int) -> str:
    return graph.constant(np.array(numbers))


def _reduced(graph: Graph, operator: str, value: str) -> str:
    return graph.add(operator, value, _ints(graph, 2, 3), channels=CHANNELS)


def _variance(graph: Graph, value: str) -> str:
    centred = graph.add("Sub", value, _reduced(graph, "ReduceMean", value))
    return _reduced(graph, "ReduceMean", graph.add("Mul", centred, centred))


def _sum_divided(graph: Graph, value: str) -> str:
    mean = graph.add("Div", _reduced(graph, "ReduceSum", value), graph.constant(np.array(float(PIXELS))))
    return graph.add("Sub", value, mean)


def _summed(graph: Graph, value: str) -> str:
    """A sum whose count is in the weights behind it."""
    return graph.add("Add", value, graph.conv(_reduced(graph, "ReduceSum", value), CHANNELS, 1))


def _sum_scaled(graph: Graph, value: str) -> str:
    mean = graph.add("Mul", _reduced(graph, "ReduceSum", value), graph.constant(np.array(1 / PIXELS)))
    return graph.add("Sub", value, mean)


def _unbiased(graph: Graph, value: str) -> str:
    """torch.var: n / (n - 1) of the mean square."""
    whole = graph.add("Mul", _variance(graph, value), graph.constant(np.array(float(PIXELS))))
    return graph.add("Mul", value, graph.add("Div", whole, graph.constant(np.array(PIXELS - 1.0))))


def _unbiased_folded(graph: Graph, value: str) -> str:
    """The same after a simplifier."""
    scaled = graph.add("Mul", _variance(graph, value), graph.constant(np.array(PIXELS / (PIXELS - 1))))
    return graph.add("Mul", value, graph.add("Sqrt", scaled))


def _position_grid(graph: Graph, value: str) -> str:
    return graph.add("Add", value, graph.constant(graph.random(1, CHANNELS, HEIGHT, WIDTH)))


def _position_row(graph: Graph, value: str) -> str:
    return graph.add("Mul", value, graph.constant(graph.random(WIDTH)))


def _windows(graph: Graph, value: str) -> str:
    """Attention's windows of 8×8, counted, and a mask of them."""
    apart = graph.add("Reshape", value, _ints(graph, 1, CHANNELS, HEIGHT // 8, 8, WIDTH // 8, 8))
    masked = graph.add("Add", apart, graph.constant(graph.random(1, 1, HEIGHT // 8, 8, WIDTH // 8, 8)))
    return graph.add("Reshape", masked, _ints(graph, 1, CHANNELS, HEIGHT, WIDTH), channels=CHANNELS)


def _resized_to_a_size(graph: Graph, value: str) -> str:
    small = graph.add("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
    return graph.add("Resize", small, "", "", _ints(graph, 1, CHANNELS, HEIGHT, WIDTH), mode="linear")


def _expanded(graph: Graph, value: str) -> str:
    wide = graph.add("Expand", graph.add("GlobalAveragePool", value), _ints(graph, 1, CHANNELS, HEIGHT, WIDTH))
    return graph.add("Add", value, wide)


def _tiled(graph: Graph, value: str) -> str:
    return graph.add("Add", value, graph.add("Tile", graph.add("GlobalMaxPool", value), _ints(graph, 1, 1, HEIGHT, WIDTH)))


def _pooled_whole(graph: Graph, value: str) -> str:
    return graph.add("Mul", value, graph.add("Sigmoid", graph.add("AveragePool", value, kernel_shape=[*OWN])))


def _convolved_whole(graph: Graph, value: str) -> str:
    weight = graph.constant(graph.random(CHANNELS, CHANNELS, HEIGHT, WIDTH) / PIXELS)
    return graph.add("Mul", value, graph.add("Conv", value, weight))


def _pooled_by_shares(graph: Graph, value: str) -> str:
    """Adaptive pooling to 3×5 places, made as large again by a factor."""
    few = graph.add("AveragePool", value, kernel_shape=[8, 8], strides=[8, 8])
    fewer = graph.add("GlobalAveragePool", few)
    return graph.add("Add", value, graph.add("Expand", fewer, _ints(graph, 1, CHANNELS, HEIGHT, WIDTH)))


def _gram(graph: Graph, value: str) -> str:
    """Attention of channels: a product over all pixels, divided by how many there are."""
    flat = graph.add("Reshape", value, _ints(graph, 1, CHANNELS, -1))
    product = graph.add("MatMul", flat, graph.add("Transpose", flat, perm=[0, 2, 1]))
    mixed = graph.add("MatMul", graph.add("Mul", product, graph.constant(np.array(1 / PIXELS))), flat)
    return graph.add("Reshape", mixed, graph.add("Shape", value), channels=CHANNELS)


def _cropped(graph: Graph, value: str) -> str:
    padded = graph.add("Pad", value, _ints(graph, 0, 0, 0, 0, 0, 0, 8, 8))
    return graph.add("Slice", padded, _ints(graph, 0, 0), _ints(graph, *OWN), _ints(graph, 2, 3))


def _halves_swapped(graph: Graph, value: str) -> str:
    first = graph.add("Slice", value, _ints(graph, 0), _ints(graph, WIDTH // 2), _ints(graph, 3))
    second = graph.add("Slice", value, _ints(graph, WIDTH // 2), _ints(graph, 1 << 40), _ints(graph, 3))
    return graph.add("Concat", second, first, axis=3)


def _running_sum(graph: Graph, value: str) -> str:
    return graph.add("CumSum", value, graph.constant(np.array(3)))


def _sampled(graph: Graph, value: str) -> str:
    return graph.add("GridSample", value, graph.constant(graph.random(1, HEIGHT, WIDTH, 2)))


BURNT: tuple[tuple[Middle, str], ...] = (
    (_sum_divided, "Div"),
    (_sum_scaled, "Mul"),
    (_summed, "ReduceSum"),
    (_unbiased, "Mul"),
    (_unbiased_folded, "Mul"),
    (_position_grid, "Add"),
    (_position_row, "Mul"),
    (_windows, "Reshape"),
    (_resized_to_a_size, "Resize"),
    (_expanded, "Expand"),
    (_tiled, "Tile"),
    (_pooled_whole, "AveragePool"),
    (_convolved_whole, "Conv"),
    (_pooled_by_shares, "Expand"),
    (_gram, "Reshape"),
    (_cropped, "Slice"),
    (_halves_swapped, "Slice"),
    (_running_sum, "CumSum"),
    (_sampled, "GridSample"),
)


def _import(model: onnx.ModelProto, folder: Path) -> Bundle:
    onnx.save_model(model, folder / "theirs.onnx")
    main([str(folder / "theirs.onnx"), "--range=0,1", "--colour=RGB", f"--out={folder / 'bundle'}"])
    return Bundle.open(folder / "bundle")


def _run(graph: bytes, picture: Array) -> Array:
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    output: Array = session.run(None, {session.get_inputs()[0].name: picture})[0]
    return output


def _noise(height: int, width: int) -> Array:
    return np.random.default_rng(3).random((1, 3, height, width), np.float32)


@pytest.mark.parametrize(("middle", "operator"), BURNT, ids=lambda part: part.__name__.strip("_") if callable(part) else "")
def test_a_constant_that_stands_for_the_size_keeps_it_fixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], middle: Middle, operator: str
) -> None:
    model = _network(middle, OWN)
    bundle = _import(model, tmp_path)
    said = capsys.readouterr().out
    assert f"stays fixed to batch 1, height {HEIGHT}, width {WIDTH}: {operator} " in said
    assert bundle.manifest.contract.static_shape == OWN
    ours = _run(bundle.read(bundle.variant("fp32")), _noise(*OWN))
    np.testing.assert_allclose(ours, _run(model.SerializeToString(), _noise(*OWN)), rtol=0, atol=1e-5)


def _gated(graph: Graph, value: str) -> str:
    gate = graph.add("Sigmoid", graph.conv(graph.add("GlobalAveragePool", value), CHANNELS, 1))
    return graph.add("Mul", value, graph.add("Mul", gate, graph.constant(np.array(0.3))))


def _normalized(graph: Graph, value: str) -> str:
    deviation = graph.add("Sqrt", graph.add("Add", _variance(graph, value), graph.constant(np.array(1e-5))))
    return graph.add("Div", value, deviation)


def _normalized_by_operator(graph: Graph, value: str) -> str:
    return graph.add("InstanceNormalization", value, graph.constant(graph.random(CHANNELS)), graph.constant(graph.random(CHANNELS)))


def _half_size_within(graph: Graph, value: str) -> str:
    weights = [graph.constant(graph.random(CHANNELS, CHANNELS, side, side)) for side in (3, 4)]
    small = graph.add("Conv", value, weights[0], strides=[2, 2], pads=[1] * 4)
    larger = graph.add("ConvTranspose", small, weights[1], strides=[2, 2], pads=[1] * 4)
    return graph.conv(graph.add("Concat", value, larger, axis=1, channels=2 * CHANNELS), CHANNELS, 1)


def _same_as_tensorflow(graph: Graph, value: str) -> str:
    """TensorFlow's "same" of an even picture pads behind it alone; of an odd one it would pad before it too."""
    padded = graph.add("Pad", value, _ints(graph, 0, 0, 0, 0, 0, 0, 1, 1))
    small = graph.add("Conv", padded, graph.constant(graph.random(CHANNELS, CHANNELS, 3, 3)), strides=[2, 2])
    return graph.add("Add", value, graph.add("Resize", small, "", graph.constant(np.array([1.0, 1, 2, 2])), mode="nearest"))


def _reflected(graph: Graph, value: str) -> str:
    padded = graph.add("Pad", value, _ints(graph, 0, 0, 4, 4, 0, 0, 4, 4), mode="reflect")
    return graph.add("Slice", graph.conv(padded, CHANNELS, 3), _ints(graph, 4, 4), _ints(graph, -4, -4), _ints(graph, 2, 3))


def _unshuffled(graph: Graph, value: str) -> str:
    """pixel_unshuffle before a convolution, with six axes where the size is fixed, and a shuffle behind it."""
    wide, order = 4 * CHANNELS, np.arange(4 * CHANNELS).reshape(4, CHANNELS).T.reshape(-1)
    if graph.sides == OWN:
        apart = graph.add("Reshape", value, _ints(graph, 1, CHANNELS, HEIGHT // 2, 2, WIDTH // 2, 2))
        turned = graph.add("Transpose", apart, perm=[0, 1, 3, 5, 2, 4])
        small = graph.add("Reshape", turned, _ints(graph, 1, wide, HEIGHT // 2, WIDTH // 2), channels=wide)
    else:
        blocks = graph.add("SpaceToDepth", value, blocksize=2, channels=wide)
        small = graph.add("Gather", blocks, graph.constant(order), axis=1, channels=wide)
    weight = graph.constant(np.random.default_rng(9).uniform(-1, 1, (wide, wide, 3, 3)).astype(np.float32) / 60)
    return graph.shuffle(graph.add("Conv", small, weight, pads=[1] * 4, channels=wide))


FREE: tuple[tuple[Middle, int], ...] = (
    (_gated, 1),
    (_normalized, 1),
    (_normalized_by_operator, 1),
    (_half_size_within, 2),
    (_same_as_tensorflow, 2),
    (_reflected, 1),
    (_unshuffled, 2),
)


@pytest.mark.parametrize(("middle", "multiple"), FREE, ids=lambda part: part.__name__.strip("_") if callable(part) else "")
def test_a_file_without_such_a_constant_is_freed_and_right_at_any_size(tmp_path: Path, middle: Middle, multiple: int) -> None:
    """As right as the same network exported for any size."""
    bundle = _import(_network(middle, OWN), tmp_path)
    contract, free = bundle.manifest.contract, _network(middle, ("h", "w"))
    assert (contract.static_shape, contract.multiple_of) == (None, multiple)
    for size in (OWN, (34, 18), (62, 90)):
        ours = _run(bundle.read(bundle.variant("fp32")), _noise(*size))
        np.testing.assert_allclose(ours, _run(free.SerializeToString(), _noise(*size)), rtol=0, atol=1e-5)


def test_an_odd_file_that_halves_its_picture_stays_fixed(tmp_path: Path) -> None:
    """What it does at its border is right for odd sizes, which the runtime does not keep to."""

    def strided(graph: Graph, value: str) -> str:
        small = graph.add("MaxPool", value, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        gate = graph.add("Resize", small, "", graph.constant(np.array([1.0, 1, 2, 2])), mode="nearest")
        return graph.add("Slice", gate, _ints(graph, 0, 0), _ints(graph, -1, -1), _ints(graph, 2, 3))

    bundle = _import(_network(strided, (25, 41)), tmp_path)
    assert bundle.manifest.contract.static_shape == (25, 41)


@pytest.mark.parametrize("count", [PIXELS, PIXELS - 1, 1 / PIXELS, math.sqrt(PIXELS), WIDTH, 2 / (WIDTH - 1)])
def test_a_number_made_of_the_pixels_keeps_what_it_scales_fixed(tmp_path: Path, count: float) -> None:
    """Behind a mean over the picture, whatever is made of it there."""

    def scaled(graph: Graph, value: str) -> str:
        mean = graph.add("Mul", _reduced(graph, "ReduceMean", value), graph.constant(np.array(float(count))))
        return graph.add("Add", value, graph.conv(mean, CHANNELS, 1))

    assert _import(_network(scaled, OWN), tmp_path).manifest.contract.static_shape == OWN
