"""Real engines on a real GPU; skipped where there is none, which is everywhere so far."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from export.engine.cli import main
from export.graph.pixel_io import add_pixel_io
from runtime.backends import BACKENDS, load_backend
from runtime.bundle import Bundle
from runtime.errors import BackendError
from runtime.images import Picture, to_network
from runtime.targets import Precision
from runtime.upscaler import Upscaler
from tests.bundles import reweigh

# fp32: sums in another order, a fortieth of an 8-bit step. fp16: 24 layers, each of which rounds values of about 1 by 2⁻¹¹ at most.
TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 24 * 2.0**-11}


@pytest.fixture(autouse=True)
def _gpu() -> None:
    entry = next(entry for entry in BACKENDS if entry.name == "tensorrt")
    if not entry.installed:
        pytest.skip(f"{' and '.join(entry.missing)} cannot be imported here")
    load_backend(entry)
    from runtime.backends.cuda import Gpu

    try:
        Gpu()
    except BackendError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("fixed", [True, False], ids=["one shape", "a range"])
@pytest.mark.parametrize("precision", TOLERANCE)
def test_an_engine_gives_what_onnxruntime_gives(quantized: Bundle, tmp_path: Path, precision: Precision, fixed: bool) -> None:
    bundle = Path(shutil.copytree(quantized.directory, tmp_path / "bundle"))
    main([str(bundle), "--precision", precision, "--max", "64x80", *(["--min", "64x80"] if fixed else [])])
    array = np.random.default_rng(0).random((1, 3, 64, 80), np.float32)
    picture = np.random.default_rng(1).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    with (
        Upscaler.open(bundle, precision="fp32", backend="onnxruntime") as reference,
        Upscaler.open(bundle, precision=precision, backend="tensorrt", parallel=2) as upscaler,
    ):
        assert np.abs(upscaler.run(array) - reference.run(array)).max() < TOLERANCE[precision]
        steps = np.abs(upscaler(picture).astype(int) - reference(picture)).max()
        assert steps <= 1 + 255 * TOLERANCE[precision]
        assert upscaler.precision_report.verified, upscaler.precision_report.not_as_asked
        times = upscaler.time_on_device(array, 5)
    assert times is not None
    assert all(0 < alone < whole for alone, whole in zip(times.network_ms, times.with_copies_ms, strict=True))


def test_int8_runs_in_int8_and_gives_the_picture(for_tensorrt: Bundle, tmp_path: Path, picture: Picture) -> None:
    bundle = Path(shutil.copytree(for_tensorrt.directory, tmp_path / "bundle"))
    main([str(bundle), "--precision", "int8", "--max", "64x80"])
    array = to_network(picture, for_tensorrt.manifest.contract, scale=2)
    with (
        Upscaler.open(bundle, precision="fp32", backend="onnxruntime") as reference,
        Upscaler.open(bundle, precision="int8", backend="tensorrt") as upscaler,
    ):
        assert upscaler.precision_report.verified, upscaler.precision_report.not_as_asked
        assert -10 * np.log10(np.square(upscaler.run(array) - reference.run(array)).mean()) > 35  # as in test_engine_rules


@pytest.mark.parametrize("precision", TOLERANCE)
def test_raw_pixels_are_those_of_floats(quantized: Bundle, tmp_path: Path, picture: Picture, precision: Precision) -> None:
    bundle = Bundle.open(Path(shutil.copytree(quantized.directory, tmp_path / "bundle")))
    bundle = add_pixel_io(bundle, bundle.variant(precision))
    main([str(bundle.directory), "--precision", precision, "--max", "64x80", "--io", "uint8"])
    with (
        Upscaler.open(bundle, precision="fp32", backend="onnxruntime") as reference,
        Upscaler.open(bundle, precision=precision, io="uint8", backend="tensorrt") as upscaler,
    ):
        steps = np.abs(upscaler(picture).astype(int) - reference(picture)).max()
    assert steps <= 1 + 255 * TOLERANCE[precision]


@pytest.mark.parametrize("precision", TOLERANCE)
def test_other_weights_go_into_the_engine_there_is(
    quantized: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: Precision
) -> None:
    bundle = Path(shutil.copytree(quantized.directory, tmp_path / "bundle"))
    command = [str(bundle), "--precision", precision, "--max", "64x80", "--refit"]
    array = np.random.default_rng(0).random((1, 3, 64, 80), np.float32)
    main(command)
    for factor in (0.5, 0.5):  # twice: a refitted engine can be refitted
        reweigh(bundle, precision, factor)
        main(command)
        assert "refitted: graph_sha256" in capsys.readouterr().out
        with (
            Upscaler.open(bundle, precision=precision, backend="onnxruntime") as reference,
            Upscaler.open(bundle, precision=precision, backend="tensorrt") as upscaler,
        ):
            assert np.abs(upscaler.run(array) - reference.run(array)).max() < TOLERANCE[precision]
