"""python -m runtime, and the sredge command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from sredge.cli import COMMANDS, app

from runtime import cli
from runtime.bundle import Bundle, Manifest
from runtime.images import Picture, read_image, read_picture, write_picture
from runtime.pictures.bicubic import upscale_bicubic
from runtime.pictures.decode import decode
from runtime.terminal import console
from runtime.terminal.commands import Command
from runtime.upscaler import Upscaler


@pytest.fixture
def picture_file(picture: Picture, tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    write_picture(path, picture)
    return path


def _sredge(*arguments: str, folder: Path, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    script, variables = Path(sys.executable).with_name("sredge"), {**os.environ, **(environment or {})}
    return subprocess.run([str(script), *arguments], capture_output=True, text=True, check=False, cwd=folder, env=variables)


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
        out = str(picture_file.with_name("o.png"))
        cli.main(["upscale", str(picture_file), "-o", out, "--bundle", str(bundle.directory), "--overwrite"])
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
    assert all(part.sha256 in said for part in quantized.manifest.parts)
    assert quantized.manifest.checkpoint.sha256 in said
    assert "100.0% of MACs int8" in said
    assert "input   N×3×H×W NCHW, float32 RGB, 0 to 1" in said
    assert "output  N×3×H·2×W·2 NCHW" in said
    assert "halo    13 pixels" in said


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


def test_sredge_runs_the_checkouts_command(quantized: Bundle, tmp_path: Path) -> None:
    assert "lesrcnn x2" in _sredge("info", str(quantized.directory), folder=tmp_path).stdout


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_sredge_has_the_packages_commands(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    console.run(app, [command.name, "--help"], name="sredge")
    said = capsys.readouterr()
    assert (f"Usage: sredge {command.name} " in said.out, said.err) == (True, "")


def test_sredge_lists_its_commands_when_it_knows_no_such_one(tmp_path: Path) -> None:
    done = _sredge("exprot", folder=tmp_path)
    assert done.returncode == 2
    assert f"known: {', '.join(command.name for command in COMMANDS)}\n" in done.stderr


def test_sredge_alone_says_what_there_is(tmp_path: Path) -> None:
    for arguments in ([], ["--help"]):
        done = _sredge(*arguments, folder=tmp_path)
        assert done.returncode == 0
        assert all(f"\n  {command.name} " in done.stdout for command in COMMANDS)


def test_sredge_takes_a_command_beside_another_as_python_does(tmp_path: Path) -> None:
    assert _sredge("export", "list", folder=tmp_path).stdout == _sredge("list", folder=tmp_path).stdout != ""


def test_a_command_of_the_checkout_logs_what_happens_where_it_is_asked_to(
    quantized: Bundle, picture_file: Path, tmp_path: Path
) -> None:
    command = ["upscale", str(picture_file), "--bundle", str(quantized.directory), "--backend", "onnxruntime"]
    quiet = _sredge(*command, "-o", "quiet.png", folder=tmp_path)
    told = _sredge(*command, "-o", "told.png", "--verbose", folder=tmp_path)
    assert quiet.stderr == ""
    assert "opened int8 " in told.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_the_commands(shell: str, tmp_path: Path) -> None:
    asked = {"_SREDGE_COMPLETE": f"complete_{shell}", "COMP_WORDS": "sredge th", "COMP_CWORD": "1"}
    asked |= {
        "_TYPER_COMPLETE_ARGS": "sredge th",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    done = _sredge(folder=tmp_path, environment=asked)
    assert "throughput" in done.stdout, done.stderr


# Many files, folders and pipes


@pytest.fixture
def folder(picture: Picture, tmp_path: Path) -> Path:
    """Three pictures, one of them deep inside, and a file that is none."""
    source = tmp_path / "in"
    (source / "deep" / "er").mkdir(parents=True)
    write_picture(source / "a.png", picture[:20])
    write_picture(source / "b.tiff", picture.astype(np.uint16) * 257)
    write_picture(source / "deep" / "er" / "c.jpg", picture[:, :30])
    (source / "notes.txt").write_text("not a picture")
    return source


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _upscale(bundle: Bundle, *arguments: str | Path) -> None:
    cli.main(["upscale", *(str(argument) for argument in arguments), "--bundle", str(bundle.directory)])


def test_a_folder_is_upscaled_with_its_names_and_folders(
    quantized: Bundle, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _upscale(quantized, folder, "-o", tmp_path / "out")
    assert _files(tmp_path / "out") == {"a.png", "b.tiff", "deep/er/c.jpg"}
    assert read_image(tmp_path / "out" / "b.tiff").pixels.dtype == np.uint16
    said = capsys.readouterr().out
    assert "3 pictures in" in said
    assert "MP/s" in said


def test_what_is_done_is_left_and_overwritten_only_on_request(
    quantized: Bundle, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("mine")
    _upscale(quantized, folder, "-o", tmp_path / "out")
    assert (tmp_path / "out" / "a.png").read_text() == "mine"
    assert "1 left as they are" in capsys.readouterr().out
    _upscale(quantized, folder, "-o", tmp_path / "out", "--overwrite")
    assert read_picture(tmp_path / "out" / "a.png").shape == (40, 112, 3)


def test_one_bad_file_is_reported_at_the_end_and_stops_no_other(
    quantized: Bundle, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:100])
    with pytest.raises(SystemExit) as stopped:
        _upscale(quantized, folder, "-o", tmp_path / "out")
    assert stopped.value.code == 2
    assert _files(tmp_path / "out") == {"b.tiff", "deep/er/c.jpg"}
    said = capsys.readouterr()
    assert f"error: {folder / 'a.png'} is not a picture" in said.err
    assert "1 of 3 pictures failed" in said.err
    assert "2 pictures in" in said.out


def test_several_files_are_written_into_a_folder(quantized: Bundle, folder: Path, tmp_path: Path) -> None:
    _upscale(quantized, folder / "a.png", folder / "b.tiff", "-o", tmp_path / "out")
    assert _files(tmp_path / "out") == {"a.png", "b.tiff"}


def test_one_file_is_not_written_over_without_being_told_to(
    quantized: Bundle, picture_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        _upscale(quantized, picture_file, "-o", picture_file)
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["in", "in/deep/.."])
def test_a_folder_is_not_upscaled_onto_itself(
    quantized: Bundle, folder: Path, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        _upscale(quantized, folder, "-o", folder.parent / out, "--overwrite")
    assert stopped.value.code == 2
    assert "own result" in capsys.readouterr().err


def test_two_files_of_one_name_are_not_written_to_one_place(
    quantized: Bundle, picture: Picture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_picture(tmp_path / name / "a.png", picture)
    with pytest.raises(SystemExit):
        _upscale(quantized, tmp_path / "one", tmp_path / "two", "-o", tmp_path / "out")
    assert "would both become" in capsys.readouterr().err


def test_compare_writes_bicubic_and_the_network_side_by_side(quantized: Bundle, picture: Picture, picture_file: Path) -> None:
    out = picture_file.with_name("out.png")
    _upscale(quantized, picture_file, "-o", out, "--compare", "--tile", "16")
    left, right = np.split(read_picture(out.with_name("out-compare.png")), [116], axis=1)
    assert np.array_equal(right, read_picture(out))
    assert np.array_equal(left[:, :112], upscale_bicubic(picture, (80, 112)))


def test_tiles_asked_for_on_the_command_line_change_nothing(quantized: Bundle, picture_file: Path) -> None:
    _upscale(quantized, picture_file, "-o", picture_file.with_name("whole.png"))
    _upscale(quantized, picture_file, "-o", picture_file.with_name("tiled.png"), "--tile", "16", "--parallel", "2")
    assert np.array_equal(read_picture(picture_file.with_name("tiled.png")), read_picture(picture_file.with_name("whole.png")))


def _piped(bundle: Bundle, data: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "runtime", "upscale", *arguments, "--bundle", str(bundle.directory)]
    return subprocess.run(command, input=data, capture_output=True, check=False, cwd=Path(__file__).parents[1])


def test_stdin_goes_to_stdout_as_a_png_and_nothing_else_does(quantized: Bundle, picture: Picture, picture_file: Path) -> None:
    done = _piped(quantized, picture_file.read_bytes(), "-", "-o", "-")
    assert done.returncode == 0, done.stderr
    with Upscaler.open(quantized) as upscaler:
        np.testing.assert_array_equal(decode(done.stdout, name="stdout").pixels, upscaler(picture))


def test_a_bad_picture_from_stdin_leaves_stdout_empty(quantized: Bundle) -> None:
    done = _piped(quantized, b"dear diary", "-", "-o", "-")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"stdin is not a picture" in done.stderr


def test_ctrl_c_leaves_only_whole_files(quantized: Bundle, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    for index in range(40):
        write_picture(source / f"{index:02}.png", noise)
    command = [sys.executable, "-m", "runtime", "upscale", str(source), "-o", str(out), "--tile", "48", "--parallel", "2"]
    command += ["--bundle", str(quantized.directory)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 60
        while len(list(out.glob("[0-9]*.png"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    written = sorted(path for path in out.rglob("*") if path.is_file())
    assert 0 < len(written) < 40
    for path in written:
        assert read_picture(path).shape == (240, 320, 3)
