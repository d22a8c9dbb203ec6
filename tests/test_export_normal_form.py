"""Every file comes to one form: constants, functions, branches, old operators, other floats and layouts. What the form cannot hold
is one sentence that names the operator."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from export.cli import main
from runtime.bundle import Bundle
from tests.graphs import Array, Graph

Build = Callable[[], onnx.ModelProto]
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
SIDES = (14, 22)


def _import(model: onnx.ModelProto, folder: Path, *more: str) -> Bundle:
    onnx.save_model(model, folder / "theirs.onnx")
    main([str(folder / "theirs.onnx"), "--range=0,1", "--colour=RGB", f"--out={folder / 'bundle'}", *more])
    return Bundle.open(folder / "bundle")


_ROUNDING = 1e-6  # of the largest value: float32 sums in another order


def _picture() -> Array:
    return np.random.default_rng(7).random((1, 3, *SIDES), np.float32)


def _run(graph: bytes, picture: Array) -> Array:
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    output: Array = session.run(None, {session.get_inputs()[0].name: picture})[0]
    return output


def _given(bundle: Bundle, picture: Array | None = None) -> Array:
    return _run(bundle.read(bundle.variant("fp32")), _picture() if picture is None else picture)


def _operators(bundle: Bundle) -> list[str]:
    return [node.op_type for node in onnx.load_model(bundle.path(bundle.variant("fp32"))).graph.node]


def _enlarging(graph: Graph, value: str, *, opset: int = 18) -> onnx.ModelProto:
    """The network's end: a convolution and a shuffle behind `value`."""
    return graph.proto(graph.shuffle(graph.conv(value, 12, 3)), opset=opset)


def _resized(opset: int, mode: str, factor: float) -> onnx.ModelProto:
    """Two convolutions around the enlargement that this opset has."""
    graph, scales = Graph(opset, channels=3), [1.0, 1.0, factor, factor]
    first = graph.conv("input", 4, 3)
    if opset < 9:
        larger = graph.add("Upsample", first, mode=mode, scales=scales)
    elif opset < 11:
        larger = graph.add("Upsample" if opset == 9 else "Resize", first, graph.constant(np.array(scales)), mode=mode)
    else:
        region = "" if opset > 12 else graph.constant(np.zeros(0, np.float32))
        larger = graph.add("Resize", first, region, graph.constant(np.array(scales)), mode=mode)
    return graph.proto(graph.conv(larger, 3, 3), opset=opset)


@pytest.mark.parametrize(("opset", "mode", "factor"), list(product(range(7, 19), ("nearest", "linear"), (2.0, 1.5))))
def test_an_enlargement_of_any_opset_keeps_its_coordinates(tmp_path: Path, opset: int, mode: str, factor: float) -> None:
    model = _resized(opset, mode, factor)
    bundle = _import(model, tmp_path)
    assert bundle.manifest.scale == factor
    wanted = _run(model.SerializeToString(), _picture())
    np.testing.assert_allclose(_given(bundle), wanted, rtol=0, atol=_ROUNDING * np.abs(wanted).max())


@pytest.mark.parametrize(("mode", "factor"), list(product(("nearest", "linear"), (0.5, 0.4))))
def test_opset_10_makes_smaller_as_its_runtime_does(tmp_path: Path, mode: str, factor: float) -> None:
    graph = Graph(3, channels=3)
    smaller = graph.add("Resize", "input", graph.constant(np.array([1, 1, factor, factor])), mode=mode)
    larger = graph.add("Resize", graph.conv(smaller, 3, 3), graph.constant(np.array([1, 1, 2 / factor, 2 / factor])), mode=mode)
    model, picture = graph.proto(larger, opset=10), np.random.default_rng(1).random((1, 3, 20, 30), np.float32)
    bundle = _import(model, tmp_path)
    wanted = _run(model.SerializeToString(), picture)
    np.testing.assert_allclose(_given(bundle, picture), wanted, rtol=0, atol=_ROUNDING * np.abs(wanted).max())


