"""Half precision: valid for every operator, near fp32 on hardware that rounds every tensor, and never beyond its range."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.foreign import read_foreign
from export.stage import export_foreign
from quantize.cli import main as quantize
from quantize.half.cast import Half, HalfGraph, make_half
from quantize.half.float16_range import measure_magnitudes
from quantize.half.rescale import rescale
from runtime.backends.onnxruntime import run_as_written
from runtime.bundle import Bundle
from runtime.errors import PipelineError
from runtime.pictures.pixels import to_floats
from runtime.verify.value_check import check_picture, psnr_db
from tests.graphs import Array, Graph
from tests.half_hardware import run_as_half_hardware

PICTURE = to_floats(check_picture((16, 24)))
FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
Body = Callable[[Graph, str], str]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def between(body: Body) -> onnx.ModelProto:
    """A convolution, `body`, which is given 8 channels, and a convolution back to three."""
    graph = Graph(0, channels=3)
    made = body(graph, graph.conv("input", 8, 3))
    return graph.proto(graph.conv(made, 3, 3))


def floats_of_sizes(graph: Graph, x: str) -> str:
    """Sizes computed in floats, as interpolate writes them: half of 4098 would be 2048."""
    sizes = graph.add("Cast", graph.add("Shape", x), to=FLOAT)
    wanted = graph.add(
        "Cast", graph.add("Floor", graph.add("Mul", sizes, graph.constant(np.array([1, 1, 2, 2.0])))), to=onnx.TensorProto.INT64
    )
    return graph.add("Resize", x, "", "", wanted, channels=8, mode="nearest")


def split(graph: Graph, x: str) -> str:
    one, other = graph.add_many("Split", x, graph.constant(ints(3, 5)), channels=(3, 5), axis=1)
    return graph.add("Concat", other, one, channels=8, axis=1)


def mask(graph: Graph, x: str) -> str:
    positive = graph.add("Greater", x, graph.constant(0.1))
    kept = graph.add("Where", positive, x, graph.constant(-0.5), channels=8)
    return graph.add("Mul", kept, graph.add("Cast", positive, to=FLOAT, channels=8))


def written_out(graph: Graph, x: str) -> str:
    """Attention over channels, written out: mean, standard deviation with an epsilon that float16 does not have, softmax."""
    axes = graph.constant(ints(2, 3))
    mean = graph.add("ReduceMean", x, axes, keepdims=1)
    centred = graph.add("Sub", x, mean)
    variance = graph.add("ReduceMean", graph.add("Pow", centred, graph.constant(2.0)), axes, keepdims=1)
    deviation = graph.add("Sqrt", graph.add("Add", variance, graph.constant(1e-9)))
    return graph.add("Mul", graph.add("Div", centred, deviation), graph.add("Softmax", mean, axis=1))


def constant_nodes(graph: Graph, x: str) -> str:
    scales = graph.add("Constant", value=onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32)))
    bound = graph.add("Constant", value_float=0.25)
    return graph.add("Clip", graph.add("Resize", x, "", scales, channels=8, mode="linear"), "", bound)


def filled(graph: Graph, x: str) -> str:
    shape = graph.add("Shape", x)
    ones = graph.add("ConstantOfShape", shape, value=onnx.numpy_helper.from_array(np.ones(1, np.float32)), channels=8)
    width = graph.add("Squeeze", graph.add("Slice", shape, graph.constant(ints(3)), graph.constant(ints(4))))
    ramp = graph.add("Range", graph.constant(0.0), graph.add("Cast", width, to=FLOAT), graph.constant(1.0))
    return graph.add("Add", graph.add("Add", x, ones), graph.add("Mul", ramp, graph.constant(0.01)), channels=8)


def shared(graph: Graph, x: str) -> str:
    """One constant for an operator that stays in float32 and for one that does not."""
    number = graph.constant(0.3)
    return graph.add("Mul", graph.add("Pow", graph.add("Abs", x), number), number)


def doubles(graph: Graph, x: str) -> str:
    wide = graph.add(
        "Mul",
        graph.add("Cast", x, to=onnx.TensorProto.DOUBLE),
        graph.add("Constant", value=onnx.numpy_helper.from_array(np.array(0.5))),
    )
    return graph.add("Cast", wide, to=FLOAT)


def simple(operator: str, **attributes: Any) -> Body:  # noqa: ANN401 # as onnx has it
    return lambda graph, x: graph.add(operator, x, **attributes)


OPERATORS: dict[str, Body] = {
    **{
        name: simple(name)
        for name in ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "Softplus", "HardSwish", "Erf", "Abs")
    },
    **{
        name: simple(name) for name in ("Exp", "Neg", "Identity", "Floor", "Mish", "HardSigmoid", "Softsign", "Sin", "Ceil", "Sign")
    },
    **{f"{name}Pool": simple(f"{name}Pool", kernel_shape=[3, 3], pads=[1] * 4) for name in ("Max", "Average")},
    "LRN": simple("LRN", size=3),
    "Softmax": simple("Softmax", axis=1),
    "Transpose": lambda graph, x: graph.add("Transpose", graph.add("Transpose", x, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2]),
    "shuffles": lambda graph, x: graph.add("SpaceToDepth", graph.shuffle(x), channels=8, blocksize=2),
    "PRelu": lambda graph, x: graph.add("PRelu", x, graph.constant(graph.random(8, 1, 1))),
    "Clip": lambda graph, x: graph.add("Clip", x, graph.constant(-0.5), graph.constant(float(np.finfo(np.float32).max))),
    "Pad": lambda graph, x: graph.add("Pad", x, graph.constant(ints(0, 0, 1, 1, 0, 0, 1, 1)), graph.constant(0.3)),
    "Pad reflect": lambda graph, x: graph.add("Pad", x, graph.constant(ints(0, 0, 1, 1, 0, 0, 1, 1)), mode="reflect"),
    "Resize": lambda graph, x: graph.add("Resize", x, "", graph.constant(np.array([1, 1, 1.5, 1.5])), mode="cubic"),
    "GlobalAveragePool": lambda graph, x: graph.add("Mul", x, graph.add("Sigmoid", graph.add("GlobalAveragePool", x))),
    "InstanceNormalization": lambda graph, x: graph.add(
        "InstanceNormalization", x, graph.constant(graph.random(8)), graph.constant(graph.random(8))
    ),
    "BatchNormalization": lambda graph, x: graph.add(
        "BatchNormalization", x, *(graph.constant(np.abs(graph.random(8))) for _ in range(4))
    ),
    "LayerNormalization": lambda graph, x: graph.add(
        "Transpose",
        graph.add("LayerNormalization", graph.add("Transpose", x, perm=[0, 2, 3, 1]), graph.constant(graph.random(8))),
        perm=[0, 3, 1, 2],
    ),
    "ConvTranspose": lambda graph, x: graph.add(
        "ConvTranspose", x, graph.constant(graph.random(8, 8, 4, 4)), strides=[2, 2], pads=[1] * 4
    ),
    "MatMul": lambda graph, x: graph.add(
        "Transpose",
        graph.add("MatMul", graph.add("Transpose", x, perm=[0, 2, 3, 1]), graph.constant(graph.random(8, 8))),
        perm=[0, 3, 1, 2],
    ),
    "attention": lambda graph, x: graph.add("MatMul", graph.add("MatMul", x, graph.add("Transpose", x, perm=[0, 1, 3, 2])), x),
    "Einsum": lambda graph, x: graph.add("Einsum", x, graph.constant(graph.random(8, 8)), equation="nchw,cd->ndhw"),
    "TopK": lambda graph, x: graph.add("Add", x, graph.add_many("TopK", x, graph.constant(ints(1)), channels=(8, 8), axis=1)[0]),
    "EyeLike": lambda graph, x: graph.add(
        "Transpose",
        graph.add(
            "MatMul",
            graph.add("Transpose", x, perm=[0, 2, 3, 1]),
            graph.add("EyeLike", graph.constant(np.zeros((8, 8))), dtype=FLOAT),
        ),
        perm=[0, 3, 1, 2],
    ),
    "Max of three": lambda graph, x: graph.add("Max", x, graph.constant(0.1), graph.add("Neg", x)),
    "shared constant": shared,
    "Split": split,
    "mask": mask,
    "written out": written_out,
    "sizes in floats": floats_of_sizes,
    "Constant nodes": constant_nodes,
    "filled": filled,
    "doubles": doubles,
}


def hardware_db(model: onnx.ModelProto, half: HalfGraph, picture: Array = PICTURE) -> float:
    exact = run_as_written(model.SerializeToString(), picture)
    return psnr_db(run_as_half_hardware(half.model, picture).astype(float), exact.astype(float))


@pytest.mark.parametrize("body", OPERATORS.values(), ids=OPERATORS)
def test_every_operator_computes_near_fp32_in_half_precision(body: Body) -> None:
    model = between(body)
    half = make_half(model, "fp16")
    assert hardware_db(model, half) > 50  # as Floor gives, which may fall on the other side of a whole number; others 70 and more
    make_half(model, "bf16")  # which onnx's checker finds valid


def times(graph: Graph, x: str, factor: float, outputs: int = 8) -> str:
    """A convolution whose weights, and what it adds, are `factor` times what they would be."""
    weight = graph.random(outputs, graph.channels[x], 3, 3) * np.float32(factor)
    return graph.add(
        "Conv",
        x,
        graph.constant(weight),
        graph.constant(graph.random(outputs) * np.float32(factor)),
        channels=outputs,
        pads=[1] * 4,
    )


def up_and_down(graph: Graph, x: str) -> str:
    """Values of 1e6 and weights of 1e-8, through all that hands a factor on."""
    large = graph.add("Relu", times(graph, x, 1e6))
    clipped = graph.add("Clip", large, graph.constant(0.0), graph.constant(5e6))
    slopes = graph.constant(graph.random(8, 1, 1))
    joined = graph.add("Concat", clipped, graph.add("PRelu", large, slopes), channels=16, axis=1)
    offset = graph.add("Add", graph.add("MaxPool", joined, kernel_shape=[3, 3], pads=[1] * 4), graph.constant(1e5))
    gated = graph.add("Mul", offset, graph.add("Sigmoid", times(graph, x, 1, 16)), channels=16)
    return times(graph, graph.add("Div", gated, graph.constant(16.0)), 1e-8)


def down_and_up(graph: Graph, x: str) -> str:
    small = graph.add("LeakyRelu", times(graph, x, 1e-8), alpha=0.1)
    weight = graph.constant(graph.random(8, 8, 3, 3) * np.float32(1e7))
    return graph.add("Conv", small, weight, pads=[1] * 4)


def saturates(graph: Graph, x: str) -> str:
    return graph.add("Sigmoid", times(graph, x, 1e6))


def tiny_before_a_gate(graph: Graph, x: str) -> str:
    return graph.add("Mul", x, graph.add("Sigmoid", times(graph, x, 1e-7)))


def sum_of_all(graph: Graph, x: str) -> str:
    """A mean over the picture written as a sum: beyond 65504 in any picture of some size."""
    total = graph.add("ReduceSum", graph.add("Abs", x), graph.constant(ints(2, 3)), keepdims=1)
    count = graph.add(
        "Cast",
        graph.add("ReduceProd", graph.add("Slice", graph.add("Shape", x), graph.constant(ints(2)), graph.constant(ints(4)))),
        to=FLOAT,
    )
    return graph.add("Mul", x, graph.add("Div", total, count))


def large_mean(graph: Graph, x: str) -> str:
    return graph.add("Add", x, graph.add("GlobalAveragePool", times(graph, x, 3e3)))


def to_the_fourth(graph: Graph, x: str) -> str:
    squared = graph.add("Mul", times(graph, x, 100), times(graph, x, 100))
    return times(graph, graph.add("Mul", squared, squared), 1e-9)


RANGES: dict[str, tuple[Body, str]] = {
    "up and down": (up_and_down, ""),
    "down and up": (down_and_up, ""),
    "saturates": (saturates, "Sigmoid"),
    "tiny before a gate": (tiny_before_a_gate, "Conv"),
    "sum of all": (sum_of_all, "ReduceSum"),
    "large mean": (large_mean, "GlobalAveragePool"),
    "to the fourth": (to_the_fourth, "Mul"),
}


@pytest.mark.parametrize(("body", "kept"), RANGES.values(), ids=RANGES)
def test_what_float16_cannot_hold_is_rescaled_or_stays_in_float32_and_is_named(body: Body, kept: str) -> None:
    model = between(body)
    half = make_half(model, "fp16")
    assert hardware_db(model, half) > 60
    assert hardware_db(model, half, np.ones((1, 3, 96, 128), np.float32)) > 60
    named = {operator.split("(")[1].split(")")[0] for operator in half.kept}
    assert kept in named if kept else not named
    assert half.rescaled > 0 or kept


def test_a_rescaled_graph_is_the_same_to_the_last_bit() -> None:
    model = between(up_and_down)
    rescaled = ir.from_proto(model)
    exponents = rescale(rescaled.graph, measure_magnitudes(rescaled).values)
    assert any(exponents.values())
    exact, other = (run_as_written(one.SerializeToString(), PICTURE) for one in (model, ir.to_proto(rescaled)))
    np.testing.assert_array_equal(exact, other)


def test_without_its_care_such_a_graph_gives_no_picture() -> None:
    """What the test above holds up against: on hardware that rounds each tensor the plain conversion leaves nothing."""
    model = between(up_and_down)
    plain = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    for value in plain.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16), name=value.name)
    for node in plain.graph:
        for output in node.outputs:
            output.type = ir.TensorType(ir.DataType.FLOAT16)
    given = run_as_half_hardware(ir.to_proto(plain), PICTURE)
    exact = run_as_written(model.SerializeToString(), PICTURE)
    assert psnr_db(given.astype(float), exact.astype(float)) < 20


def test_what_a_calibration_saw_counts_too() -> None:
    model = between(simple("Sigmoid"))
    name = next(node.output[0] for node in model.graph.node if node.op_type == "Sigmoid")
    half = make_half(model, "fp16", ranges={name: 1e5})
    assert any("values reach 1e+05" in kept for kept in half.kept)


def coarse() -> onnx.ModelProto:
    """Offsets of 4000, within float16's range, where it holds even numbers alone."""
    graph = Graph(0, channels=3)
    far = graph.add("Add", graph.conv("input", 12, 3), graph.constant(4000.0))
    return graph.proto(graph.shuffle(graph.add("Sub", far, graph.constant(4000.0))))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_half_precision_is_too_coarse_for_is_refused_with_the_figure(precision: Half) -> None:
    with pytest.raises(PipelineError, match=r"too coarse: \d+\.\d dB from fp32, expected 40"):
        make_half(coarse(), precision)


