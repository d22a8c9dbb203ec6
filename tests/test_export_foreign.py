"""Anybody's ONNX file: freed of its fixed size where it can be, held to what it gives, refused where it is no such network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from export.checkpoints import load_state_dict
from export.cli import main
from export.foreign import read_foreign
from export.models import find_network
from export.parity import run_torch
from quantize.cli import main as quantize
from runtime.bundle import Bundle
from runtime.images import Picture, write_picture
from runtime.upscaler import Upscaler
from tests.graphs import Graph

FIXED = (10, 12)
Array = NDArray[np.float32]


def _shuffler(*, channels: int = 3, sides: Sequence[int | str] = ("h", "w"), written_out: bool = False) -> onnx.ModelProto:
    """Convolutions and an x2 shuffle, which is written out as Reshape-Transpose-Reshape of `sides` where asked."""
    graph = Graph(0, channels=channels, sides=sides)
    value = graph.conv(graph.add("Relu", graph.conv("input", 8, 3)), 4 * channels, 3)
    if not written_out:
        return graph.proto(graph.shuffle(value))
    height, width = (int(side) for side in sides)
    wide = graph.add("Reshape", value, graph.constant(np.array([-1, channels, 2, 2, height, width])))
    turned = graph.add("Transpose", wide, perm=[0, 1, 4, 2, 5, 3])
    return graph.proto(graph.add("Reshape", turned, graph.constant(np.array([-1, channels, 2 * height, 2 * width]))))


def _position_dependent() -> onnx.ModelProto:
    """A network that adds something of its own to each place, and so takes one size."""
    graph = Graph(0, channels=3, sides=FIXED)
    return graph.proto(graph.shuffle(graph.conv(graph.add("Add", "input", graph.constant(graph.random(1, 3, *FIXED))), 12, 3)))


def _save(model: onnx.ModelProto, tmp_path: Path, name: str = "theirs.onnx") -> Path:
    path = tmp_path / name
    onnx.save_model(model, path)
    return path


def _run(model: onnx.ModelProto, array: Array) -> Array:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: array})
    result: Array = output
    return result


def _export(path: Path, out: Path, *more: str, scale: float = 2) -> Bundle:
    main([str(path), f"--scale={scale:g}", f"--out={out}", *more])
    return Bundle.open(out)


def _upscale(bundle: Bundle, array: Array) -> Array:
    with Upscaler.open(bundle, precision="fp32", backend="onnxruntime") as upscaler:
        return upscaler.run(array)


def _noise(*shape: int) -> Array:
    return np.random.default_rng(3).random(shape, np.float32)


@pytest.mark.parametrize("written_out", [False, True], ids=["DepthToSpace", "Reshape-Transpose-Reshape"])
def test_a_fixed_file_is_freed_and_gives_what_it_gave(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], written_out: bool
) -> None:
    bundle = _export(_save(_shuffler(sides=FIXED, written_out=written_out), tmp_path), tmp_path / "bundle")
    assert "fixed to height 10, width 12 in the file, now of any size" in capsys.readouterr().out
    assert bundle.manifest.contract.static_shape is None
    for shape in ((1, 3, *FIXED), (2, 3, 7, 31)):
        expected = _run(_shuffler(), _noise(*shape))
        np.testing.assert_allclose(_upscale(bundle, _noise(*shape)), expected, rtol=0, atol=1e-5)


def _fix(model: onnx.ModelProto, *, batch: int) -> onnx.ModelProto:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    return model


@pytest.mark.parametrize(("batch", "sides"), [(1, ("h", "w")), (4, ("h", "w")), (4, FIXED)], ids=str)
def test_a_file_of_a_fixed_batch_is_freed_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], batch: int, sides: tuple[int | str, int | str]
) -> None:
    bundle = _export(_save(_fix(_shuffler(sides=sides), batch=batch), tmp_path), tmp_path / "bundle")
    said = f"batch {batch}" + (", height 10, width 12" if sides == FIXED else "")
    assert f"fixed to {said} in the file, now of any size" in capsys.readouterr().out
    assert bundle.manifest.contract.static_shape is None
    for shape in ((1, 3, *FIXED), (5, 3, 7, 31)):
        np.testing.assert_allclose(_upscale(bundle, _noise(*shape)), _run(_shuffler(), _noise(*shape)), rtol=0, atol=1e-5)


def test_the_model_zoos_file_equals_espcn_at_any_size(shared: Path, tmp_path: Path) -> None:
    path = shared / "weights" / "super_resolution_x3.onnx"
    bundle = _export(path, tmp_path / "bundle", scale=3)
    assert bundle.manifest.contract.colour == "Y"
    module = find_network("espcn", scale=3).build(3).eval()
    module.load_state_dict(load_state_dict(path))
    golden = np.load(shared / "golden" / "espcn_x3.npz")
    np.testing.assert_allclose(_upscale(bundle, golden["input"]), golden["output"], rtol=1e-4, atol=1e-5)
    for shape in ((1, 1, 9, 50), (3, 1, 41, 23)):
        np.testing.assert_allclose(_upscale(bundle, _noise(*shape)), run_torch(module, _noise(*shape)), rtol=0, atol=1e-5)


def test_a_file_that_cannot_be_freed_stays_fixed_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = _export(_save(_position_dependent(), tmp_path), tmp_path / "bundle")
    assert "stays fixed to height 10, width 12" in capsys.readouterr().out
    assert bundle.manifest.contract.static_shape == FIXED
    expected = _run(_position_dependent(), _noise(1, 3, *FIXED))
    np.testing.assert_allclose(_upscale(bundle, _noise(1, 3, *FIXED)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("low_high", [(0.0, 255.0), (-1.0, 1.0)])
def test_a_range_of_its_own_is_brought_to_0_to_1(tmp_path: Path, low_high: tuple[float, float]) -> None:
    low, high = low_high
    bundle = _export(_save(_shuffler(), tmp_path), tmp_path / "bundle", f"--range={low},{high}")
    picture = _noise(1, 3, 14, 9)
    expected = (_run(_shuffler(), picture * np.float32(high - low) + np.float32(low)) - low) / (high - low)
    np.testing.assert_allclose(_upscale(bundle, picture), expected, rtol=0, atol=1e-4)


def test_a_range_without_an_offset_costs_nothing(tmp_path: Path) -> None:
    bundle = _export(_save(_shuffler(), tmp_path), tmp_path / "bundle", "--range=0,255")
    graph = onnx.load_model(bundle.path(bundle.variant("fp32"))).graph
    assert [node.op_type for node in graph.node] == ["Conv", "Relu", "Conv", "DepthToSpace"]


def test_bgr_files_are_given_bgr(tmp_path: Path) -> None:
    bundle = _export(_save(_shuffler(), tmp_path), tmp_path / "bundle", "--colour=bgr")
    picture = _noise(1, 3, 14, 9)
    expected = _run(_shuffler(), np.ascontiguousarray(picture[:, ::-1]))[:, ::-1]
    np.testing.assert_allclose(_upscale(bundle, picture), expected, rtol=0, atol=1e-5)


def test_a_file_that_keeps_the_size_works_on_a_picture_enlarged_before(tmp_path: Path) -> None:
    graph = Graph(0, channels=3)
    bundle = _export(_save(graph.proto(graph.conv("input", 3, 5)), tmp_path), tmp_path / "bundle", scale=2.5)
    assert bundle.manifest.contract.pre_upscale
    with Upscaler.open(bundle) as upscaler:
        assert upscaler(np.zeros((8, 10, 3), np.uint8)).shape == (20, 25, 3)


def test_what_was_guessed_is_said_and_what_was_given_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _save(_shuffler(channels=1), tmp_path)
    _export(path, tmp_path / "a")
    said = capsys.readouterr().out
    assert "1 channels taken for Y" in said
    assert "values taken for 0 to 1" in said
    _export(path, tmp_path / "b", "--colour=Y", "--range=0,1")
    assert "taken for" not in capsys.readouterr().out


@pytest.mark.parametrize("opset", [11, 16])
def test_an_older_file_is_raised_and_given_at_the_opset_asked_for(tmp_path: Path, opset: int) -> None:
    model = _shuffler()
    model.opset_import[0].version = opset
    bundle = _export(_save(model, tmp_path), tmp_path / "bundle", "--opset=21")
    assert bundle.variant("fp32").opset == 21
    np.testing.assert_allclose(_upscale(bundle, _noise(1, 3, 9, 9)), _run(_shuffler(), _noise(1, 3, 9, 9)), rtol=0, atol=1e-5)


def test_a_file_becomes_a_bundle_that_quantizes_and_runs(tmp_path: Path, picture: Picture) -> None:
    (tmp_path / "pictures").mkdir()
    write_picture(tmp_path / "pictures" / "a.png", picture)
    bundle = _export(_save(_shuffler(), tmp_path, "my net (2).onnx"), tmp_path / "bundle")
    assert bundle.manifest.model == "my-net-2"
    quantize([str(bundle.directory), f"--calib={tmp_path / 'pictures'}"])
    with Upscaler.open(bundle.directory, precision="int8") as upscaler:
        assert upscaler(picture).shape == (80, 112, 3)


def _four_at_a_time() -> onnx.ModelProto:
    """A network that adds something of its own to each picture and place, and so takes four pictures of one size."""
    graph = Graph(0, channels=3, sides=FIXED)
    added = graph.add("Add", "input", graph.constant(graph.random(4, 3, *FIXED)))
    wide = graph.add("Reshape", added, graph.constant(np.array([4, 3, *FIXED])))
    return _fix(graph.proto(graph.shuffle(graph.conv(wide, 12, 3))), batch=4)


def _two_inputs() -> onnx.ModelProto:
    model = _shuffler()
    model.graph.input.append(onnx.helper.make_tensor_value_info("noise", onnx.TensorProto.FLOAT, [1]))
    return model


def _channels_last() -> onnx.ModelProto:
    graph = Graph(0, channels=5)
    return graph.proto(graph.conv("input", 5, 3))


@pytest.mark.parametrize(
    ("model", "more", "expected"),
    [
        (_shuffler, ["--scale=3"], "enlarges 37×53 to 74×106, not by 3"),
        (_two_inputs, ["--scale=2"], "has 2 inputs and 1 outputs"),
        (_channels_last, ["--scale=2"], "expected FLOAT (N, C, H, W) or (N, H, W, C) with 1 or 3 channels"),
        (_four_at_a_time, ["--scale=2"], "is fixed to batch 4, height 10, width 12, and must stay so"),
        (_shuffler, ["--scale=2", "--colour=Y"], "takes 3 channels, which cannot be Y"),
        (_shuffler, ["--scale=2", "--colour=CMYK"], "unknown colour 'CMYK'"),
        (_shuffler, ["--scale=2", "--range=255"], "expected two numbers"),
        (_shuffler, ["--scale=2", "--range=1,0"], "expected two numbers"),
        (_shuffler, ["--scale=2", "--weights=shipped"], "--weights has no effect on"),
    ],
    ids=["scale", "two inputs", "five channels", "batch", "colour", "unknown colour", "one number", "backwards", "weights"],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: object, more: list[str], expected: str
) -> None:
    assert callable(model)
    path = _save(model(), tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([str(path), f"--out={tmp_path / 'bundle'}", *more])
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "empty"])
def test_what_is_no_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    path = _save(_shuffler(), tmp_path)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": data[: len(data) // 2], "text": b"not a model", "empty": b""}[damage])
    with pytest.raises(SystemExit) as ended:
        main([str(path), "--scale=2", f"--out={tmp_path / 'bundle'}"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert "Traceback" not in error


def test_colour_and_range_are_not_silently_ignored_for_a_network_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["lesrcnn", "--scale=2", "--range=0,255"])
    assert ended.value.code == 2
    assert "--colour and --range are for .onnx files" in capsys.readouterr().err


def test_weights_beside_the_file_are_not_followed_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside" / "theirs.onnx"
    onnx.save_model(_shuffler(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "inside" / "weights.bin").rename(tmp_path / "weights.bin")
    model = onnx.load_model(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../weights.bin" if entry.key == "location" else entry.value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(SystemExit) as ended:
        main([str(path), "--scale=2", f"--out={tmp_path / 'bundle'}"])
    assert ended.value.code == 2


def test_a_file_is_read_without_changing_it(tmp_path: Path) -> None:
    path = _save(_shuffler(sides=FIXED), tmp_path)
    before = path.read_bytes()
    read_foreign(path, scale=2, order=None, value_range=(0.0, 255.0))
    assert path.read_bytes() == before


def _dividing() -> onnx.ModelProto:
    """A network that divides one size by another, which is 0 for pictures below 8 pixels per side, and pads by that."""
    graph = Graph(0, channels=3)
    height = graph.add("Gather", graph.add("Shape", "input"), graph.constant(np.array([2])), axis=0)
    eighths = graph.add("Div", height, graph.constant(np.array([8])))
    surplus = graph.add("Sub", graph.add("Div", height, eighths), graph.add("Div", height, eighths))
    zero = graph.constant(np.array([0]))
    pads = graph.add("Concat", *([zero] * 6), surplus, zero, axis=0)
    return graph.proto(graph.shuffle(graph.conv(graph.add("Pad", "input", pads), 12, 3)))


def test_a_size_that_would_end_the_process_is_one_that_it_does_not_take(tmp_path: Path) -> None:
    """ONNX Runtime divides integers by 0 without looking: SIGFPE."""
    bundle = _export(_save(_dividing(), tmp_path), tmp_path / "out")
    assert bundle.manifest.contract.least_side == 8
    assert _upscale(bundle, _noise(1, 3, 8, 9)).shape == (1, 3, 16, 18)


def test_a_layer_called_as_the_picture_is_does_not_take_its_name(tmp_path: Path) -> None:
    graph = Graph(0, channels=3)
    model = graph.proto(graph.shuffle(graph.conv(graph.conv("input", 8, 3), 12, 3)))
    names = {"constant0": "input.weight", "constant1": "input.bias", "constant2": "output.weight", "constant3": "output.bias"}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    array = _noise(1, 3, 11, 14)
    bundle = _export(_save(model, tmp_path), tmp_path / "out")
    np.testing.assert_allclose(_upscale(bundle, array), _run(model, array), rtol=0, atol=1e-5)