def _constant_nodes() -> onnx.ModelProto:
    """A weight and a number in Constant nodes, as torch's legacy exporter and others write them."""
    graph = Graph(0, channels=3)
    weight = graph.add("Constant", value=numpy_helper.from_array(graph.random(8, 3, 3, 3)), channels=8)
    value = graph.add("Conv", "input", weight, pads=[1] * 4, channels=8)
    return _enlarging(graph, graph.add("Mul", graph.add("Relu", value), graph.add("Constant", value_float=0.5, channels=8)))


def _computed_weight() -> onnx.ModelProto:
    graph = Graph(0, channels=3)
    turned = graph.add("Transpose", graph.constant(graph.random(3, 8, 3, 3)), perm=[1, 0, 2, 3], channels=8)
    return _enlarging(graph, graph.add("Conv", "input", turned, pads=[1] * 4, channels=8))


def _cast_weight() -> onnx.ModelProto:
    graph = Graph(0, channels=3)
    wide = graph.add("Cast", graph.constant(graph.random(8, 3, 3, 3).astype(np.float16)), to=FLOAT, channels=8)
    return _enlarging(graph, graph.add("Conv", "input", wide, pads=[1] * 4, channels=8))


def _integer_weight() -> onnx.ModelProto:
    graph = Graph(0, channels=3)
    codes = graph.constant(graph.rng.integers(-127, 128, (8, 3, 3, 3)).astype(np.int8))
    scales, zeros = graph.constant(np.full(8, 0.01)), graph.constant(np.zeros(8, np.int8))
    weight = graph.add("DequantizeLinear", codes, scales, zeros, axis=0, channels=8)
    return _enlarging(graph, graph.add("Conv", "input", weight, pads=[1] * 4, channels=8))


def _functions(opset: int = 18) -> onnx.ModelProto:
    """A function of the file's own that calls another."""
    inner = helper.make_function(
        "theirs", "Inner", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", opset)]
    )
    calls = [helper.make_node("Inner", ["a"], ["t"], domain="theirs"), helper.make_node("Neg", ["t"], ["b"])]
    both = [helper.make_opsetid("", opset), helper.make_opsetid("theirs", 1)]
    outer = helper.make_function("theirs", "Outer", ["a"], ["b"], calls, both)
    graph = Graph(0, channels=3)
    model = _enlarging(graph, graph.add("Relu", graph.conv("input", 8, 3)))
    call = next(node for node in model.graph.node if node.op_type == "Relu")
    call.op_type, call.domain = "Outer", "theirs"
    model.functions.extend([inner, outer])
    model.opset_import.append(helper.make_opsetid("theirs", 1))
    return model


def _branch(value: str, operator: str) -> onnx.GraphProto:
    result = helper.make_tensor_value_info(f"{operator}_in_branch", FLOAT, None)
    return helper.make_graph([helper.make_node(operator, [value], [result.name])], operator, [], [result])


def _decided_branch() -> onnx.ModelProto:
    """As torch writes a squeeze: a branch by how many channels there are."""
    graph = Graph(0, channels=3)
    value = graph.conv("input", 8, 3)
    channels = graph.add("Gather", graph.add("Shape", value), graph.constant(np.array(1)))
    condition = graph.add("Equal", channels, graph.constant(np.array(1)))
    chosen = graph.add("If", condition, then_branch=_branch(value, "Abs"), else_branch=_branch(value, "Relu"), channels=8)
    return _enlarging(graph, chosen)


def _handed_on() -> onnx.ModelProto:
    graph = Graph(0, channels=3)
    value = graph.add("Identity", graph.add("Dropout", graph.conv("input", 8, 3)))
    return _enlarging(graph, graph.add("Cast", value, to=FLOAT))


def _listed_weights() -> onnx.ModelProto:
    """As ir_version 3 wants it: every weight is an input too."""
    model = _enlarging(graph := Graph(0, channels=3), graph.conv("input", 8, 3))
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, [*tensor.dims]))
    return model


def _standard_named() -> onnx.ModelProto:
    """The standard's operators, said to be of ai.onnx, in a function alone."""
    model = _functions()
    for entry in model.opset_import:
        entry.domain = "ai.onnx" if entry.domain == "" else entry.domain
    for node in model.graph.node:
        node.domain = node.domain or "ai.onnx"
    return model