def test_int8_is_made_where_half_precision_cannot_be_and_the_reason_told_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save_model(coarse(), tmp_path / "coarse.onnx")
    foreign = read_foreign(tmp_path / "coarse.onnx", scale=2, order="RGB", value_range=(0, 1))
    bundle = export_foreign(foreign, tmp_path / "coarse.onnx", directory=tmp_path / "bundle", passes=())
    arguments = [str(bundle.directory), "--calib", "samples", "--crops", "2", "--crop-size", "16x16", "--effort", "fast"]
    quantize(arguments)
    first, *_, said = capsys.readouterr().out.splitlines()
    assert first.startswith("(!) no fp16 graph, int8 alone: its arithmetic is too coarse")
    assert said
    assert {variant.precision for variant in Bundle.open(bundle.directory).manifest.variants} == {"fp32", "int8"}
    quantize(arguments)
    assert "up to date" in capsys.readouterr().out


def test_names_that_the_casts_would_take_are_left_to_their_tensors() -> None:
    graph = Graph(0, channels=3)
    model = graph.proto(graph.conv(graph.add("Relu", graph.conv("input", 8, 3)), 3, 3))
    for node, name in zip(model.graph.node, ("from_half", "to_half", "input_half"), strict=True):
        for reader in model.graph.node:
            reader.input[:] = [name if one == node.output[0] else one for one in reader.input]
        node.name = node.output[0] = name
    model.graph.output[0].name = "input_half"
    del model.graph.value_info[:]
    half = make_half(model, "fp16")
    assert half.model.graph.output[0].name == "input_half"
    assert hardware_db(model, half) > 60


