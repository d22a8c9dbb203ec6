"""Other weights for an engine that is there, over the stand-ins of test_engine_stage."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest

from runtime.bundle import Bundle
from runtime.targets import Precision
from tests.bundles import reweigh, rewrite
from tests.stand_ins.commands import NEWEST, build, built, read_record, run_python
from tests.stand_ins.libraries import BINDINGS

SAME = """
import sys
import numpy as np
from runtime import Bundle, Upscaler
from runtime.backends import open_backend

bundle, precision = sys.argv[1:3]
array = np.random.default_rng(0).random((1, 3, 48, 64), np.float32)
# The fp32 graph, which half precision is held against, keeps its weights.
with Upscaler.open(bundle, precision=precision, backend="tensorrt", verify="never") as upscaler:
    graph = upscaler.bundle.read(upscaler.variant)
    with open_backend("onnxruntime", graph, precision=precision) as reference:
        print(np.array_equal(upscaler.run(array), reference.run(array)))
"""


@pytest.fixture
def bundle(bundle_copy: Bundle) -> Path:
    return bundle_copy.directory


@pytest.mark.parametrize(
    ("version", "precision"), [*((version, "fp32") for version in BINDINGS), (NEWEST, "fp16"), (NEWEST, "int8")]
)
def test_other_weights_go_into_the_engine_there_is(
    for_tensorrt: Bundle, tmp_path: Path, version: str, precision: Precision
) -> None:
    bundle = Path(shutil.copytree(for_tensorrt.directory, tmp_path / "bundle"))
    options = ("--precision", precision, "--max", "64x80", "--refit")
    built(bundle, *options, version=version)
    name = Path(Bundle.open(bundle).variant(precision, target="tensorrt").file).stem
    for factor in (0.5, 0.25):  # a refitted engine takes others again
        reweigh(bundle, precision, factor)
        before, cache = read_record(bundle, name), (bundle / "engines" / f"timing-{version}-sm87.cache").stat().st_mtime_ns
        printed = built(bundle, *options, version=version, SREDGE_NO_BUILD="1")
        record = read_record(bundle, name)
        variant = Bundle.open(bundle).variant(precision, target="tensorrt")
        assert f"refitted: graph_sha256: {before.key.graph_sha256}, not {variant.sha256}" in printed
        assert "built anew" not in printed
        assert record.key == before.key.model_copy(update={"graph_sha256": variant.sha256})
        assert record.plan != before.plan
        assert [path.name for path in (bundle / "engines").glob("*.plan")] == [record.plan.file]
        assert (bundle / "engines" / f"timing-{version}-sm87.cache").stat().st_mtime_ns == cache
        assert "up to date" in built(bundle, *options, version=version)
        assert _runs_as_onnxruntime_does(bundle, precision, version=version)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"SREDGE_FIXED": "conv2.0.weight"}, "cannot exchange conv2.0.weight"),
        ({"SREDGE_REFIT_FAILS": "1"}, "cannot read the weights: Failed to refit weights"),
    ],
    ids=["a weight that is fixed", "a refit that fails"],
)
def test_an_engine_that_cannot_be_refitted_is_built_anew(bundle: Path, environment: dict[str, str], says: str) -> None:
    options = ("--precision", "fp32", "--max", "64x80", "--refit")
    built(bundle, *options)
    reweigh(bundle, "fp32", 0.5)
    printed = built(bundle, *options, **environment)
    assert f"not refitted: TensorRT {NEWEST} {says}" in printed
    assert "built anew: graph_sha256" in printed
    assert _runs_as_onnxruntime_does(bundle, "fp32")


def test_an_engine_is_refitted_for_weights_alone(bundle: Path) -> None:
    options = ("--precision", "fp32", "--max", "64x80")
    built(bundle, *options)
    reweigh(bundle, "fp32", 0.5)
    assert "refitted:" not in built(bundle, *options)  # it was not built for it
    printed = built(bundle, *options, "--refit")
    assert "built anew: refit: False, not True" in printed
    reweigh(bundle, "fp32", 0.5)
    printed = built(bundle, "--precision", "fp32", "--max", "64x96", "--refit")
    assert "built anew: profile" in printed
    assert "refitted:" not in printed
    rewrite(bundle, "fp32", _without_rectifying)
    printed = built(bundle, "--precision", "fp32", "--max", "64x96", "--refit")
    assert "built anew: structure_sha256" in printed
    assert "refitted:" not in printed


def test_layers_in_another_precision_fail_a_refit_too(bundle: Path) -> None:
    options, name = ("--precision", "fp16", "--max", "64x80", "--refit"), Bundle.open(bundle).manifest.layers[3].name
    built(bundle, *options)
    before = {path.name: path.read_bytes() for path in (bundle / "engines").iterdir()}
    reweigh(bundle, "fp16", 0.5)
    done = build(bundle, *options, SREDGE_FALLBACK=name)
    assert (done.returncode, f"{name}: fp32" in done.stderr) == (1, True), done.stderr
    assert {path.name: path.read_bytes() for path in (bundle / "engines").iterdir()} == before


def _without_rectifying(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Identity"


def _runs_as_onnxruntime_does(bundle: Path, precision: Precision, *, version: str = NEWEST) -> bool:
    done = run_python("-c", SAME, str(bundle), precision, version=version)
    assert done.returncode == 0, done.stderr
    return done.stdout == "True\n"
