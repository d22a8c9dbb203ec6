"""Sixteen-bit activations, eight-bit weights: what is lost is next to nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from calibration.datasets import find_images
from calibration.pairs import load_pair
from calibration.ranges import DEFAULT_PERCENTILE, Method
from export.graph.constants import constant_input
from export.models import find_network
from export.stage import export_network
from export.weights import find_weights
from quantize.cli import main as quantize
from quantize.exact.equalize_weights import equalize_weights, scaled_ranges
from quantize.options import Effort, Int8Options
from quantize.stage import quantize_bundle
from quantize.tables import TableRequest, find_table
from runtime.targets import TARGETS, Target
from runtime.upscaler import Upscaler
from tests.graphs import Graph
from tests.small_int8 import measured_on, values_as_written
from tests.test_quantize_accuracy import luma_psnr_db

WIDE = [target for target in TARGETS if target.has_wide_codes]
_SIDE = 96  # pixels of the pictures


@pytest.mark.parametrize(("name", "scale"), [("espcn", 3)])
@pytest.mark.parametrize("target", WIDE, ids=lambda target: target.name)
def test_next_to_nothing_is_lost(name: str, scale: int, target: Target, tmp_path: Path) -> None:
    network = find_network(name, scale=scale)
    weights = find_weights(network, scale=scale, choice=None)
    bundle = export_network(network, scale=scale, weights=weights, directory=tmp_path / "bundle")
    request = TableRequest(calib="samples", root=None, percentile=DEFAULT_PERCENTILE, crops=8, crop_size=(48, 48))
    found = find_table(bundle, request, on_step=lambda *_: None)
    options = Int8Options(target=target, method=Method.PERCENTILE, effort=Effort.BALANCED)
    bundle = quantize_bundle(bundle, found.table, options, crops=found.crops)
    pairs = [load_pair(pair, scale=scale) for pair in find_images("samples", scale=scale, use="evaluation", root=None).pairs]
    losses = []
    with (
        Upscaler.open(bundle, precision="fp32", backend="onnxruntime") as exact,
        Upscaler.open(bundle, precision="int8", target=target.name, backend="onnxruntime") as quantized,
    ):
        for low, high in pairs:
            low, high = low[:_SIDE, :_SIDE], high[: scale * _SIDE, : scale * _SIDE]
            before, after = (luma_psnr_db(upscaler(low), high, border=scale) for upscaler in (exact, quantized))
            losses.append(before - after)
    assert np.mean(losses) <= 0.005, losses


def test_columns_of_weights_are_equalized_exactly() -> None:
    graph = Graph(0, channels=3)
    spread = np.geomspace(1, 0.05, 8).astype(np.float32).reshape(1, 8, 1, 1)
    inner = graph.add("Relu", graph.conv("input", 8, 3))
    weight = graph.constant(graph.random(12, 8, 3, 3) * spread)
    model = graph.proto(graph.shuffle(graph.conv(inner, 12, 3, weight=weight)))
    crops = [graph.random(1, 3, 16, 24)]
    table = measured_on(model, crops)
    equalized = ir.from_proto(model)

    factors = equalize_weights(equalized.graph, table)

    made = ir.to_proto(equalized)
    before, after = (values_as_written(one, crops, inner)[0] for one in (model, made))
    np.testing.assert_allclose(after[""], before[""], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after[inner], before[inner] * factors[inner].reshape(1, -1, 1, 1), rtol=1e-4, atol=1e-5)
    largest = np.abs(constant_input(list(equalized.graph)[2], 1)).max(axis=(0, 2, 3))
    assert largest.max() / largest.min() < 2  # of weights that were spread over a factor of twenty
    assert scaled_ranges(table, factors)[inner][1] == pytest.approx(float(after[inner].max()), rel=1e-4)


@pytest.mark.parametrize("given", [("--method", "mse"), ("--percentile", "99.9")])
def test_what_clips_is_refused_where_codes_are_plenty(
    given: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        quantize([str(tmp_path), "--calib", "samples", "--target", "npu-a16", *given])
    assert f"{given[0]}" in capsys.readouterr().err
