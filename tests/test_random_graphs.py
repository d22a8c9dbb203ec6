"""Random networks of the operators that super-resolution networks are made of: imported right, tiled right, quantized right.

SREDGE_RANDOM_GRAPHS=1000 tries as many; each is one seed, and a failure prints the plan that it stands for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from calibration.ranges import Method
from export.foreign import read_foreign
from export.stage import export_foreign
from quantize.options import Effort, Int8Options
from quantize.stage import load_fp32, quantize_bundle
from runtime.backends import open_backend
from runtime.bundle import Bundle
from runtime.errors import UserError
from runtime.targets import TARGETS, Target
from runtime.upscaler import Upscaler
from runtime.verify.faithful import BackendCheck
from tests.random_graphs import FIXED, Plan, build, draw_plan
from tests.random_graphs.body import SCALE
from tests.small_int8 import measured_on

SEEDS = range(int(os.environ.get("SREDGE_RANDOM_GRAPHS", "40")))
_TOLERANCE = 2e-4  # of values up to a few units: other kernels, and constants folded into weights, in float32
_TILE, _PICTURE = 24, (45, 70)  # (H, W), multiples of nothing
_LEAST_PSNR_DB = 20.0  # of int8 against fp32, both as a picture: far below what int8 costs these, far above a wrong graph
Array = NDArray[np.float32]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_network_is_imported_tiled_and_quantized_right(seed: int, tmp_path: Path) -> None:
    plan = draw_plan(seed)
    original = build(plan)
    bundle = import_graph(original, tmp_path)
    check_contract(bundle, plan)
    check_parity(bundle, original, plan)
    check_tiles(bundle, plan)
    target = dynamic_targets()[seed // 3 % len(dynamic_targets())]
    check_int8(bundle, target)


def dynamic_targets() -> tuple[Target, ...]:
    return tuple(target for target in TARGETS if not target.static_shapes)


def import_graph(original: onnx.ModelProto, folder: Path) -> Bundle:
    """As `python -m export theirs.onnx` does it."""
    path = folder / "theirs.onnx"
    onnx.save_model(original, path)
    foreign = read_foreign(path, scale=SCALE, order=None, value_range=None)
    return export_foreign(foreign, path, directory=folder / "bundle")


def check_contract(bundle: Bundle, plan: Plan) -> None:
    """Free, for the multiples that the network itself wants, and global only where it is."""
    manifest = bundle.manifest
    if manifest.contract.static_shape is not None:
        assert plan.may_stay_fixed
        assert manifest.contract.static_shape == FIXED
        return
    assert manifest.contract.multiple_of == plan.multiple
    assert (manifest.halo == "global") == plan.is_global, f"halo {manifest.halo}: {manifest.global_operator}"


def check_parity(bundle: Bundle, original: onnx.ModelProto, plan: Plan) -> None:
    """At three sizes, or the one it takes, the graph gives what the file, with its sizes freed, gives."""
    freed = original if plan.form != "fixed" else build(replace(plan, form="free"))
    static = bundle.manifest.contract.static_shape
    with (
        open_backend("onnxruntime", freed.SerializeToString(), precision="fp32") as theirs,
        open_backend("onnxruntime", bundle.read(bundle.variant("fp32")), precision="fp32") as ours,
    ):
        for height, width in sizes_for(plan.multiple) if static is None else (static,):
            array = np.random.default_rng(height).random((1, 3, height, width), np.float32)
            wanted, made = theirs.run(array), ours.run(array)
            assert made.shape == wanted.shape
            assert np.abs(made - wanted).max() <= _TOLERANCE * max(1, np.abs(wanted).max()), f"{height}×{width}"


def sizes_for(multiple: int) -> Sequence[tuple[int, int]]:
    return ((24, 40), (36, 28), (52, 44)) if multiple > 1 else ((23, 41), (36, 28), (17, 50))


def check_tiles(bundle: Bundle, plan: Plan) -> None:
    """Tiles give the whole picture, or say what they lose; of a fixed graph that looks at all of it there are none."""
    picture = np.random.default_rng(0).integers(0, 256, (*_PICTURE, 3), np.uint8)
    if bundle.manifest.contract.static_shape is not None:
        return
    with Upscaler.open(bundle, precision="fp32", backend="onnxruntime", verify="never") as upscaler:
        whole = upscaler(picture)
    with Upscaler.open(bundle, precision="fp32", backend="onnxruntime", verify="never", tile=_TILE) as upscaler:
        tiled = upscaler.upscale(picture)
    assert whole.shape == (_PICTURE[0] * SCALE, _PICTURE[1] * SCALE, 3)
    if plan.is_global:
        assert tiled.seam_error is not None
    else:
        assert np.abs(tiled.pixels.astype(int) - whole).max() <= 1


def check_int8(bundle: Bundle, target: Target) -> None:
    """Quantized for the target, and right on a backend that it names; or refused with the operator's name."""
    crops = [_crop(seed) for seed in range(2)]
    model = load_fp32(bundle)
    checks: list[BackendCheck] = []
    options = Int8Options(target=target, method=Method.PERCENTILE, effort=Effort.FAST)
    refusal = ""
    try:
        bundle = quantize_bundle(bundle, measured_on(model, crops), options, crops=crops, on_checked=checks.extend)
    except UserError as error:
        refusal = str(error)
    if refusal:
        assert target.everything_int8, refusal
        assert any(f" ({node.name})" in refusal for node in model.graph.node), refusal
        return
    assert not checks or any(check.passed for check in checks), (target.name, checks)  # a backend that is refused is passed over
    psnr_db = bundle.variant("int8", target=target.name).psnr_vs_fp32_db
    assert psnr_db is not None
    assert psnr_db >= _LEAST_PSNR_DB, target.name


def _crop(seed: int) -> Array:
    """(1, 3, 32, 48) in [0, 1]: blocks of colour and a little noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.random((1, 3, 4, 6)).repeat(8, 2).repeat(8, 3)
    return (blocks * 0.9 + rng.random(blocks.shape) * 0.1).astype(np.float32)