def _unsaid_shapes() -> onnx.ModelProto:
    model = _enlarging(graph := Graph(0, channels=3), graph.conv("input", 8, 3))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    return model


def _newer() -> onnx.ModelProto:
    graph = Graph(0, channels=3)
    pooled = graph.add("AveragePool", graph.conv("input", 8, 3), kernel_shape=[3, 3], pads=[1] * 4, dilations=[1, 1])
    return _enlarging(graph, graph.add("Gelu", pooled), opset=22)


def _unshuffled() -> onnx.ModelProto:
    """pixel_unshuffle as torch's legacy exporter writes it for any size."""
    graph = Graph(0, channels=3)
    numbers = [
        graph.constant(np.array(values)) for values in ([3], [0, 0, -1, 2, 0], [0, 0, 0, 0, -1, 2], [0, -1, 1, 1, 0, 0], [2, 3])
    ]
    value = graph.add("Reshape", graph.add("Unsqueeze", "input", numbers[0]), numbers[1])
    value = graph.add("Transpose", graph.add("Reshape", value, numbers[2]), perm=[0, 1, 3, 5, 2, 4])
    value = graph.add("Squeeze", graph.add("Reshape", value, numbers[3]), numbers[4], channels=12)
    return _enlarging(graph, graph.shuffle(graph.conv(value, 32, 3)))


FORMS: tuple[Build, ...] = (
    *(_constant_nodes, _computed_weight, _cast_weight, _integer_weight, _functions, _decided_branch, _handed_on, _listed_weights),
    *(_unsaid_shapes, _newer, lambda: _functions(15), _unshuffled, _standard_named),
)
_GONE = {"Constant", "Cast", "DequantizeLinear", "Outer", "Inner", "If", "Identity", "Dropout", "Gelu", "Shape", "Reshape"}


@pytest.mark.parametrize("build", FORMS, ids=lambda build: build.__name__.strip("_<>"))
def test_a_file_comes_to_normal_form_and_gives_what_it_gave(tmp_path: Path, build: Build) -> None:
    model = build()
    bundle = _import(model, tmp_path)
    assert not _GONE.intersection(_operators(bundle))
    assert bundle.manifest.contract.static_shape is None
    wanted = _run(model.SerializeToString(), _picture())
    np.testing.assert_allclose(_given(bundle), wanted, rtol=0, atol=_ROUNDING * np.abs(wanted).max())


def _of_floats(kind: int, *, ends: int) -> onnx.ModelProto:
    """Convolutions in another float, whose ends are of that or are cast to it inside."""
    graph = Graph(0, channels=3)
    value = graph.add("Cast", "input", to=kind) if ends != kind else "input"
    weight = graph.constant(graph.random(12, 3, 3, 3) / 9)
    shuffled = graph.shuffle(graph.add("Conv", value, weight, pads=[1] * 4, channels=12))
    model = graph.proto(graph.add("Cast", shuffled, to=ends) if ends != kind else shuffled)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == weight)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), weight))
    for end in (*model.graph.input, *model.graph.output):
        end.type.tensor_type.elem_type = ends
    del model.graph.value_info[:]
    return model


@pytest.mark.parametrize(("kind", "ends"), [(HALF, HALF), (HALF, FLOAT), (TensorProto.DOUBLE, TensorProto.DOUBLE)])
def test_other_floats_are_float32_here_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: int, ends: int
) -> None:
    """Held against the file in its own precision, a float16 one by how far float16 rounds."""
    model = _of_floats(kind, ends=ends)
    bundle = _import(model, tmp_path)
    name = helper.tensor_dtype_to_np_dtype(kind).name
    assert f"{name} in the file, float32 here" in capsys.readouterr().out
    assert {tensor.data_type for tensor in onnx.load_model(bundle.path(bundle.variant("fp32"))).graph.initializer} == {FLOAT}
    parity = bundle.variant("fp32").parity
    assert parity is not None
    assert parity.tolerance == 1e-4 if kind != HALF else 1e-4 < parity.tolerance < 1e-2
    (theirs,) = ReferenceEvaluator(model).run(None, {"input": _picture().astype(helper.tensor_dtype_to_np_dtype(ends))})
    assert np.abs(_given(bundle) - np.asarray(theirs, np.float32)).max() < parity.tolerance


