"""The quantize stage: what it refuses, what it records, and that the same inputs give the same bytes."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from calibration.crops import crops_of, describe_source
from calibration.fingerprint import graph_fingerprint
from calibration.measure import measure_activations
from calibration.pairs import ImageSet, Pair
from calibration.ranges import DEFAULT_PERCENTILE, Method
from calibration.shipped_tables import SHIPPED_TABLES
from calibration.table import CalibrationTable, TensorStatistics, read_table
from export.onnx_export import OPSET_RANGE, convert_opset
from quantize.int8 import quantize_int8
from quantize.options import Int8Options, Step
from quantize.stage import load_fp32, quantize_bundle, quantized_already
from quantize.tensor_ranges import observed_tensors
from runtime.bundle import MANIFEST, Bundle, Contract, sha256_bytes, write_bundle
from runtime.errors import UserError
from runtime.images import Picture, to_network, write_picture
from runtime.targets import Target, find_target

CPU = find_target("cpu")


@pytest.fixture(scope="session")
def table() -> CalibrationTable:
    return read_table(SHIPPED_TABLES / "lesrcnn_x2.json")


def bundle_with(bundle: Bundle, model: onnx.ModelProto, directory: Path) -> Bundle:
    """A bundle like `bundle` whose fp32 graph is `model`."""
    data = model.SerializeToString(deterministic=True)
    (opset,) = [entry.version for entry in model.opset_import if entry.domain == ""]
    variant = bundle.variant("fp32").model_copy(update={"sha256": sha256_bytes(data), "opset": opset})
    return write_bundle(directory, bundle.manifest.with_variant(variant), files={variant.file: data})


def quantize(
    bundle: Bundle,
    table: CalibrationTable,
    *,
    target: Target = CPU,
    method: Method = Method.PERCENTILE,
    percentile: float = DEFAULT_PERCENTILE,
    without: frozenset[Step] = frozenset(),
    lifted: frozenset[str] = frozenset(),
    crops: Sequence[NDArray[np.float32]] = (),
) -> Bundle:
    options = Int8Options(target=target, method=method, percentile=percentile, without=without, lifted=lifted)
    return quantize_bundle(bundle, table, options, crops=crops)


def scale_of(bundle: Bundle, tensor: str) -> float:
    initializers = onnx.load_model(bundle.path(bundle.variant("int8"))).graph.initializer
    (scale,) = [weight for weight in initializers if weight.name == f"{tensor}.scale"]
    return float(onnx.numpy_helper.to_array(scale))


@pytest.fixture
def fresh(exported: Bundle, tmp_path: Path) -> Bundle:
    """A copy of the exported bundle to quantize."""
    return Bundle.open(Path(shutil.copytree(exported.directory, tmp_path / "fresh")))


def test_two_quantizations_give_the_same_bytes(fresh: Bundle, quantized: Bundle, table: CalibrationTable) -> None:
    again = quantize(fresh, table)

    files = {path.name for path in quantized.directory.iterdir()}
    assert {path.name for path in again.directory.iterdir()} == files
    assert all((again.directory / name).read_bytes() == (quantized.directory / name).read_bytes() for name in files)


def test_what_reading_a_rounding_error_takes_is_counted(fresh: Bundle, table: CalibrationTable) -> None:
    """Of the upsampling convolution, 3×3 from 64 channels to 256: eight channels more of 128×128 pixels, and 64 floats for each."""
    crops = [np.random.default_rng(0).random((1, 3, 12, 12), np.float32)]
    lifted = frozenset({"upsample.up.body.0.input"})

    without, variant = (
        quantize(
            fresh, table, target=find_target("openvino"), without=frozenset({"round-layers"}), lifted=names, crops=crops
        ).variant("int8", target="openvino")
        for names in (frozenset[str](), lifted)
    )

    assert fresh.manifest.int8_mac_share(without) == 1
    added, in_float = 8 * 256 * 9 * 128**2, 8 * 64 * 128**2
    everything = fresh.manifest.macs + added + in_float
    assert fresh.manifest.int8_mac_share(variant) == pytest.approx(1 - in_float / everything, abs=1e-12)


def test_int8_is_compared_on_the_middle_of_a_large_crop(fresh: Bundle, table: CalibrationTable) -> None:
    """96×96 at most, or memory would grow with the crop."""
    large = np.random.default_rng(0).random((1, 3, 110, 100), np.float32)
    nearest = frozenset[Step]({"round-layers"})

    one, other = (
        quantize(fresh, table, without=nearest, crops=[crop]).variant("int8") for crop in (large, large[:, :, 7:103, 2:98])
    )

    assert one.psnr_vs_fp32_db == other.psnr_vs_fp32_db is not None


@pytest.mark.parametrize("opset", OPSET_RANGE)
def test_the_ends_of_exports_opset_range_quantize(
    exported: Bundle, table: CalibrationTable, tmp_path: Path, picture: Picture, opset: int
) -> None:
    bundle = bundle_with(exported, convert_opset(load_fp32(exported), opset), tmp_path / "bundle")

    variant = quantize(bundle, table).variant("int8")

    assert variant.opset == max(opset, CPU.opset_range[0])
    session = ort.InferenceSession(bundle.path(variant).read_bytes(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"input": to_network(picture, Contract(), scale=2)})
    assert output.shape == (1, 3, 80, 112)


def test_a_graph_above_the_targets_opsets_is_refused(fresh: Bundle, table: CalibrationTable) -> None:
    with pytest.raises(UserError, match="opset 13 to 17, this graph has 18") as raised:
        quantize(fresh, table, target=replace(CPU, opset_range=(13, 17)))

    assert raised.value.hint


def test_a_table_of_another_graph_is_refused(fresh: Bundle, table: CalibrationTable) -> None:
    other = table.model_copy(update={"graph_fingerprint": "0" * 64})

    with pytest.raises(UserError, match="another graph") as raised:
        quantize(fresh, other)

    assert "--calib" in raised.value.hint


def test_a_table_that_lacks_a_tensor_is_refused(fresh: Bundle, table: CalibrationTable) -> None:
    held = {name: statistics for name, statistics in table.tensors.items() if name != "relu_5"}

    with pytest.raises(UserError, match=r"lacks relu_5"):
        quantize(fresh, table.model_copy(update={"tensors": held}))


def test_a_refused_quantization_leaves_the_bundle_as_it_was(bundle_copy: Bundle, table: CalibrationTable) -> None:
    before = {path.name: path.read_bytes() for path in bundle_copy.directory.iterdir()}

    with pytest.raises(UserError):
        quantize(bundle_copy, table, percentile=99.5)

    assert {path.name: path.read_bytes() for path in bundle_copy.directory.iterdir()} == before


def covered(statistics: TensorStatistics, percentile: str | None) -> float:
    """The width of a statistic's range with zero in it, in 255 steps."""
    low, high = statistics.percentiles[percentile] if percentile else (statistics.minimum, statistics.maximum)
    return (max(high, 0.0) - min(low, 0.0)) / 255


