"""What somebody's ONNX file calls its axes, and says of its tensors' shapes, changes nothing of what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from export.cli import main
from runtime.bundle import Bundle
from tests.graphs import Array, Graph

Size = str | int | None
FLOAT = TensorProto.FLOAT
# Free sizes (N, H, W) as exporters and people name them; None has neither a name nor a number.
NAMES: dict[str, tuple[Size, Size, Size]] = {
    "apart": ("n", "h", "w"),
    "height and width alike": ("n", "side", "side"),
    "all alike": ("size", "size", "size"),
    "ours": ("batch", "height", "width"),
    "ours in another order": ("width", "batch", "height"),
    "like numbers": ("0", "-1", "1"),
    "empty": ("", "", ""),
    "without any": (None, None, None),
    "as sums": ("n", "2*h", "w + 1"),
    "of odd letters": ("n é", 'h"', "w\n"),
    "batch of one": (1, "h", "w"),
    "minus one": (-1, -1, -1),
    "zero": (0, 0, 0),
}


def _value(name: str, channels: Size, sizes: Sequence[Size]) -> onnx.ValueInfoProto:
    batch, height, width = sizes
    return helper.make_tensor_value_info(name, FLOAT, (batch, channels, height, width))


def _file(taken: Sequence[Size], given: Sequence[Size], *, inside: Sequence[Size] | None) -> onnx.ModelProto:
    """Two convolutions, a shuffle and a Sigmoid, whose memory ONNX Runtime shares where shapes are said to be the same."""
    graph = Graph(0, channels=3)
    first = graph.add("Relu", graph.conv("input", 3, 3))
    shuffled = graph.shuffle(graph.conv(first, 12, 3))
    model = graph.proto(graph.add("Sigmoid", shuffled))
    model.graph.input[0].CopyFrom(_value("input", 3, taken))
    model.graph.output[0].CopyFrom(_value(model.graph.output[0].name, 3, given))
    del model.graph.value_info[:]
    if inside is not None:
        model.graph.value_info.extend(_value(name, graph.channels[name], inside) for name in (first, shuffled))
    return model


def _exported(model: onnx.ModelProto, folder: Path) -> Bundle:
    (folder / "theirs.onnx").write_bytes(model.SerializeToString())
    main([str(folder / "theirs.onnx"), "--scale=2", "--colour=RGB", "--range=0,1", "--out", str(folder / "bundle")])
    return Bundle.open(folder / "bundle")


def _run(graph: bytes, picture: Array) -> Array:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    output: Array = session.run(None, {"input": picture})[0]
    return output


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Array, Array]:
    """A batch of two, and what the graph gives for it where no name is used twice."""
    picture = np.random.default_rng(1).random((2, 3, 12, 20), np.float32)
    return picture, _run(_file(("n", "h", "w"), ("a", "b", "c"), inside=None).SerializeToString(), picture)


@pytest.mark.parametrize(("names", "said"), list(product(NAMES, ("", "output and inside"))))
def test_a_file_gives_the_same_whatever_its_axes_are_called(
    tmp_path: Path, wanted: tuple[Array, Array], names: str, said: str
) -> None:
    """The same names on the input; on the output and on the tensors between them."""
    taken, other = NAMES[names], ("a", "b", "c")
    model = _file(taken, taken if said else other, inside=taken if "inside" in said else None)

    bundle = _exported(model, tmp_path)

    picture, output = wanted
    assert bundle.manifest.contract.static_shape is None
    assert _run(bundle.read(bundle.variant("fp32")), picture) == pytest.approx(output, abs=1e-5)


@pytest.mark.parametrize("given", [(1, 64, 64), ("n", 7, 7), (3, "h", "w")], ids=str)
def test_a_wrong_size_of_the_output_is_not_believed(tmp_path: Path, wanted: tuple[Array, Array], given: Sequence[Size]) -> None:
    bundle = _exported(_file(("n", "h", "w"), given, inside=None), tmp_path)
    picture, output = wanted
    assert _run(bundle.read(bundle.variant("fp32")), picture) == pytest.approx(output, abs=1e-5)
