"""Graphs that take and give raw pixels: to the bit what the runtime makes of the graph of floats."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from export import cli as export_cli
from export.graph.pixel_io import add_pixel_io
from quantize import cli as quantize_cli
from runtime import cli
from runtime.backends import BACKENDS
from runtime.bundle import IOS, Bundle, write_bundle
from runtime.errors import BundleError, ImageError
from runtime.images import read_picture, write_picture
from runtime.pictures.pixels import Picture
from runtime.targets import Precision
from runtime.upscaler import Upscaler

BOTH: tuple[Precision, ...] = ("fp32", "int8")
RAW_FILES = {"fp32": "model.fp32.uint8-io.onnx", "int8": "model.int8-cpu.uint8-io.onnx"}


def _with_raw(bundle: Bundle, folder: Path, *precisions: Precision) -> Bundle:
    copy = Bundle.open(Path(shutil.copytree(bundle.directory, folder / "bundle")))
    for precision in precisions:
        copy = add_pixel_io(copy, copy.variant(precision))
    return copy


@pytest.fixture(scope="module")
def raw(quantized: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """`quantized` with graphs of raw pixels beside its fp32 and int8 ones; not to be written to."""
    return _with_raw(quantized, tmp_path_factory.mktemp("raw"), *BOTH)


@pytest.fixture(scope="module")
def raw_only(raw: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of nothing but graphs of raw pixels."""
    variants = tuple(variant for variant in raw.manifest.variants if variant.io == "uint8")
    manifest = raw.manifest.model_copy(update={"variants": variants})
    files = {part.file: raw.read(part) for part in manifest.parts}
    return write_bundle(tmp_path_factory.mktemp("raw_only") / "bundle", manifest, files=files)


def _session(bundle: Bundle, precision: Precision) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # without VNNI products of bytes overflow else
    return ort.InferenceSession(bundle.read(bundle.variant(precision, io="uint8")), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("precision", BOTH)
def test_any_onnx_runtime_makes_of_raw_frames_what_the_upscaler_gives(raw: Bundle, picture: Picture, precision: Precision) -> None:
    session = _session(raw, precision)
    frames = np.stack([picture, picture[::-1]])
    (output,) = session.run(None, {session.get_inputs()[0].name: frames})
    with Upscaler.open(raw, precision=precision, backend="onnxruntime") as upscaler:
        expected = np.stack([upscaler(picture), upscaler(np.ascontiguousarray(picture[::-1]))])
    assert output.dtype == np.uint8
    np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize("precision", BOTH)
def test_the_graph_declares_bytes_with_the_channels_last(raw: Bundle, precision: Precision) -> None:
    onnx.checker.check_model(onnx.load_model_from_string(raw.read(raw.variant(precision, io="uint8"))), full_check=True)
    session = _session(raw, precision)
    for value in (*session.get_inputs(), *session.get_outputs()):
        assert value.type == "tensor(uint8)"
        assert value.shape[3] == 3


def _kinds(picture: Picture) -> dict[str, Picture]:
    every_code = np.arange(256, dtype=np.uint8).reshape(16, 16)
    alpha = np.concatenate([picture, picture[..., :1]], axis=2)
    return {
        "RGB": picture,
        "grey": every_code,
        "RGBA": alpha,
        "noise": np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8),
    }


@pytest.mark.parametrize("backend", [entry.name for entry in BACKENDS if entry.opens_graphs and "int8" in entry.precisions])
@pytest.mark.parametrize("precision", BOTH)
@pytest.mark.parametrize("kind", ["RGB", "grey", "RGBA", "noise"])
@pytest.mark.parametrize("tile", [None, 32])
def test_the_upscaler_gives_the_same_pixels_by_either_graph(
    raw: Bundle, picture: Picture, kind: str, precision: Precision, backend: str, tile: int | None
) -> None:
    pixels = _kinds(picture)[kind]
    outputs = []
    for io in IOS:
        with Upscaler.open(raw, precision=precision, io=io, backend=backend, tile=tile) as upscaler:
            assert upscaler.variant.io == io
            outputs.append(upscaler(pixels))
    apart = np.abs(outputs[0].astype(int) - outputs[1])
    # The graphs are fused apart: a sample of up to 255, a few roundings of 2^-24 off, may fall to either side of two codes' middle.
    share = 0.0 if backend == "onnxruntime" else 2 * 4 * 255 * 2.0**-24
    told = f"{np.count_nonzero(apart)} of {apart.size} samples differ, by at most {apart.max()}"
    assert apart.max() <= 1, told
    assert np.count_nonzero(apart) <= share * apart.size, told


@pytest.mark.parametrize("backend", [entry.name for entry in BACKENDS if entry.opens_graphs and "int8" in entry.precisions])
def test_a_picture_enlarged_before_goes_in_as_bytes_too(
    enlarged_before: Bundle, picture: Picture, backend: str, tmp_path: Path
) -> None:
    bundle = _with_raw(enlarged_before, tmp_path, "fp32")
    with Upscaler.open(bundle, io="float32", backend=backend) as floats, Upscaler.open(bundle, io="uint8", backend=backend) as raw:
        np.testing.assert_array_equal(raw(picture), floats(picture))


def test_luma_goes_in_as_bytes_too(picture: Picture, tmp_path: Path) -> None:
    export_cli.main(["espcn", "--scale", "3", "--weights", "shipped", "--out", str(tmp_path / "espcn"), "--io", "uint8"])
    bundle = Bundle.open(tmp_path / "espcn")
    assert _session(bundle, "fp32").get_inputs()[0].shape[3] == 1
    with Upscaler.open(bundle, io="float32") as floats, Upscaler.open(bundle, io="uint8") as raw:
        np.testing.assert_array_equal(raw(picture), floats(picture))


