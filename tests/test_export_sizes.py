"""What sizes a file's network takes is found by running it, said, and written to the contract; a fixed size can be asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from export.cli import main
from runtime.bundle import Bundle, Contract
from tests.graphs import Array, Graph

Build = Callable[[], onnx.ModelProto]
Cuts = tuple[list[int], list[int]]


def _import(model: onnx.ModelProto, folder: Path, *more: str) -> Bundle:
    onnx.save_model(model, folder / "theirs.onnx")
    main([str(folder / "theirs.onnx"), "--range=0,1", "--colour=RGB", f"--out={folder / 'bundle'}", *more])
    return Bundle.open(folder / "bundle")


def _run(graph: bytes, picture: Array) -> Array:
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    output: Array = session.run(None, {session.get_inputs()[0].name: picture})[0]
    return output


def _noise(*shape: int) -> Array:
    return np.random.default_rng(5).random(shape, np.float32)


def _plain(sides: tuple[int | str, int | str] = ("h", "w")) -> onnx.ModelProto:
    graph = Graph(0, channels=3, sides=sides)
    return graph.proto(graph.shuffle(graph.conv("input", 12, 3)))


def _gathered(*blocks: int) -> onnx.ModelProto:
    """Gathers blocks of pixels into channels and spreads them again, for one block size after the other."""
    graph = Graph(0, channels=3)
    value = "input"
    for block in blocks:
        small = graph.add("SpaceToDepth", value, blocksize=block, channels=3 * block**2)
        value = graph.shuffle(graph.conv(small, 3 * block**2, 1), block)
    return graph.proto(graph.shuffle(graph.conv(value, 12, 3)))


def _halving(times: int) -> onnx.ModelProto:
    """A U-Net: halves the picture some times, and joins what it makes larger again with what was before."""
    graph = Graph(0, channels=3)
    value, before = graph.conv("input", 4, 3), []
    for _ in range(times):
        before.append(value)
        value = graph.add("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
    for skipped in reversed(before):
        weight = graph.constant(graph.random(graph.channels[value], 4, 2, 2))
        larger = graph.add("ConvTranspose", value, weight, kernel_shape=[2, 2], strides=[2, 2], channels=4)
        value = graph.conv(graph.add("Concat", larger, skipped, axis=1, channels=8), 4, 1)
    return graph.proto(graph.shuffle(graph.conv(value, 12, 3)))


def _reflecting(pad: int) -> onnx.ModelProto:
    """Reflects that many pixels at every border, and crops them from what it gives."""
    graph = Graph(0, channels=3)
    padded = graph.add("Pad", "input", graph.constant(np.array([0, 0, pad, pad, 0, 0, pad, pad])), mode="reflect")
    cut = [graph.constant(np.array(numbers)) for numbers in ([2 * pad] * 2, [-2 * pad] * 2, [2, 3])]
    return graph.proto(graph.add("Slice", graph.shuffle(graph.conv(padded, 12, 3)), *cut))


def _pooled_far() -> onnx.ModelProto:
    """Attention to what far windows hold, of which a picture below 11 pixels has none (RFDN's, Omni-SR's)."""
    graph = Graph(0, channels=3)
    value = graph.conv("input", 16, 3)
    seen = graph.add("Conv", value, graph.constant(graph.random(16, 16, 3, 3) / 16), strides=[2, 2], channels=16)
    seen = graph.conv(graph.add("MaxPool", seen, kernel_shape=[7, 7], strides=[3, 3]), 16, 3)
    weight = graph.add("Sigmoid", graph.add("GlobalAveragePool", seen))
    return graph.proto(graph.shuffle(graph.conv(graph.add("Mul", value, weight), 12, 3)))


def _one_at_a_time() -> onnx.ModelProto:
    """As torch's exporter writes an enlargement to a size: the batch, a constant, stands beside it."""
    graph = Graph(0, channels=3)
    sides = graph.add("Mul", graph.add("Shape", "input", start=2, end=4), graph.constant(np.array([2, 2])))
    size = graph.add("Concat", graph.constant(np.array([1, 3])), sides, axis=0)
    return graph.proto(graph.add("Resize", graph.conv("input", 3, 3), "", "", size, mode="linear"))


def _enlarged_by(factor: float) -> onnx.ModelProto:
    graph = Graph(0, channels=3)
    larger = graph.add("Resize", graph.conv("input", 3, 3), "", graph.constant(np.array([1, 1, factor, factor])), mode="linear")
    return graph.proto(graph.conv(larger, 3, 3))