@pytest.mark.parametrize(
    ("method", "percentile", "held"),
    [(Method.MINMAX, DEFAULT_PERCENTILE, None), (Method.PERCENTILE, 99.9999, "99.9999"), (Method.PERCENTILE, 99.9, "99.9")],
)
def test_inner_tensors_take_their_range_by_the_method_asked_for(
    fresh: Bundle, table: CalibrationTable, method: Method, percentile: float, held: str | None
) -> None:
    bundle = quantize(fresh, table, method=method, percentile=percentile)

    for tensor in ("relu_2", "conv3.0", "relu_19"):
        assert scale_of(bundle, tensor) == pytest.approx(covered(table.tensors[tensor], held), rel=1e-6)


@pytest.mark.parametrize("method", [method for method in Method if method is not Method.MSE])  # which weighs what it clips
def test_global_skips_are_never_clipped(fresh: Bundle, table: CalibrationTable, method: Method) -> None:
    bundle = quantize(fresh, table, method=method, percentile=99.9)

    for tensor in ("relu_1", "add_9"):
        assert scale_of(bundle, tensor) == pytest.approx(covered(table.tensors[tensor], None), rel=1e-6)


@pytest.mark.parametrize("method", Method)
def test_the_mean_shift_at_the_input_covers_every_picture(fresh: Bundle, table: CalibrationTable, method: Method) -> None:
    dark = table.tensors["sub_mean.shifter"].model_copy(update={"maximum": 0.1, "percentiles": {"99.99": (-0.1, 0.1)}})
    weights = {weight.name: onnx.numpy_helper.to_array(weight) for weight in load_fp32(fresh).graph.initializer}
    corners = np.array(list(itertools.product((0.0, 1.0), repeat=3)))  # the colours a 3×3 matrix takes to its extremes
    shifted = corners @ weights["sub_mean.shifter.weight"][..., 0, 0].T + weights["sub_mean.shifter.bias"]

    dark_table = table.model_copy(update={"tensors": {**table.tensors, "sub_mean.shifter": dark}})
    bundle = quantize(fresh, dark_table, method=method, percentile=99.99, without=frozenset(["pixel-grid"]))

    assert scale_of(bundle, "sub_mean.shifter") == pytest.approx(np.ptp(shifted) / 255, rel=1e-6)


@pytest.mark.parametrize("method", Method)
def test_the_manifest_records_how_int8_was_made(fresh: Bundle, table: CalibrationTable, method: Method) -> None:
    bundle = quantize(fresh, table, method=method, percentile=99.99)

    variant = bundle.variant("int8", target="cpu")
    assert variant.options == {
        "method": method.value,
        "percentile": 99.99 if method is Method.PERCENTILE else None,
        "effort": "balanced",
        "without": (),
        "lifted": (),
    }
    assert variant.parent_sha256 == bundle.variant("fp32").sha256
    assert variant.calibration is not None
    assert read_table(bundle.path(variant.calibration)) == table