def test_a_float16_file_that_overflows_is_held_to_its_float32_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = Graph(0, channels=3)
    large, four = (graph.constant(np.array(number, np.float16)) for number in (60000, 4))
    value = graph.add("Mul", graph.add("Mul", graph.add("Cast", "input", to=HALF), large), four)
    value = graph.add("Div", graph.add("Div", value, four), large)
    model = _enlarging(graph, graph.add("Cast", value, to=FLOAT))
    bundle = _import(model, tmp_path)
    assert "overflows float16, so it is held to its float32 form alone" in capsys.readouterr().out
    assert np.isfinite(_given(bundle)).all()


def _channels_last(*, given_last: bool, sides: tuple[int | str, int | str]) -> onnx.ModelProto:
    """As TensorFlow's converter writes it: the picture is (N, H, W, C) and scaled so, Transposes stand around the network."""
    graph = Graph(0, channels=3)
    scaled = graph.add("Mul", graph.add("Sub", "input", graph.constant(graph.random(3))), graph.constant(np.array(2.0)))
    first = graph.add("Transpose", scaled, perm=[0, 3, 1, 2], channels=3)
    value = graph.shuffle(graph.conv(first, 12, 1), mode="DCR")
    if given_last:
        value = graph.add("Clip", graph.add("Transpose", value, perm=[0, 2, 3, 1]), "", graph.constant(np.array(1.0)))
    picture = helper.make_tensor_value_info("input", FLOAT, ["n", *sides, 3])
    result = helper.make_tensor_value_info(value, FLOAT, None)
    network = helper.make_graph(graph.nodes, "theirs", [picture], [result], graph.initializers())
    model = helper.make_model(network, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


@pytest.mark.parametrize("sides", [("h", "w"), (24, 40)], ids=str)
@pytest.mark.parametrize("given_last", [True, False])
def test_channels_that_stand_last_are_found_and_turned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given_last: bool, sides: tuple[int | str, int | str]
) -> None:
    model = _channels_last(given_last=given_last, sides=sides)
    bundle = _import(model, tmp_path)
    assert "channels last (NHWC); turned to NCHW" in capsys.readouterr().out
    assert "Transpose" not in _operators(bundle)
    picture = np.random.default_rng(2).random((1, 3, 24, 40), np.float32)
    theirs = _run(model.SerializeToString(), np.ascontiguousarray(picture.transpose(0, 2, 3, 1)))
    wanted = theirs.transpose(0, 3, 1, 2) if given_last else theirs
    np.testing.assert_allclose(_given(bundle, picture), wanted, rtol=0, atol=_ROUNDING * np.abs(wanted).max())


def _with(operator: str, **attributes: object) -> Build:
    """A network that has this operator between its convolutions."""

    def build() -> onnx.ModelProto:
        graph = Graph(0, channels=3)
        model = _enlarging(graph, graph.add("Relu", graph.conv("input", 8, 3)))
        node = next(node for node in model.graph.node if node.op_type == "Relu")
        node.op_type, node.name = operator, "theirs"
        domain = attributes.pop("domain", "")
        node.domain = str(domain)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        if domain:
            model.opset_import.append(helper.make_opsetid(node.domain, 1))
        return model

    return build


def _looping() -> onnx.ModelProto:
    graph = Graph(0, channels=3)
    value = graph.conv("input", 8, 3)
    condition = helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])
    body = helper.make_graph(
        [helper.make_node("Relu", ["state"], ["next"]), helper.make_node("Identity", ["go_on"], ["still"])],
        "body",
        [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            condition,
            helper.make_tensor_value_info("state", FLOAT, None),
        ],
        [helper.make_tensor_value_info("still", TensorProto.BOOL, []), helper.make_tensor_value_info("next", FLOAT, None)],
    )
    count, start = graph.constant(np.array(3)), graph.constant(np.array(True))
    return _enlarging(graph, graph.add("Loop", count, start, value, body=body, channels=8))


