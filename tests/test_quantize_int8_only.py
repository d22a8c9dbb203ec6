"""Targets that run PixelShuffle on int8 alone: what is written for them, what is refused, and what the backends make of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration.ranges import Method
from calibration.shipped_tables import SHIPPED_TABLES
from calibration.table import CalibrationTable, read_table
from export.models import find_network
from export.stage import export_network
from export.weights import find_weights
from quantize.cli import main
from quantize.graph.int8_only import ask_backend, check_int8_only
from quantize.half.pixel_shuffle import PixelShuffle, write_out
from quantize.half.stage import half_precisions_of
from quantize.options import Int8Options
from quantize.stage import quantize_bundle, quantized_already
from runtime.backends import BACKENDS, open_backend
from runtime.bundle import Bundle, Contract
from runtime.errors import PipelineError, UserError
from runtime.images import Picture, to_network
from runtime.targets import TARGETS, Target, find_target
from runtime.targets.operators import on_int8_only
from tests.graphs import Graph
from tests.small_int8 import small_int8

INT8_ONLY = tuple(target for target in TARGETS if target.int8_only_ops)
OTHERS = tuple(target for target in TARGETS if not target.int8_only_ops)
SIZE = (40, 56)  # of the `picture` fixture


def each(*targets: Target) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("target", targets, ids=[target.name for target in targets])


EACH_BACKEND = pytest.mark.parametrize(
    "backend", [entry.name for entry in BACKENDS if entry.opens_graphs and "int8" in entry.precisions]
)


@pytest.fixture(scope="module")
def table() -> CalibrationTable:
    return read_table(SHIPPED_TABLES / "lesrcnn_x2.json")


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """LESRCNN x2 with the shipped weights, exported at one shape; not to be written to."""
    network = find_network("lesrcnn", scale=2)
    weights = find_weights(network, scale=2, choice="shipped")
    directory = tmp_path_factory.mktemp("fixed") / "lesrcnn_x2"
    return export_network(network, scale=2, weights=weights, directory=directory, static_shape=SIZE)


@pytest.fixture
def copy(fixed: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.open(Path(shutil.copytree(fixed.directory, tmp_path / "copy")))


def quantize(bundle: Bundle, table: CalibrationTable, target: Target, pixel_shuffle: PixelShuffle = PixelShuffle.ISLAND) -> Bundle:
    return quantize_bundle(bundle, table, Int8Options(target=target, method=Method.PERCENTILE), pixel_shuffle=pixel_shuffle)


@pytest.fixture(scope="module", params=INT8_ONLY, ids=[target.name for target in INT8_ONLY])
def built(
    request: pytest.FixtureRequest, fixed: Bundle, table: CalibrationTable, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """`fixed`, quantized for a target that runs some operators on int8 alone; not to be written to."""
    directory = tmp_path_factory.mktemp("built") / "bundle"
    shutil.copytree(fixed.directory, directory)
    return quantize(Bundle.open(directory), table, request.param)


def target_of(bundle: Bundle) -> Target:
    return find_target(str(bundle.variant("int8").target))


def model_of(bundle: Bundle, precision: str, target: Target) -> onnx.ModelProto:
    (variant,) = [one for one in bundle.manifest.variants if (one.precision, one.target) == (precision, target.name)]
    return onnx.load_model_from_string(bundle.read(variant))


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


# The check


@each(*(target for target in TARGETS if target.moves_integers))
def test_what_moves_integers_passes_the_check(target: Target) -> None:
    choosy = replace(target, operators=on_int8_only(target.operators, "DepthToSpace"))

    assert check_int8_only(small_int8(target).int8, choosy, precision="int8") == 1


@each(*(target for target in TARGETS if not target.moves_integers))
def test_what_moves_floats_between_quantizers_does_not(target: Target) -> None:
    with pytest.raises(PipelineError, match=rf"DepthToSpace .* of the int8 graph .* target {target.name} "):
        check_int8_only(
            small_int8(target).int8, replace(target, operators=on_int8_only(target.operators, "DepthToSpace")), precision="int8"
        )


@each(*INT8_ONLY)
def test_another_scale_behind_a_shuffle_is_found(target: Target) -> None:
    model = small_int8(target).int8
    (shuffle,) = [node for node in model.graph.node if node.op_type == "DepthToSpace"]
    (after,) = [node for node in model.graph.node if shuffle.output[0] in node.input]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.5, np.float32), "other"))
    after.input[1] = "other"

    with pytest.raises(PipelineError, match=f"{shuffle.name} of the int8 graph .* one scale, and target {target.name}"):
        check_int8_only(model, target, precision="int8")


@each(*INT8_ONLY)
def test_codes_of_another_type_are_found(target: Target) -> None:
    cpu = small_int8(find_target("cpu")).int8

    with pytest.raises(PipelineError, match=f"does not read and write {target.activation_dtype} at one scale"):
        check_int8_only(cpu, target, precision="int8")


@each(*INT8_ONLY)
def test_a_float_shuffle_is_found_in_the_middle_and_at_the_ends(target: Target) -> None:
    graph = Graph(0, channels=4)
    model = graph.proto(graph.shuffle("input"))

    for floats in (model, small_int8(target).reference):
        with pytest.raises(PipelineError, match="of the fp16 graph"):
            check_int8_only(floats, target, precision="fp16")


# What is written


def test_the_int8_graph_shuffles_int8_at_one_scale(built: Bundle) -> None:
    target = target_of(built)

    assert check_int8_only(model_of(built, "int8", target), target, precision="int8") == 1


def test_in_fp16_a_shuffle_is_an_island_unless_told_otherwise(built: Bundle) -> None:
    target = target_of(built)
    for half in half_precisions_of(target):
        model = model_of(built, half, target)
        assert check_int8_only(model, target, precision=half) == 1
        assert operators(model).count("QuantizeLinear") == operators(model).count("DequantizeLinear") == 1
        floats = {weight.data_type for weight in model.graph.initializer} - {onnx.TensorProto.INT8, onnx.TensorProto.INT64}
        assert floats == {onnx.TensorProto.FLOAT16}


@EACH_BACKEND
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_backends_here_shuffle_int8_after_their_optimiser(built: Bundle, backend: str, precision: str) -> None:
    target = target_of(built)
    variant = built.variant("int8" if precision == "int8" else "fp16", target=target.name)

    account = ask_backend(backend, built.read(variant), target, precision=variant.precision)

    assert list(account.ran.values()) == ["int8 to int8"]
    assert (account.kept, str(account)) == (1, f"1 of 1 on {backend}")


@EACH_BACKEND
@each(*INT8_ONLY)
def test_a_backend_that_shuffles_floats_is_told_of(fixed: Bundle, target: Target, backend: str) -> None:
    account = ask_backend(backend, fixed.read(fixed.variant("fp32")), target, precision="fp32")

    assert (account.kept, str(account)) == (0, f"0 of 1 on {backend} (fp32 to fp32)")


@each(*INT8_ONLY)
def test_written_out_there_is_no_shuffle_and_the_output_is_the_same(
    copy: Bundle, table: CalibrationTable, target: Target, picture: Picture
) -> None:
    bundle = quantize(copy, table, target, PixelShuffle.LOWER)

    variant = bundle.variant("fp16", target=target.name)
    assert "DepthToSpace" not in operators(model_of(bundle, "fp16", target))
    assert variant.options["pixel_shuffle"] == "lower"
    outputs = []
    for one in (variant, bundle.variant("fp32")):
        with open_backend("onnxruntime", bundle.read(one), precision=one.precision) as opened:
            outputs.append(opened.run(to_network(picture, Contract(), scale=2)))
    assert np.abs(outputs[0] - outputs[1]).max() < 5e-3  # as of the plain fp16 graph


@EACH_BACKEND
def test_an_island_costs_its_own_rounding_and_no_more(built: Bundle, picture: Picture, backend: str) -> None:
    outputs = []
    for one in (built.variant("fp16", target=target_of(built).name), built.variant("fp32")):
        with open_backend(backend, built.read(one), precision=one.precision) as opened:
            outputs.append(opened.run(to_network(picture, Contract(), scale=2)).clip(0, 1))

    # One tensor in 8 bits; all of them in 8 bits leave 44 dB at the least (test_quantize_graphs).
    assert -10 * np.log10(np.square(outputs[0] - outputs[1]).mean()) > 50


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_both_orders_of_depth_to_space_are_written_out_exactly(mode: str) -> None:
    graph = Graph(0, channels=12, sides=(3, 5))
    model = graph.proto(graph.shuffle("input", mode=mode))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model = onnx.shape_inference.infer_shapes(model)
    array = graph.random(1, 12, 3, 5)

    expected, given = (
        open_backend("onnxruntime", one.SerializeToString(), precision="fp32").run(array)
        for one in (model, write_out(model, find_target("vacc")))
    )
    assert np.array_equal(expected, given)


@each(*INT8_ONLY)
def test_an_island_at_the_end_uses_all_codes_for_the_picture(target: Target, tmp_path: Path, picture: Picture) -> None:
    """ESPCN ends in its shuffle: half of the codes of a symmetric scheme are for values that no picture has."""
    network = find_network("espcn", scale=3)
    weights = find_weights(network, scale=3, choice="shipped")
    bundle = export_network(network, scale=3, weights=weights, directory=tmp_path / "espcn", static_shape=SIZE)

    done = quantize(bundle, read_table(SHIPPED_TABLES / "espcn_x3.json"), target)

    model = model_of(done, "fp16", target)
    (quantizer,) = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    (scale,) = [onnx.numpy_helper.to_array(one) for one in model.graph.initializer if one.name == quantizer.input[1]]
    assert float(scale) == pytest.approx(1 / 255, rel=2**-11)  # of float16


# What is refused


@each(*(target for target in TARGETS if target.static_shapes))
def test_a_free_shape_is_refused_where_the_target_runs_one(exported: Bundle, table: CalibrationTable, target: Target) -> None:
    with pytest.raises(UserError, match=f"target {target.name} runs one shape of input") as caught:
        quantize(exported, table, target)

    assert "--static HxW" in caught.value.hint


def test_a_free_shape_is_refused_before_calibrating(exported: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(exported.directory), "--calib", "samples", "--target", "vacc"])

    captured = capsys.readouterr()
    assert (stopped.value.code, captured.out) == (2, "")
    assert "--static HxW" in captured.err


@each(*INT8_ONLY)
def test_a_refused_fp16_build_names_operator_precision_and_target(copy: Bundle, table: CalibrationTable, target: Target) -> None:
    before = {path.name: path.read_bytes() for path in copy.directory.iterdir()}

    with pytest.raises(UserError, match=f"fp16 refused: target {target.name} runs DepthToSpace on int8 alone") as caught:
        quantize(copy, table, target, PixelShuffle.REFUSE)

    assert "--pixel-shuffle" in caught.value.hint
    assert {path.name: path.read_bytes() for path in copy.directory.iterdir()} == before


def test_pixel_shuffle_is_no_question_for_other_targets(copy: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(copy.directory), "--calib", str(SHIPPED_TABLES / "lesrcnn_x2.json"), "--pixel-shuffle", "lower"])

    assert stopped.value.code == 2
    assert "--pixel-shuffle has no effect with --target cpu" in capsys.readouterr().err


# Whose graphs are whose


@each(*OTHERS)
def test_a_target_gets_the_half_precisions_it_has(copy: Bundle, table: CalibrationTable, target: Target) -> None:
    manifest = quantize(copy, table, target).manifest

    assert {variant.precision for variant in manifest.variants} == {"fp32", "int8", *half_precisions_of(target)}
    assert {variant.file for variant in manifest.variants} >= {f"model.{half}.onnx" for half in half_precisions_of(target)}


@pytest.mark.parametrize("vacc_first", [True, False])
def test_a_chips_own_fp16_graph_is_given_to_nobody_else(copy: Bundle, table: CalibrationTable, vacc_first: bool) -> None:
    for name in ("vacc", "cpu") if vacc_first else ("cpu", "vacc"):
        copy = quantize(copy, table, find_target(name))

    for asked in (None, *(target.name for target in OTHERS)):
        assert copy.variant("fp16", target=asked).file == "model.fp16.onnx"
    assert copy.variant("fp16", target="vacc").file == "model.fp16-vacc.onnx"


def test_a_chip_is_given_no_graph_that_is_not_its_own(copy: Bundle, table: CalibrationTable) -> None:
    manifest = quantize(copy, table, find_target("cpu")).manifest

    assert manifest.find_variant("fp16", target="vacc") is None


def test_another_wish_for_the_shuffle_is_not_taken_for_done(built: Bundle, table: CalibrationTable) -> None:
    options = Int8Options(target=target_of(built), method=Method.PERCENTILE)

    assert quantized_already(built, table, options, compared=False)
    assert not quantized_already(built, table, options, compared=False, pixel_shuffle=PixelShuffle.LOWER)


# As it is typed


@each(*INT8_ONLY)
def test_the_command_says_what_was_written_and_what_backends_made_of_it(
    copy: Bundle, target: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(copy.directory), "--calib", str(SHIPPED_TABLES / "lesrcnn_x2.json"), "--target", target.name])

    accounts = ", ".join(f"1 of 1 on {entry.name}" for entry in BACKENDS if entry.opens_graphs and "int8" in entry.precisions)
    said = f"DepthToSpace: from int8 to int8 at one scale 1 of 1 as written; as optimised {accounts}"
    printed = capsys.readouterr().out.splitlines()
    assert {f"  {precision} graph: {said}" for precision in ("int8", "fp16")} <= set(printed)


@each(*INT8_ONLY)
def test_scales_of_float16_are_in_a_targets_opsets(target: Target) -> None:
    assert not half_precisions_of(target) or target.opset_range[1] >= 19
