"""A graph of unknown origin: what could make a backend read, run or allocate something else is refused from its bytes alone."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper

from runtime.bundle import Bundle, check_graph_bytes
from runtime.errors import BundleError
from tests.graphs import Graph

Change = Callable[[ModelProto], object]


def _model() -> ModelProto:
    graph = Graph(0)
    return graph.proto(graph.add("Relu", graph.conv("input", 4, 3)))


def _refusal(data: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        check_graph_bytes(data, what="it")
    return str(caught.value)


def _changed(change: Change) -> bytes:
    model = _model()
    change(model)
    data: bytes = model.SerializeToString()
    return data


def _external(tensor: TensorProto | None = None) -> TensorProto:
    tensor = TensorProto() if tensor is None else tensor
    tensor.MergeFrom(TensorProto(name="leak", data_type=TensorProto.UINT8, dims=[4], data_location=TensorProto.EXTERNAL))
    tensor.external_data.add(key="location", value="etc/passwd")
    return tensor


def _leaking_graph(depth: int = 0) -> GraphProto:
    """A graph with external data so many graphs below it."""
    if depth == 0:
        return GraphProto(name="inner", initializer=[_external()])
    return GraphProto(
        name="outer", node=[NodeProto(op_type="Loop", attribute=[helper.make_attribute("body", _leaking_graph(depth - 1))])]
    )


def _attribute(model: ModelProto, **value: object) -> None:
    model.graph.node[0].attribute.add(name="value").MergeFrom(AttributeProto(**value))  # type: ignore[arg-type] # any field


def _sparse() -> SparseTensorProto:
    return SparseTensorProto(values=_external(), dims=[4])


EXTERNAL: dict[str, Change] = {
    "an initializer": lambda model: _external(model.graph.initializer.add()),
    "an initializer's location alone": lambda model: setattr(model.graph.initializer[0], "data_location", TensorProto.EXTERNAL),
    "an initializer's entry alone": lambda model: model.graph.initializer[0].external_data.add(key="location", value="x"),
    "a sparse initializer": lambda model: model.graph.sparse_initializer.add().MergeFrom(_sparse()),
    "an attribute": lambda model: _attribute(model, t=_external()),
    "an attribute's list": lambda model: _attribute(model, tensors=[_external()]),
    "a sparse attribute": lambda model: _attribute(model, sparse_tensor=_sparse()),
    "a list of sparse attributes": lambda model: _attribute(model, sparse_tensors=[_sparse()]),
    "a graph of an operator": lambda model: _attribute(model, g=_leaking_graph()),
    "a list of graphs": lambda model: _attribute(model, graphs=[_leaking_graph()]),
    "a graph five graphs below": lambda model: _attribute(model, g=_leaking_graph(5)),
    "a function": lambda model: model.functions.add(name="f").node.add().attribute.add(name="v", t=_external()),
    "training information": lambda model: model.training_info.add().algorithm.MergeFrom(_leaking_graph()),
}


def _messages(message: Message) -> Iterator[Message]:
    """`message` and every message in it, at any depth, by protobuf's own reflection."""
    yield message
    for _, value in message.ListFields():
        several = hasattr(value, "__getitem__") and not isinstance(value, str | bytes)
        for inner in value if several else [value]:
            if isinstance(inner, Message):
                yield from _messages(inner)


def _has_external(model: ModelProto) -> bool:
    tensors = [message for message in _messages(model) if isinstance(message, TensorProto)]
    return any(tensor.data_location == TensorProto.EXTERNAL or tensor.external_data for tensor in tensors)


@pytest.mark.parametrize("place", EXTERNAL)
def test_external_data_is_refused_wherever_it_is(place: str) -> None:
    data = _changed(EXTERNAL[place])
    assert _has_external(onnx.load_model_from_string(data))
    assert "it has" in _refusal(data)


@pytest.mark.parametrize("place", EXTERNAL)
def test_no_change_of_bytes_hides_external_data_from_the_check_that_onnx_still_reads(place: str) -> None:
    rng = random.Random(place)
    data = _changed(EXTERNAL[place])
    read = 0
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(changed))
            kind = rng.randrange(4)
            if kind == 0:
                changed[at] = rng.randrange(256)
            elif kind == 1:
                changed[at] ^= 1 << rng.randrange(8)
            elif kind == 2:
                del changed[at]
            else:
                changed[at:at] = changed[at : at + rng.randint(1, 20)]
        try:
            leaks = _has_external(onnx.load_model_from_string(bytes(changed)))
        except (DecodeError, ValueError):
            continue
        read += leaks
        if leaks:
            _refusal(bytes(changed))
    assert read > 20, "hardly any of them could be read: this tests nothing"


