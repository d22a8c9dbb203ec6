"""However a command is run, stopped or read, it ends with a sentence and not with a traceback."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from quantize.cli import main as quantize
from runtime.bundle import Bundle
from runtime.images import read_picture, write_picture

_ROOT = Path(__file__).parents[1]
_LOCALES = {
    "Latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
_MODULES = ("runtime", "export", "export.train", "export.engine", "quantize", "benchmarks")
_SUBCOMMANDS = ("runtime upscale", "runtime info", "runtime pack", "quantize explain")
_PROGRAMS = ("benchmarks.int8_loss", "benchmarks.throughput", "benchmarks.calibration_cost")


def _run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, cwd=_ROOT, env={**os.environ, **variables})


@pytest.mark.parametrize("locale", _LOCALES)
def test_every_help_is_printed_in_every_locale(locale: str) -> None:
    helps = "\n".join(f"help_of({command!r})" for command in (*_MODULES, *_SUBCOMMANDS, *_PROGRAMS))
    script = f"""
import importlib, sys
def help_of(command):
    module, *rest = command.split()
    home = importlib.import_module(module if module.startswith("benchmarks.") else module + ".cli")
    try:
        home.main([*rest, "--help"])
    except SystemExit as ended:
        assert not ended.code, command
{helps}
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, check=False, cwd=_ROOT, env={**os.environ, **_LOCALES[locale]})
    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert done.stdout.count(b"Usage:") == len((*_MODULES, *_SUBCOMMANDS, *_PROGRAMS))


@pytest.mark.parametrize("locale", _LOCALES)
def test_results_and_errors_are_printed_in_every_locale(quantized: Bundle, locale: str, tmp_path: Path) -> None:
    name = os.fsdecode("grün–\udcff→".encode("utf-8", "surrogateescape"))
    write_picture(tmp_path / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
    out, bundle = tmp_path / name / f"{name}.png", f"--bundle={quantized.directory}"
    variables = {**_LOCALES[locale], "PYTHONPATH": str(_ROOT)}
    for arguments, code in (
        (("runtime", "info", quantized.directory), 0),
        (("runtime", "upscale", tmp_path / f"{name}.png", "-o", out, bundle), 0),
        (("runtime", "upscale", tmp_path / f"{name}.png", "-o", out, bundle), 2),
    ):
        done = _run(*arguments, **variables)
        assert (done.returncode, b"Traceback" in done.stderr) == (code, False), done.stderr.decode()
        assert done.stdout if code == 0 else b"error: " in done.stderr
    assert read_picture(out).shape == (16, 16, 3)


@pytest.mark.parametrize("command", ["explain", "export"])
def test_tables_are_printed_in_latin_1(small_copy: Bundle, command: str, tmp_path: Path) -> None:
    if command == "export":
        done = _run("export", "espcn", "--scale", 3, "--out", tmp_path / "bundle", "--explain", **_LOCALES["Latin-1"])
    else:
        quick = ["--calib", "samples", "--crops", "1", "--crop-size", "16x16", "--effort", "fast"]
        quantize([str(small_copy.directory), *quick])
        done = _run("quantize", "explain", small_copy.directory, **_LOCALES["Latin-1"])
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr.decode()


def test_a_reader_that_goes_away_gets_no_traceback(quantized: Bundle, tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
    upscale = ("upscale", tmp_path / "a.png", "-o", "-", "--bundle", quantized.directory)
    for arguments in (("info", quantized.directory), ("info", quantized.directory, "--json"), upscale):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "runtime", *map(str, arguments)]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, cwd=_ROOT)
        os.close(writer)
        assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_under_stdout_is_an_error(quantized: Bundle) -> None:
    command = [sys.executable, "-m", "runtime", "info", str(quantized.directory)]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, cwd=_ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: cannot write: No space left on device\n hint: ")


def test_missing_folders_are_made_for_a_packed_bundle_too(quantized: Bundle, tmp_path: Path) -> None:
    assert _run("runtime", "pack", quantized.directory, "-o", tmp_path / "a" / "b" / "it.sredge").returncode == 0
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["it.sredge"]


@pytest.fixture
def upscaling(quantized: Bundle, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run over 40 pictures in many tiles each, of which some are done."""
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    for index in range(40):
        write_picture(tmp_path / "in" / f"{index:02}.png", noise)
    yield from _upscaling(quantized, tmp_path)


def _upscaling(bundle: Bundle, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "runtime", "upscale", str(folder / "in"), "-o", str(folder / "out" / "deep")]
    command += ["--tile", "48", "--bundle", str(bundle.directory)]
    with subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 60
        while len(list((folder / "out").rglob("[0-9]*.png"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        yield running
        running.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_told_to_stop_leaves_whole_files_alone(
    upscaling: subprocess.Popen[bytes], number: signal.Signals, tmp_path: Path
) -> None:
    upscaling.send_signal(number)
    _, said = upscaling.communicate(timeout=60)
    assert (upscaling.returncode, said) == (128 + number, b"stopped; nothing half-written is in use\n")
    _check_whole(tmp_path / "out")


def test_what_a_killed_run_left_goes_with_the_next(upscaling: subprocess.Popen[bytes], quantized: Bundle, tmp_path: Path) -> None:
    while not list((tmp_path / "out" / "deep").glob(".*")):
        time.sleep(0.005)
    upscaling.kill()
    upscaling.communicate(timeout=60)
    assert list((tmp_path / "out" / "deep").glob(".*"))
    again = ("upscale", tmp_path / "in" / "39.png", "-o", tmp_path / "out" / "deep", "--bundle", quantized.directory)
    assert _run("runtime", *again).returncode == 0
    _check_whole(tmp_path / "out")


def _check_whole(folder: Path) -> None:
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    assert 0 < len(written) < 40
    for path in written:
        assert read_picture(path).shape == (240, 320, 3)


@pytest.mark.parametrize("count", [1, 2])
def test_progress_counts_tiles(quantized: Bundle, count: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    for index in range(count):
        write_picture(tmp_path / "in" / f"[{index}].png", noise)
    command = [sys.executable, "-m", "runtime", "upscale", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    command += ["--tile", "50", "--bundle", str(quantized.directory)]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, cwd=_ROOT, stderr=theirs, stdout=subprocess.DEVNULL, env=environment) as running:
        os.close(theirs)
        said = b""
        with suppress(OSError):  # how the other end's closing shows on Linux
            while piece := os.read(ours, 4096):
                said += piece
    os.close(ours)
    assert running.returncode == 0, said
    seen = {(int(done), int(total)) for done, total in re.findall(rb"(\d+)/(\d+)", said)}
    assert len({done for done, total in seen if total == 24 and 0 < done < total}) > 2, seen
    if count > 1:
        assert (count, count) in seen
        assert b"[1].png" in said