def test_an_input_that_is_an_output_too_stays_as_it_is() -> None:
    graph = Graph(0, channels=3)
    model = graph.proto(graph.conv("input", 3, 3))
    model.graph.output.append(model.graph.input[0])
    half = make_half(model, "fp16")
    assert [output.name for output in half.model.graph.output][1] == "input"


@pytest.mark.parametrize("opset", [9, 11, 13])
def test_a_graph_of_an_old_opset_is_converted_at_its_own(opset: int) -> None:
    graph = Graph(0, channels=3)
    x = graph.add("Relu", graph.conv("input", 8, 3))
    proto = graph.proto(graph.conv(graph.add("Add", x, graph.constant(0.5)), 3, 3))
    proto.opset_import[0].version = opset
    half = make_half(proto, "fp16")
    assert half.model.opset_import[0].version == opset
    assert hardware_db(proto, half) > 60


def test_a_graph_that_onnx_cannot_read_is_refused_with_the_reason() -> None:
    graph = Graph(0, channels=3)
    proto = graph.proto(graph.conv("input", 3, 3))
    proto.graph.node[0].op_type, proto.graph.node[0].domain = "Convolution", "somebody.else"
    with pytest.raises(PipelineError, match="cannot have its types inferred"):
        make_half(proto, "fp16")