def test_a_graph_of_one_size_fills_up_what_is_smaller(picture: Picture, tmp_path: Path) -> None:
    export_cli.main(["lesrcnn", "--scale", "2", "--static", "48x48", "--out", str(tmp_path / "fixed"), "--io", "uint8"])
    fixed = tmp_path / "fixed"
    with Upscaler.open(fixed, io="float32", backend="openvino") as floats, Upscaler.open(fixed, io="uint8") as raw:
        np.testing.assert_array_equal(raw(picture), floats(picture))


@pytest.mark.parametrize("backend", [entry.name for entry in BACKENDS if entry.opens_graphs and "int8" in entry.precisions])
@pytest.mark.parametrize("precision", BOTH)
def test_the_layers_of_a_graph_of_raw_pixels_run_in_its_precision(raw: Bundle, precision: Precision, backend: str) -> None:
    with Upscaler.open(raw, precision=precision, io="uint8", backend=backend) as upscaler:
        assert upscaler.precision_report.verified, upscaler.precision_report.not_as_asked


def test_sixteen_bits_are_refused_by_a_bundle_of_raw_pixels(raw_only: Bundle, picture: Picture, tmp_path: Path) -> None:
    with Upscaler.open(raw_only) as upscaler:
        assert (upscaler.variant.precision, upscaler.variant.io) == ("int8", "uint8")
        with pytest.raises(ImageError, match="raw 8-bit pixels, and the picture has uint16"):
            upscaler(picture.astype(np.uint16) * 257)
        with pytest.raises(ImageError, match="raw pixels, not floats"):
            upscaler.run(np.zeros((1, 3, 8, 8), np.float32))


def test_a_16_bit_file_is_an_error_and_leaves_nothing(
    raw_only: Bundle, picture: Picture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_picture(tmp_path / "deep.png", picture.astype(np.uint16) * 257)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["upscale", str(tmp_path / "deep.png"), "-o", str(tmp_path / "out.png"), "--bundle", str(raw_only.directory)])
    assert stopped.value.code == 2
    assert "raw 8-bit pixels" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"deep.png"}


def test_a_bundle_says_which_graph_of_raw_pixels_it_lacks(quantized: Bundle, raw_only: Bundle) -> None:
    with pytest.raises(BundleError, match="has no int8 graph of raw pixels; it has: fp32, ") as caught:
        Upscaler.open(quantized, precision="int8", io="uint8")
    assert caught.value.hint.endswith("--calib div2k --io uint8")
    with pytest.raises(BundleError, match="has no fp32 graph; it has: fp32 of raw pixels, int8 for cpu of raw pixels"):
        raw_only.variant("fp32")


def test_export_and_quantize_write_graphs_of_raw_pixels_and_upscale_runs_them(
    picture: Picture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, tables = str(tmp_path / "bundle"), Path(__file__).parents[1] / "calibration" / "shipped"
    export_cli.main(["lesrcnn", "--scale", "2", "--out", bundle])
    export_cli.main(["lesrcnn", "--scale", "2", "--out", bundle, "--io", "uint8"])
    assert "a graph of raw pixels added" in capsys.readouterr().out
    quantize_cli.main([bundle, "--calib", str(tables / "lesrcnn_x2.json"), "--io", "uint8"])
    printed = capsys.readouterr().out
    assert all(file in printed for file in (RAW_FILES["int8"], "model.fp16.uint8-io.onnx", "model.bf16.uint8-io.onnx"))
    before = (tmp_path / "bundle" / "manifest.json").read_bytes()
    export_cli.main(["lesrcnn", "--scale", "2", "--out", bundle, "--io", "uint8"])
    quantize_cli.main([bundle, "--calib", str(tables / "lesrcnn_x2.json"), "--io", "uint8"])
    assert capsys.readouterr().out.count("up to date") == 2
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == before
    cli.main(["info", bundle])
    said = capsys.readouterr().out
    assert "raw     N×H×W×3 in, N×H·2×W·2×3 out, NHWC, uint8 RGB, 0 to 255" in said
    assert all(f"{file}" in said for file in RAW_FILES.values())
    write_picture(tmp_path / "in.png", picture)
    for io in ("uint8", "float32"):
        cli.main(["upscale", str(tmp_path / "in.png"), "-o", str(tmp_path / f"{io}.png"), "--bundle", bundle, "--io", io])
    np.testing.assert_array_equal(read_picture(tmp_path / "uint8.png"), read_picture(tmp_path / "float32.png"))


def test_exporting_again_keeps_the_graphs_of_raw_pixels(raw: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(raw.directory, tmp_path / "bundle"))
    export_cli.main(["lesrcnn", "--scale", "2", "--weights", "shipped", "--out", str(copy), "--force"])
    assert Bundle.open(copy).manifest == raw.manifest


def test_a_graph_of_raw_pixels_goes_with_the_one_it_was_made_from(raw: Bundle) -> None:
    int8 = raw.variant("int8").model_copy(update={"sha256": "0" * 64})
    manifest = raw.manifest.with_variant(int8)
    assert manifest.find_variant("int8", io="uint8") is None
    assert manifest.find_variant("fp32", io="uint8") is not None


@pytest.mark.parametrize(
    ("main", "arguments"), [(export_cli.main, ["lesrcnn", "--scale", "2"]), (quantize_cli.main, ["--calib", "div2k"])]
)
def test_an_unknown_io_lists_the_known_ones(
    main: Callable[[Sequence[str]], None], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--io", "int4"])
    assert stopped.value.code == 2
    assert "known: float32, uint8" in capsys.readouterr().err