def _scanning() -> onnx.ModelProto:
    graph = Graph(0, channels=3)
    row, result = (helper.make_tensor_value_info(name, FLOAT, None) for name in ("row", "result"))
    body = helper.make_graph([helper.make_node("Relu", ["row"], ["result"])], "body", [row], [result])
    value = graph.conv("input", 8, 3)
    return _enlarging(graph, graph.add("Scan", value, body=body, num_scan_inputs=1, scan_input_axes=[2], scan_output_axes=[2]))


def _undecided_branch() -> onnx.ModelProto:
    graph = Graph(0, channels=3)
    value = graph.conv("input", 8, 3)
    condition = graph.add("Greater", graph.add("ReduceMean", value, keepdims=0), graph.constant(np.array(0.0)))
    return _enlarging(
        graph, graph.add("If", condition, then_branch=_branch(value, "Abs"), else_branch=_branch(value, "Relu"), channels=8)
    )


def _sequenced() -> onnx.ModelProto:
    graph = Graph(0, channels=3)
    parts = graph.add("SplitToSequence", graph.conv("input", 8, 3), axis=1)
    return _enlarging(graph, graph.add("ConcatFromSequence", parts, axis=1, channels=8))


def _quantized() -> onnx.ModelProto:
    graph = Graph(0, channels=3)
    ends = (graph.constant(np.array(0.01)), graph.constant(np.array(0, np.uint8)))
    codes = graph.add("QuantizeLinear", graph.add("Relu", graph.conv("input", 8, 3)), *ends)
    return _enlarging(graph, graph.add("DequantizeLinear", codes, *ends))


def _quantized_as_it_runs() -> onnx.ModelProto:
    graph = Graph(0, channels=3)
    model = _enlarging(graph, graph.conv("input", 8, 3))
    model.graph.node.insert(0, helper.make_node("DynamicQuantizeLinear", ["input"], ["codes", "scale", "zero"], name="theirs"))
    model.graph.node.insert(1, helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["again"]))
    model.graph.node[2].input[0] = "again"
    return model


def _noise_level() -> onnx.ModelProto:
    model = _enlarging(graph := Graph(0, channels=3), graph.conv("input", 8, 3))
    model.graph.input.append(helper.make_tensor_value_info("sigma", FLOAT, [1]))
    return model


def _two_outputs() -> onnx.ModelProto:
    model = _enlarging(graph := Graph(0, channels=3), graph.conv("input", 8, 3))
    model.graph.output.append(helper.make_tensor_value_info("conv0", FLOAT, [None] * 4))
    return model


def _raw_pixels() -> onnx.ModelProto:
    graph = Graph(0, channels=3)
    model = _enlarging(graph, graph.conv(graph.add("Cast", "input", to=FLOAT), 8, 3))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    return model


def _luma_of_colours() -> onnx.ModelProto:
    graph = Graph(0, channels=3)
    return graph.proto(graph.shuffle(graph.conv("input", 4, 3)))


REFUSED: tuple[tuple[Build, str], ...] = (
    (_looping, "Loop loop"),
    (_scanning, "Scan scan"),
    (_undecided_branch, "If if"),
    (_sequenced, "SplitToSequence splittosequence"),
    (_quantized, "QuantizeLinear quantizelinear"),
    (_quantized_as_it_runs, "DynamicQuantizeLinear theirs"),
    (_with("RandomNormalLike"), "RandomNormalLike theirs gives something else at every run"),
    (_with("Gelu", domain="com.microsoft"), "Gelu theirs is an operator of com.microsoft"),
    (_with("DCNv2", domain="mmdeploy", stride=1), "DCNv2 theirs is an operator of mmdeploy"),
    (_noise_level, "2 inputs and 1 outputs (input, sigma;"),
    (_two_outputs, "1 inputs and 2 outputs (input; depthtospace"),
    (_raw_pixels, "input is UINT8"),
    (_luma_of_colours, "takes 3 channels and gives 1"),
)


@pytest.mark.parametrize(("build", "expected"), REFUSED, ids=lambda part: part.split(" (")[0] if isinstance(part, str) else "")
def test_what_the_form_cannot_hold_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], build: Build, expected: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        _import(build(), tmp_path)
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert expected in error
    assert len(error.splitlines()) <= 2, error
    assert not (tmp_path / "bundle").exists()
