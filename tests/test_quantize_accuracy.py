"""Decibels lost to INT8: against the published network's fp32 on Set5, and against ONNX Runtime's own quantizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnxruntime.quantization import CalibrationMethod

from benchmarks.onnxruntime_quantizer import quantize
from calibration.crops import crops_of, describe_source
from calibration.datasets import find_images
from calibration.pairs import load_pair
from calibration.ranges import DEFAULT_PERCENTILE, Method
from calibration.steps import ignore_step
from export.models import find_network
from export.stage import export_network
from export.weights import find_weights
from quantize.options import Int8Options
from quantize.stage import quantize_bundle
from quantize.tables import TableRequest, find_table
from runtime.bundle import Bundle, Contract
from runtime.images import Picture
from runtime.targets import find_target
from runtime.upscaler import Upscaler
from tests.processor import EXACT_BACKEND


def luma_psnr_db(output: Picture, truth: Picture, *, border: int) -> float:
    """PSNR of ITU-R BT.601 luma on 255, `border` pixels cropped on each side."""
    inside = (slice(border, -border), slice(border, -border))
    coefficients = np.array([65.481, 128.553, 24.966]) / 255
    lumas = [np.rint(16 + picture[inside].astype(np.float64) @ coefficients) for picture in (output, truth)]
    return float(10 * np.log10(255**2 / np.square(lumas[0] - lumas[1]).mean()))


def calibrated(bundle: Bundle, *, calib: str, root: Path | None, crops: int, crop_size: tuple[int, int]) -> Bundle:
    request = TableRequest(calib=calib, root=root, crops=crops, crop_size=crop_size, seed=0, percentile=DEFAULT_PERCENTILE)
    found = find_table(bundle, request, on_step=ignore_step)
    return quantize_bundle(bundle, found.table, Int8Options(target=find_target("cpu"), method=Method.PERCENTILE), crops=found.crops)


def test_the_published_network_loses_little_on_set5(shared: Path, tmp_path: Path) -> None:
    network = find_network("lesrcnn", scale=2)
    weights = find_weights(network, scale=2, choice=str(shared / "weights" / "lesrcnn_x2.pth"))
    exported = export_network(network, scale=2, weights=weights, directory=tmp_path / "published")
    bundle = calibrated(exported, calib="div2k", root=shared / "data", crops=8, crop_size=(48, 48))
    pairs = [load_pair(pair, scale=2) for pair in find_images("set5", scale=2, use="evaluation", root=shared / "data").pairs]

    psnr_db = {}
    for precision in ("fp32", "int8"):
        variant = bundle.variant(precision)
        with Upscaler.open(bundle, precision=variant.precision, backend=EXACT_BACKEND) as upscale:
            psnr_db[precision] = float(np.mean([luma_psnr_db(upscale(low), high, border=2) for low, high in pairs]))

    assert psnr_db["fp32"] == pytest.approx(37.716, abs=0.005)  # the published weights, by this protocol
    assert psnr_db["fp32"] - psnr_db["int8"] <= 0.35, psnr_db


def test_int8_is_closer_to_fp32_than_onnxruntimes_own_quantizer(
    exported: Bundle, bundle_copy: Bundle, tmp_path: Path, picture_folder: Callable[..., Path]
) -> None:
    samples = find_images("samples", scale=2, use="calibration")
    crops = list(crops_of(samples, describe_source(samples, scale=2, crops=5, crop_size=(32, 32)), scale=2, contract=Contract()))
    theirs = tmp_path / "theirs.onnx"
    theirs.write_bytes(quantize(exported.path(exported.variant("fp32")), crops, method=CalibrationMethod.MinMax))
    ours = calibrated(bundle_copy, calib="samples", root=None, crops=5, crop_size=(32, 32))

    def mean_square(path: Path) -> float:
        graphs = (path, exported.path(exported.variant("fp32")))
        sessions = [ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"]) for graph in graphs]
        outputs = [[session.run(None, {"input": crop})[0].clip(0, 1) for crop in crops] for session in sessions]
        return float(np.mean([np.square(int8 - fp32).mean() for int8, fp32 in zip(*outputs, strict=True)]))

    assert mean_square(ours.path(ours.variant("int8"))) < mean_square(theirs)
