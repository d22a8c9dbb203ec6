"""python -m runtime, and the sredge command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime import cli
from runtime.bundle import Bundle, Manifest
from runtime.images import Picture, read_picture, write_picture
from runtime.upscaler import Upscaler


@pytest.fixture
def picture_file(picture: Picture, tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    write_picture(path, picture)
    return path


def _sredge(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).with_name("sredge")
    return subprocess.run([str(script), *arguments], capture_output=True, text=True, check=False, cwd=folder)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_upscale_writes_what_the_upscaler_gives(quantized: Bundle, picture: Picture, picture_file: Path, precision: str) -> None:
    out = picture_file.with_name("out.png")
    cli.main(["upscale", str(picture_file), "-o", str(out), "--bundle", str(quantized.directory), "--precision", precision])
    with Upscaler.open(quantized, precision="int8" if precision == "int8" else "fp32") as upscaler:
        np.testing.assert_array_equal(read_picture(out), upscaler(picture))


def test_upscale_takes_int8_where_there_is_and_says_so(
    quantized: Bundle, exported: Bundle, picture_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for bundle, expected in ((quantized, "int8 on"), (exported, "fp32 on")):
        cli.main(["upscale", str(picture_file), "-o", str(picture_file.with_name("o.png")), "--bundle", str(bundle.directory)])
        said = capsys.readouterr().out
        assert expected in said
        assert "56×40 -> 112×80" in said


def test_upscale_says_when_fp16_ran_as_something_else(
    quantized: Bundle, picture_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(picture_file.with_name("out.png"))
    bundle = str(quantized.directory)
    cli.main(["upscale", str(picture_file), "-o", out, "--bundle", bundle, "--precision", "fp16", "--backend", "onnxruntime"])
    with Upscaler.open(quantized, precision="fp16", backend="onnxruntime") as upscaler:
        verified = upscaler.precision_report.verified
    assert ("not the fp16 asked for" in capsys.readouterr().out) == (not verified)


def test_info_prints_the_manifest_for_a_program(quantized: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["info", str(quantized.directory), "--json"])
    assert Manifest.model_validate(json.loads(capsys.readouterr().out)) == quantized.manifest


def test_info_names_every_graph_for_a_person(quantized: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["info", str(quantized.directory)])
    said = capsys.readouterr().out
    assert all(variant.file in said for variant in quantized.manifest.variants)
    assert "100.0% of MACs int8" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--precision", "int4"], "known: fp32, fp16, bf16, int8"),
        (["--backend", "tpu"], "known: auto"),
        (["--threads", "2000"], "expected 1 to 1024"),
    ],
)
def test_a_mistake_is_one_error_and_leaves_no_file(
    quantized: Bundle, picture_file: Path, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = picture_file.with_name("out.png")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["upscale", str(picture_file), "-o", str(out), "--bundle", str(quantized.directory), *arguments])
    assert stopped.value.code == 2
    assert expected in capsys.readouterr().err
    assert not out.exists()


def test_an_output_without_a_known_suffix_is_refused(
    quantized: Bundle, picture_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["upscale", str(picture_file), "-o", "out.xyz", "--bundle", str(quantized.directory)])
    assert stopped.value.code == 2
    assert "names no picture format" in capsys.readouterr().err


def test_sredge_has_the_packages_commands(quantized: Bundle, tmp_path: Path) -> None:
    for command in ("export", "quantize", "benchmarks", "upscale"):
        done = _sredge(command, "--help", folder=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage" in done.stdout
    assert "lesrcnn x2" in _sredge("info", str(quantized.directory), folder=tmp_path).stdout


def test_sredge_lists_its_commands_when_it_knows_no_such_one(tmp_path: Path) -> None:
    done = _sredge("exprot", folder=tmp_path)
    assert done.returncode == 2
    assert "known: benchmarks, export, info, quantize, train, upscale" in done.stderr


def test_sredge_alone_says_what_there_is(tmp_path: Path) -> None:
    for arguments in ([], ["--help"]):
        done = _sredge(*arguments, folder=tmp_path)
        assert done.returncode == 0
        assert all(name in done.stdout for name in ("export", "quantize", "benchmarks", "upscale", "info"))
