"""python -m export: what it prints, what it exits with, and that a mistake costs two lines and not a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import export.cli
from export.stage import FP32_FILE
from runtime.bundle import MANIFEST, Bundle

ROOT = Path(__file__).resolve().parents[1]


def _exit_code(*arguments: str) -> int:
    """What a shell would see."""
    try:
        export.cli.main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture(scope="module")
def exported_by_command(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The bundle of `python -m export lesrcnn --scale 2`, started elsewhere with another hash seed; its stdout and stderr."""
    folder = tmp_path_factory.mktemp("elsewhere")
    done = subprocess.run(
        [sys.executable, "-m", "export", "lesrcnn", "--scale", "2"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    return folder / "build" / "lesrcnn_x2", done.stdout, done.stderr


commanded = pytest.mark.xdist_group("export_command")


@commanded
def test_the_command_makes_the_bundle_under_build(exported_by_command: tuple[Path, str, str]) -> None:
    directory, _, _ = exported_by_command
    assert Bundle.open(directory).manifest.model == "lesrcnn"


@commanded
def test_the_command_prints_what_it_did_and_no_progress_into_a_pipe(exported_by_command: tuple[Path, str, str]) -> None:
    _, printed, complaints = exported_by_command
    assert printed.startswith("build/lesrcnn_x2: exported lesrcnn x2\n")
    assert "GMAC" in printed
    assert "parity" in printed
    assert complaints == ""


@commanded
def test_another_process_gives_the_same_bytes(exported_by_command: tuple[Path, str, str], exported: Bundle) -> None:
    directory, _, _ = exported_by_command
    for name in (FP32_FILE, MANIFEST):
        assert (directory / name).read_bytes() == (exported.directory / name).read_bytes(), name


def test_an_export_done_already_says_up_to_date_and_touches_nothing(
    bundle_copy: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in bundle_copy.directory.iterdir()}
    assert _exit_code("lesrcnn", "--scale", "2", "--out", str(bundle_copy.directory)) == 0
    assert capsys.readouterr().out == f"{bundle_copy.directory}: up to date\n"
    assert {path: path.stat().st_mtime_ns for path in bundle_copy.directory.iterdir()} == before


@pytest.mark.parametrize("name", ["[old]", ":warning:", "a folder", "x" * 150])
def test_a_folder_is_printed_as_it_is_named(bundle_copy: Bundle, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    directory = bundle_copy.directory.rename(bundle_copy.directory.with_name(name))
    assert _exit_code("lesrcnn", "--scale", "2", "--out", str(directory)) == 0
    assert capsys.readouterr().out == f"{directory}: up to date\n"


def test_a_real_scale_and_a_picture_size_fix_the_shape_of_what_the_network_is_given(
    enlarged_before: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = enlarged_before.directory.parent / "weights.pth"
    assert _exit_code("srcnn", "--scale", "1.5", "--weights", str(weights), "--static", "15x20") == 0
    manifest = Bundle.open(Path("build/srcnn_x1.5")).manifest
    assert (manifest.scale, manifest.contract.static_shape) == (1.5, (22, 30))
    assert manifest.contract.static_picture_size(scale=1.5) == (15, 20)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("abacus", "--scale", "2"), "unknown network 'abacus'; known: lesrcnn"),
        (("lesrcnn", "--scale", "7"), "lesrcnn has no scale 7; it has: 2, 3, 4"),
        (("lesrcnn", "--scale", "2.5"), "lesrcnn has no scale 2.5; it has: 2, 3, 4"),
        (("srcnn", "--scale", "1"), "srcnn has no scale 1; it has: any above 1"),
        (("lesrcnn", "--scale", "2", "--opset", "10"), "opset 10 is not supported; from 11 to 26 are"),
        (("lesrcnn", "--scale", "2", "--opset", "27"), "opset 27 is not supported; from 11 to 26 are"),
        (("lesrcnn", "--scale", "2", "--without", "abacus"), "unknown pass to leave out 'abacus'; known: scatter-to-concat"),
        (("lesrcnn", "--scale", "2", "--with", "abacus"), "unknown pass to ask for 'abacus'; known: lower-depth-to-space"),
        (("lesrcnn", "--scale", "2", "--static", "128"), "--static 128: expected HEIGHTxWIDTH"),
        (("lesrcnn", "--scale", "2", "--static", "0x128"), "--static 0x128: expected HEIGHTxWIDTH"),
        (("lesrcnn", "--scale", "2", "--static", "12x-8"), "--static 12x-8: expected HEIGHTxWIDTH"),
        (("lesrcnn", "--scale", "2", "--static", "[red]x[/blue]"), "--static [red]x[/blue]: expected HEIGHTxWIDTH"),
        (("lesrcnn", "--scale", "2", "--weights", "nowhere.pth"), "--weights nowhere.pth: there is no such file"),
        (("lesrcnn", "--scale", "2", "--weights", MANIFEST), "is not a checkpoint"),
        (("srgan", "--scale", "4"), "no weights for srgan x4 ship with sredge"),
        (("espcn", "--scale", "2", "--weights", "shipped"), "espcn has no scale 2; it has: 3"),
        (("espcn", "--scale", "3", "--out", MANIFEST, "--force"), f"{MANIFEST} is a file; this needs a bundle that is a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_costs_an_error_a_hint_and_exit_code_2(
    bundle_copy: Bundle,
    arguments: tuple[str, ...],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(bundle_copy.directory)
    assert _exit_code(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    error, *hint = captured.err.splitlines()
    assert error.startswith("error: ")
    assert expected in error
    assert [line[:7] for line in hint] == [" hint: "], f"expected one line of hint, got {hint}"


def test_a_mistake_in_a_process_shows_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_text("dear diary")
    done = subprocess.run(
        [sys.executable, "-m", "export", "lesrcnn", "--scale", "2", "--weights", str(tmp_path / "weights.pth")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_weights_that_give_no_numbers_fail_the_pipeline_and_not_the_user(
    bundle_copy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("export.parity.TOLERANCE", -1.0)  # no graph is that close
    assert _exit_code("espcn", "--scale", "3", "--out", str(bundle_copy.directory), "--force") == 1
    assert "differs from the network" in capsys.readouterr().err
    assert Bundle.open(bundle_copy.directory) == bundle_copy


def test_an_interrupted_export_says_so_and_exits_as_shells_expect(tmp_path: Path) -> None:
    program = (
        "import signal, export.cli\n"
        "export.cli.export_network = lambda *_, **__: signal.raise_signal(signal.SIGINT)\n"
        f"export.cli.main(['lesrcnn', '--scale', '2', '--out', {str(tmp_path / 'bundle')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "nothing half-written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_bug_shows_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("export.cli.export_network", fail)
    with pytest.raises(ZeroDivisionError):
        export.cli.main(["lesrcnn", "--scale", "2", "--out", str(tmp_path / "bundle")])
