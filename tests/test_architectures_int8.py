"""Every architecture in int8: for openvino within what is promised, for one more target right on its backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import onnxruntime_quantizer
from calibration.datasets import SAMPLES
from calibration.ranges import DEFAULT_PERCENTILE, Method
from calibration.steps import ignore_step
from export.foreign import read_foreign
from export.models import Network
from export.stage import export_foreign
from quantize.options import Effort, Int8Options
from quantize.stage import quantize_bundle
from quantize.tables import FoundTable, TableRequest, find_table
from runtime.backends import choose_backend
from runtime.bundle import Bundle
from runtime.targets import TARGETS, Target, find_target
from runtime.verify.faithful import BackendCheck
from runtime.verify.overflow import overflows
from tests.architectures import ARCHITECTURES
from tests.architectures.exporters import find_exporter, write_onnx
from tests.architectures.measure import fp32_scores_db, load_scenes, scores_db
from tests.architectures.weights import scale_of
from tests.processor import EXACT_BACKEND

_MOST_LOST_DB = 0.1
_LEAST_SHARE = 0.98
_CROPS, _CROP_SIZE = 6, (64, 64)
_OTHERS = tuple(target for target in TARGETS if target.name != "openvino" and not (target.static_shapes or target.everything_int8))

_NOT_YET = {
    "rfdn": "loses 0.12 dB at effort fast, 0.104 at balanced",
    "fsrcnn": "loses 0.20 dB at effort fast, 0.19 at balanced: the rounding of six narrow tensors, each a part of it",
}


def _networks() -> Iterator[object]:
    for network in ARCHITECTURES:
        marks = [pytest.mark.xfail(reason=_NOT_YET[network.name])] if network.name in _NOT_YET else []
        yield pytest.param(network, id=network.name, marks=marks)


@pytest.mark.parametrize("network", [*_networks()])
def test_int8_keeps_what_is_promised(network: Network, tmp_path: Path) -> None:
    bundle = _import(network, tmp_path)
    found = _calibrate(bundle)
    theirs = onnxruntime_quantizer.quantize(bundle.path(bundle.variant("fp32")), found.crops)
    bundle = _quantize(bundle, found, find_target("openvino"))
    int8 = bundle.variant("int8", target="openvino")
    assert bundle.manifest.int8_mac_share(int8) >= _LEAST_SHARE
    scenes = load_scenes(None, scale=scale_of(network))
    fp32_db = float(np.mean(fp32_scores_db(bundle, scenes)))
    ours_db = float(np.mean(scores_db(bundle.manifest, bundle.read(int8), EXACT_BACKEND, "int8", scenes)))
    theirs_db = float(np.mean(scores_db(bundle.manifest, theirs, "onnxruntime", "int8", scenes)))
    assert fp32_db - ours_db <= min(_MOST_LOST_DB, fp32_db - theirs_db), (fp32_db, ours_db, theirs_db)
    other = _OTHERS[ARCHITECTURES.index(network) % len(_OTHERS)]
    _quantize(bundle, found, other)


def _import(network: Network, folder: Path) -> Bundle:
    path = folder / "theirs.onnx"
    write_onnx(network, find_exporter("legacy"), path)
    foreign = read_foreign(path, scale=scale_of(network), order=None, value_range=None)
    return export_foreign(foreign, path, directory=folder / "bundle")


def _calibrate(bundle: Bundle) -> FoundTable:
    request = TableRequest(calib=SAMPLES, root=None, percentile=DEFAULT_PERCENTILE, crops=_CROPS, crop_size=_CROP_SIZE)
    return find_table(bundle, request, on_step=ignore_step)


def _quantize(bundle: Bundle, found: FoundTable, target: Target) -> Bundle:
    """At the least effort, and right on every backend that the target names."""
    checks: list[BackendCheck] = []
    options = Int8Options(target=target, method=Method.PERCENTILE, effort=Effort.FAST)
    bundle = quantize_bundle(bundle, found.table, options, crops=found.crops, on_checked=checks.extend)
    exact = [check for check in checks if not overflows(choose_backend(check.backend), target, "int8")]
    assert exact
    assert all(check.passed for check in exact), checks
    return bundle