TAKEN: tuple[tuple[str, Build, float, Contract], ...] = (
    ("any size", _plain, 2, Contract()),
    ("blocks of 2", lambda: _gathered(2), 2, Contract(multiple_of=2, least_side=2)),
    ("blocks of 3", lambda: _gathered(3), 2, Contract(multiple_of=3, least_side=3)),
    ("blocks of 7", lambda: _gathered(7), 2, Contract(multiple_of=7, least_side=7)),
    ("blocks of 4 and 3", lambda: _gathered(4, 3), 2, Contract(multiple_of=12, least_side=12)),
    ("blocks of 8 and 3", lambda: _gathered(8, 3), 2, Contract(multiple_of=24, least_side=24)),
    ("halved twice", lambda: _halving(2), 2, Contract(multiple_of=4, least_side=4)),
    ("halved five times", lambda: _halving(5), 2, Contract(multiple_of=32, least_side=32)),
    ("10 reflected", lambda: _reflecting(10), 2, Contract(least_side=11)),
    ("48 reflected", lambda: _reflecting(48), 2, Contract(least_side=49)),
    ("windows of 11", _pooled_far, 2, Contract(least_side=11)),
    ("one at a time", _one_at_a_time, 2, Contract(one_at_a_time=True)),
    ("1.5 floored", lambda: _enlarged_by(1.5), 1.5, Contract(multiple_of=2, least_side=2)),
    ("2.5 floored", lambda: _enlarged_by(2.5), 2.5, Contract(multiple_of=2, least_side=2)),
    ("4/3 floored", lambda: _enlarged_by(4 / 3), 4 / 3, Contract(multiple_of=3, least_side=3)),
)


@pytest.mark.parametrize(("build", "scale", "contract"), [case[1:] for case in TAKEN], ids=[case[0] for case in TAKEN])
def test_the_contract_says_what_sizes_a_network_takes(tmp_path: Path, build: Build, scale: float, contract: Contract) -> None:
    """Found without --scale as with it; what it says runs, for two sizes and as many pictures, as the file does."""
    bundle = _import(build(), tmp_path)
    assert bundle.manifest.scale == pytest.approx(scale)
    assert bundle.manifest.contract == contract
    batch = 1 if contract.one_at_a_time else 2
    for quotients in ((1, 2), (5, 3)):
        height, width = (max(contract.least_side, quotient * contract.multiple_of) for quotient in quotients)
        picture = _noise(batch, 3, height, width)
        ours, theirs = _run(bundle.read(bundle.variant("fp32")), picture), _run(build().SerializeToString(), picture)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        assert ours.shape[2:] == (round(height * scale), round(width * scale))


def test_a_scale_that_only_some_sizes_have_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network that crops its border gives twice 64 pixels less 4: near to 1.94 times, and no scale."""
    graph = Graph(0, channels=3)
    model = graph.proto(graph.shuffle(graph.conv("input", 12, 3, pad=0)))
    for more in ((), ("--scale=2",)):
        with pytest.raises(SystemExit) as ended:
            _import(model, tmp_path, *more)
        assert ended.value.code == 2
        assert "enlarges 37×53 to 70×102" in capsys.readouterr().err


def test_a_network_that_keeps_its_size_is_asked_for_its_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = Graph(0, channels=3)
    model = graph.proto(graph.conv("input", 3, 3))
    with pytest.raises(SystemExit) as ended:
        _import(model, tmp_path)
    assert ended.value.code == 2
    assert "--scale is missing" in capsys.readouterr().err
    assert _import(model, tmp_path, "--scale=2.5").manifest.contract.pre_upscale


@pytest.mark.parametrize("scale", ["0.5", "1", "65", "nan"])
def test_a_scale_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], scale: str) -> None:
    with pytest.raises(SystemExit) as ended:
        _import(_plain(), tmp_path, f"--scale={scale}")
    assert ended.value.code == 2
    assert "expected more than 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "build",
    [_plain, lambda: _plain((32, 40)), lambda: _gathered(4), _one_at_a_time],
    ids=["free", "fixed", "gathered", "one at a time"],
)
def test_a_size_that_is_asked_for_is_fixed(tmp_path: Path, build: Build) -> None:
    """Of free files, and of one that was fixed to another size."""
    bundle = _import(build(), tmp_path, "--static=24x16")
    assert bundle.manifest.contract == Contract(static_shape=(24, 16))
    graph = onnx.load_model(bundle.path(bundle.variant("fp32"))).graph
    assert [side.dim_value for side in graph.input[0].type.tensor_type.shape.dim] == [1, 3, 24, 16]
    assert not {"Shape", "Concat"} & {node.op_type for node in graph.node}
    free = _plain() if build().graph.input[0].type.tensor_type.shape.dim[2].dim_value else build()
    picture = _noise(1, 3, 24, 16)
    ours, theirs = _run(bundle.read(bundle.variant("fp32")), picture), _run(free.SerializeToString(), picture)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_a_size_before_it_is_enlarged_is_what_is_asked_for(tmp_path: Path) -> None:
    graph = Graph(0, channels=3)
    bundle = _import(graph.proto(graph.conv("input", 3, 3)), tmp_path, "--scale=2.5", "--static=20x16")
    assert bundle.manifest.contract == Contract(static_shape=(50, 40), pre_upscale=True)


def test_a_size_the_network_does_not_take_is_not_fixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _import(_gathered(8), tmp_path, "--static=30x64")
    assert ended.value.code == 2
    assert "--static 32x64" in capsys.readouterr().err