@given(seed=st.integers(0, 1 << 30), layers=st.lists(st.sampled_from(["conv", "Relu", "shuffle", "Sigmoid", "Add"]), max_size=6))
def test_a_valid_graph_is_accepted(seed: int, layers: list[str]) -> None:
    graph = Graph(seed)
    last = "input"
    for layer in layers:
        if layer == "conv":
            last = graph.conv(last, 4, 3)
        elif layer == "shuffle":
            last = graph.shuffle(graph.conv(last, 16, 1))
        else:
            last = graph.add(layer, *[last] * (2 if layer == "Add" else 1))
    check_graph_bytes(graph.proto(last if layers else graph.conv(last, 4, 1)).SerializeToString(), what="it")


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int8, np.uint8, np.int32, np.int64, np.float64, np.bool_, np.uint16])
@pytest.mark.parametrize("raw", [True, False])
def test_a_tensor_of_any_type_is_accepted_as_onnx_writes_it(kind: type[np.generic], raw: bool) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(kind)
    tensor_type = helper.np_dtype_to_tensor_dtype(array.dtype)
    values = array.tobytes() if raw else array.ravel().tolist()
    tensor = helper.make_tensor("constant", tensor_type, array.shape, values, raw=raw)
    check_graph_bytes(_changed(lambda model: model.graph.initializer.append(tensor)), what="it")


@pytest.mark.parametrize("fixture", ["quantized", "for_tensorrt", "enlarged_before"])
def test_every_graph_of_a_bundle_is_accepted_in_a_moment(fixture: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(fixture)
    for variant in bundle.manifest.variants:
        data = bundle.path(variant).read_bytes()
        began = time.process_time()
        check_graph_bytes(data, what=variant.file)
        assert time.process_time() - began < 0.5


def _add_node(model: ModelProto, op_type: str, **fields: str) -> None:
    model.graph.node.add(op_type=op_type, input=["input"], output=["other"], **fields)


def _dims(*dims: int) -> Change:
    return lambda model: model.graph.initializer.add(name="large", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"")


REFUSED: dict[str, tuple[Change, str]] = {
    "compiled code": (lambda model: _add_node(model, "EPContext", domain="com.microsoft"), "com.microsoft"),
    "an operator of somebody's own": (lambda model: _add_node(model, "Anything", domain="org.example"), "org.example"),
    "operators somebody's own, declared": (lambda model: model.opset_import.add(domain="org.example", version=1), "org.example"),
    "a function of its own": (lambda model: model.functions.add(name="f"), "functions"),
    "operators in a circle": (
        lambda model: model.graph.node[0].input.__setitem__(0, model.graph.node[1].output[0]),
        "no operator before",
    ),
    "two values of one name": (lambda model: model.graph.node.append(model.graph.node[0]), "two values of one name"),
    "a padding of a million": (
        lambda model: model.graph.node[0].attribute.append(helper.make_attribute("pads", [1 << 20])),
        "pads",
    ),
    "a padding by nothing": (lambda model: model.graph.node.append(helper.make_node("Pad", ["input"], ["other"])), "by how much"),
    "random numbers without end": (
        lambda model: model.graph.node.append(helper.make_node("RandomNormal", [], ["big"], shape=[1 << 20, 1 << 20])),
        "more than",
    ),
    "a loop": (lambda model: _attribute(model, g=GraphProto(name="body")), "a graph inside"),
    "dimensions of 2^62": (_dims(1 << 62), "side"),
    "negative dimensions": (_dims(-1), "side of -1"),
    "more elements than values": (_dims(1 << 20, 1 << 10), "without values|with values"),
    "text": (
        lambda model: model.graph.initializer.add(name="t", data_type=TensorProto.STRING, string_data=[b"a"], dims=[1]),
        "text",
    ),
    "an input of 65536 squared": (
        lambda model: model.graph.input[0].type.tensor_type.shape.dim.extend([TensorShape(dim_value=1 << 31)] * 4),
        "elements",
    ),
    "no graph": (lambda model: model.ClearField("graph"), "no graph"),
    "no operators": (lambda model: model.graph.ClearField("node"), "0 operators"),
    "no operator set": (lambda model: model.ClearField("opset_import"), "no operator set"),
}
TensorShape = onnx.TensorShapeProto.Dimension
SIZES: dict[str, tuple[list[str], object]] = {
    "ConstantOfShape": (["size"], [1 << 40]),
    "Expand": (["input", "size"], [1, 1, 1 << 20, 1 << 20]),
    "Tile": (["input", "size"], [1, 1, 1 << 20, 1 << 20]),
    "Pad": (["input", "size"], [0, 0, 1 << 20, 0, 0, 0, 0, 0]),
    "Resize": (["input", "", "", "size"], [1, 3, 1 << 20, 1 << 20]),
    "Upsample": (["input", "size"], np.array([1, 1, 1e4, 1e4], np.float32)),
    "OneHot": (["input", "size", "input"], 1 << 40),
    "Range": (["size", "size", "size"], 1 << 40),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_graph_here_has_is_refused_by_name(what: str) -> None:
    change, expected = REFUSED[what]
    message = _refusal(_changed(change))
    assert any(one in message for one in expected.split("|")), message


@pytest.mark.parametrize("operator", SIZES)
@pytest.mark.parametrize("form", ["raw", "listed", "by an operator"])
def test_a_result_beyond_all_memory_is_refused(operator: str, form: str) -> None:
    inputs, size = SIZES[operator]
    array = np.asarray(size)
    listed = helper.make_tensor("size", helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.ravel().tolist())
    tensor = listed if form == "listed" else onnx.numpy_helper.from_array(array, "size")

    def add(model: ModelProto) -> None:
        if form == "by an operator":
            model.graph.node.append(helper.make_node("Constant", [], ["size"], value=tensor))
        else:
            model.graph.initializer.append(tensor)
        model.graph.node.append(helper.make_node(operator, inputs, ["large"]))

    assert operator in _refusal(_changed(add))


def test_half_a_million_operators_are_refused_in_seconds() -> None:
    node = NodeProto(op_type="Relu", input=["a"], output=["a"]).SerializeToString()
    graph = b"\x0a" + bytes([len(node)]) + node
    data = _model().SerializeToString() + b"\x3a" + _varint(len(graph) * 500_000) + graph * 500_000
    began = time.process_time()
    _refusal(data)
    model = ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 18)]).SerializeToString()
    assert "operators" in _refusal(model + data[len(_model().SerializeToString()) :])
    assert time.process_time() - began < 20


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