def test_every_layer_and_every_multiplication_is_asked_for_in_int8(quantized: Bundle) -> None:
    variant = quantized.variant("int8", target="cpu")

    assert {*variant.int8_layers, *variant.merged_layers} == {layer.name for layer in quantized.manifest.layers}
    assert quantized.manifest.int8_mac_share(variant) == 1.0


def test_the_manifest_has_no_path_and_no_time(quantized: Bundle) -> None:
    text = (quantized.directory / MANIFEST).read_text()

    assert str(quantized.directory.parent) not in text
    assert "time" not in json.loads(text)


def test_the_distance_to_fp32_is_recorded_where_there_are_pictures(
    fresh: Bundle, quantized: Bundle, table: CalibrationTable, picture: Picture
) -> None:
    done = quantize_bundle(
        fresh,
        table,
        Int8Options(target=CPU, method=Method.PERCENTILE),
        crops=[to_network(picture, Contract(), scale=2), to_network(picture[:20], Contract(), scale=2)],
    )

    errors = []
    for precision in ("int8", "fp32"):
        options = ort.SessionOptions()
        options.add_session_config_entry("session.x64quantprecision", "1")  # without VNNI products of bytes overflow else
        session = ort.InferenceSession(str(done.path(done.variant(precision))), options, providers=["CPUExecutionProvider"])
        errors.append(
            [session.run(None, {"input": to_network(crop, Contract(), scale=2)})[0].clip(0, 1) for crop in (picture, picture[:20])]
        )
    mean_square = np.concatenate([np.square(int8 - fp32).ravel() for int8, fp32 in zip(*errors, strict=True)]).mean()
    assert done.variant("int8").psnr_vs_fp32_db == pytest.approx(-10 * np.log10(mean_square), abs=0.01)
    assert quantized.variant("int8").psnr_vs_fp32_db is None


def test_a_finished_quantization_is_known_to_be_done(quantized: Bundle, table: CalibrationTable) -> None:
    assert quantized_already(quantized, table, Int8Options(target=CPU, method=Method.PERCENTILE), compared=False)


def test_another_question_is_not_taken_for_done(exported: Bundle, quantized: Bundle, table: CalibrationTable) -> None:
    def done(
        bundle: Bundle = quantized,
        asked: CalibrationTable = table,
        target: Target = CPU,
        method: Method = Method.PERCENTILE,
        percentile: float = DEFAULT_PERCENTILE,
        without: frozenset[Step] = frozenset(),
    ) -> bool:
        options = Int8Options(target=target, method=method, percentile=percentile, without=without)
        return quantized_already(bundle, asked, options, compared=False)

    assert not done(bundle=exported)
    assert not done(asked=table.model_copy(update={"source": table.source.model_copy(update={"seed": 1})}))
    assert not done(target=replace(CPU, name="another"))
    assert not done(method=Method.MINMAX)
    assert not done(percentile=99.99)
    assert not done(without=frozenset(["pixel-grid"]))


@pytest.mark.parametrize("magnitude", [0.0, 1e-3, 1e-12, 1e-40])
def test_a_channel_with_next_to_no_weight_keeps_its_bias(tmp_path: Path, magnitude: float) -> None:
    """Dead channels are their bias: it must not be lost to the limits of int32 at a tiny scale."""
    biases = (0.5, 0.75, 0.25)
    model = onnx.parser.parse_model(
        f"""
        <ir_version: 10, opset_import: ["" : 18]>
        one (float[N,3,H,W] input) => (float[N,3,H,W] output)
        <float[3] b = {{{", ".join(str(bias) for bias in biases)}}}>
        {{ output = Conv(input, w, b) }}
        """
    )
    model.graph.node[0].name = "layer"
    weight = np.full((3, 3, 1, 1), magnitude, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    write_picture(tmp_path / "a.png", picture)
    images = ImageSet("one", (Pair("a", None, tmp_path / "a.png"),))
    graph_model = ir.from_proto(model)
    source = describe_source(images, scale=2, crops=1)
    table = measure_activations(
        graph_model,
        crops_of(images, source, scale=2, contract=Contract()),
        tensors=observed_tensors(graph_model.graph),
        source=source,
        percentile=DEFAULT_PERCENTILE,
    )
    assert table.graph_fingerprint == graph_fingerprint(graph_model.graph)

    int8 = quantize_int8(model, table, Int8Options(target=CPU, method=Method.MINMAX))

    session = ort.InferenceSession(int8.model.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"input": to_network(picture, Contract(), scale=2)})
    expected = np.array(biases) + 3 * magnitude * 0.5
    # Half a step of the output, half a step of the bias where it is at the input's scale, and the spread of the weights.
    np.testing.assert_allclose(output.mean(axis=(0, 2, 3)), expected, atol=1.01 / 255 + 3 * magnitude)
