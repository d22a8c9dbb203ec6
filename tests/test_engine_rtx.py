"""`python -m export.engine --for tensorrt-rtx`: real engines by the real builder, which needs no GPU, and what its log says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from calibration.datasets import SAMPLES
from calibration.ranges import DEFAULT_PERCENTILE, Method
from calibration.steps import ignore_step
from export.engine.cli import main
from export.engine.compilers import find_compiler
from export.engine.stage import CompileOptions, compile_engine
from export.graph.pixel_io import add_pixel_io
from quantize.options import Effort, Int8Options
from quantize.stage import quantize_bundle
from quantize.tables import TableRequest, find_table
from runtime.backends import LayerPrecision
from runtime.backends.engines import ShapeProfile
from runtime.bundle import Bundle
from runtime.errors import PipelineError
from runtime.targets import Precision, find_target
from runtime.verify.precision import verify_precision
from tests.rtx import CAPABILITIES, FIXED, RANGE, compiled, needs_rtx
from tests.stand_ins.libraries import ROOT

pytestmark = needs_rtx
RTX = find_compiler("tensorrt-rtx")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")


@pytest.fixture(scope="module")
def for_rtx(exported_small: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small network, quantized for TensorRT for RTX; not to be written to."""
    directory = tmp_path_factory.mktemp("for_rtx") / "small"
    bundle = Bundle.open(Path(shutil.copytree(exported_small.directory, directory)))
    request = TableRequest(calib=SAMPLES, root=None, percentile=DEFAULT_PERCENTILE, crops=2, crop_size=(32, 32))
    table = find_table(bundle, request, on_step=ignore_step).table
    options = Int8Options(target=find_target("tensorrt-rtx"), method=Method.PERCENTILE, effort=Effort.FAST)
    return quantize_bundle(bundle, table, options)


@pytest.fixture
def copied(for_rtx: Bundle, tmp_path: Path) -> Bundle:
    """A copy of `for_rtx` that engines may be written to."""
    return Bundle.open(Path(shutil.copytree(for_rtx.directory, tmp_path / "bundle")))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("profile", [FIXED, RANGE], ids=["one size", "sizes"])
def test_every_layer_is_compiled_as_its_graph_has_it(for_rtx: Bundle, precision: Precision, profile: ShapeProfile) -> None:
    made = compiled(for_rtx, precision, profile=profile)
    account = [LayerPrecision(layer.name, layer.op, layer.precision) for layer in made.layers]
    report = verify_precision(for_rtx.manifest, for_rtx.variant(precision, target="tensorrt-rtx"), account)
    assert report.verified, report.not_as_asked
    assert report.mac_share == {precision: 1.0}
    assert {layer.unit for layer in made.layers} == {"GPU"}
    assert len(made.plan) > 10_000


@pytest.mark.parametrize("precision", PRECISIONS)
def test_graphs_of_raw_pixels_are_built_too(for_rtx: Bundle, copied: Bundle, precision: Precision) -> None:
    variant = for_rtx.variant(precision, target="tensorrt-rtx")
    raw = add_pixel_io(copied, variant)
    made = compiled(raw, precision, profile=RANGE, io="uint8")
    account = [LayerPrecision(layer.name, layer.op, layer.precision) for layer in made.layers]
    assert verify_precision(raw.manifest, raw.variant(precision, target="tensorrt-rtx", io="uint8"), account).verified


def test_capability_75_alone_or_among_others_runs_int8_in_half_and_the_build_fails_naming_the_layers(copied: Bundle) -> None:
    names = copied.variant("int8", target="tensorrt-rtx").int8_layers
    for architectures in (("75",), ("75", "89")):
        options = CompileOptions(architectures=architectures, profile=FIXED)
        with pytest.raises(PipelineError) as failed:
            compile_engine(copied, RTX, "int8", options, on_step=ignore_step)
        assert all(f"{name}: fp16" in str(failed.value) for name in names)
    assert not list((copied.directory / "engines").rglob("*.plan"))


def test_one_plan_serves_several_capabilities_and_more_of_them_are_in_its_key(copied: Bundle) -> None:
    first, more = (
        compile_engine(copied, RTX, "fp16", CompileOptions(architectures=names, profile=FIXED), on_step=ignore_step)
        for names in (("89",), CAPABILITIES)
    )
    assert more.differences == (f"architectures: ('89',), not {CAPABILITIES}",)
    assert more.record.key.architectures == CAPABILITIES
    assert len(list(first.path.parent.glob("*.plan"))) == 1


def test_the_command_says_what_was_built_and_does_not_build_it_twice(copied: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        str(copied.directory),
        "--for",
        "tensorrt-rtx",
        "--precision",
        "fp16",
        "--window",
        "16x16",
        "--compute-capability",
        "89",
    ]
    for said in ("no GPU ran this engine", "up to date"):
        main(command)
        assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--architecture", "90"), "unknown architecture of tensorrt-rtx '90'; known: 75, 80, 86, 89, 120, 121"),
        (("--precision", "bf16", "--architecture", "75"), "built no bf16 engine: "),
        (("--workspace", "64"), "--workspace"),
    ],
    ids=["no such capability", "no bfloat16 there", "an option of TensorRT's"],
)
def test_what_cannot_be_built_is_one_error_and_nothing_is_written(
    copied: Bundle, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], says: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(copied.directory), "--for", "tensorrt-rtx", "--window", "16x16", *options])
    assert ended.value.code in (1, 2)
    assert says in capsys.readouterr().err
    assert not list(copied.directory.rglob("*.plan"))


def test_the_library_is_found_without_its_folder_on_the_loaders_path_and_without_importing_the_plugin() -> None:
    code = """
import os, sys
os.environ.pop("LD_LIBRARY_PATH", None)
from runtime.backends.tensorrt_rtx_library import load_tensorrt_rtx
print(load_tensorrt_rtx().__version__, "onnxruntime_ep_nv_tensorrt_rtx" in sys.modules, os.environ.get("LD_LIBRARY_PATH"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1:] == ["False", "None"]