MALFORMED = {
    "nothing": b"",
    "text": b"dear diary",
    "zeros": bytes(1000),
    "a number without end": b"\x08" + b"\xff" * 1000,
    "a length beyond the end": b"\x3a" + _varint(1 << 40),
    "a length of 2^63": b"\x3a" + _varint((1 << 64) - 1),
    "groups": b"\x3b" * 100_000,
    "a name that is no text": _model().SerializeToString().replace(b"constant0", b"constant\xff"),
    "messages in messages": b"\x3a\x04" * 100_000,
}


@pytest.mark.parametrize("what", MALFORMED)
def test_bytes_that_are_no_model_are_refused_at_once(what: str) -> None:
    began = time.process_time()
    _refusal(MALFORMED[what])
    assert time.process_time() - began < 0.5


def test_types_nested_without_end_are_refused_at_once() -> None:
    inner = b""
    for _ in range(2000):  # sequence(sequence(…))
        inner = b"\x22" + _varint(len(inner) + 1 + len(_varint(len(inner)))) + b"\x0a" + _varint(len(inner)) + inner
    value = b"\x12" + _varint(len(inner)) + inner
    graph = b"\x5a" + _varint(len(value)) + value
    assert "a sequence" in _refusal(b"\x3a" + _varint(len(graph)) + graph + b"\x42\x02\x10\x12")


def test_every_prefix_of_a_graph_is_refused() -> None:
    data = _model().SerializeToString()
    for length in range(len(data)):
        try:
            check_graph_bytes(data[:length], what="it")
        except BundleError:
            continue
        onnx.load_model_from_string(data[:length])  # cut between two fields, it is a model still


def test_formats_of_other_frameworks_are_refused(tmp_path: Path) -> None:
    graph = _model().SerializeToString()
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    ov.save_model(ov.Core().read_model(graph), tmp_path / "model.xml")
    for name in ("model.ort", "model.xml"):
        assert "no ONNX model" in _refusal((tmp_path / name).read_bytes())
