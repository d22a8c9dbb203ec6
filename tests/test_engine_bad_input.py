"""What keeps an engine from being compiled ahead of time is one error, and what was in the bundle stays as it was: per compiler."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import export.engine.ahead
import export.engine.compilers
import runtime.backends.tensorrt_rtx_library as rtx_library
from calibration.ranges import Method
from export.engine.cli import main
from export.engine.compilers import COMPILERS, CompilerEntry, find_compiler
from export.engine.stage import find_graph
from quantize.options import Effort, Int8Options
from quantize.stage import load_fp32, quantize_bundle
from runtime.backends.compiled_engines import record_path
from runtime.bundle import ENGINES, Bundle, Manifest, sha256_bytes, write_bundle
from runtime.errors import BackendError, PipelineError
from runtime.targets import find_target
from tests.rtx import needs_rtx
from tests.small_int8 import measured_on
from tests.stand_ins.libraries import ROOT

AHEAD = [entry for entry in COMPILERS if not entry.on_this_machine]
SIZE = ("--window", "16x16")
LARGEST_FILE = 2048  # bytes; every plan and every .tflite file of the network here is larger
OTHERS = {"model.json": b"one of TensorRT's", "some-compiler/model.json": b"one of another compiler's"}
OPERATOR = "Det"  # none of them has determinants
# In a process of its own: a signal to a test's would end whatever the compiler's threads leave of it.
INTERRUPTED = """
import os, signal, sys
from export.engine import ahead
from export.engine.cli import main
compile_engine, sent = ahead.compile_engine, []
def interrupt(*_):
    if not sent:
        sent.append(os.kill(os.getpid(), signal.SIGINT))
ahead.compile_engine = lambda *arguments, on_step: compile_engine(*arguments, on_step=interrupt)
main(sys.argv[1:])
"""


@pytest.fixture(params=AHEAD, ids=lambda entry: entry.name)
def entry(request: pytest.FixtureRequest) -> CompilerEntry:
    found: CompilerEntry = request.param
    if found.missing:
        pytest.skip(found.install)
    return found


@pytest.fixture(scope="module")
def for_all(exported_small: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """`exported_small` with an int8 graph for every compiler; not to be written to."""
    directory = tmp_path_factory.mktemp("for_all") / "small"
    bundle = Bundle.open(Path(shutil.copytree(exported_small.directory, directory)))
    crops = [np.random.default_rng(3).random((1, 3, 32, 32), np.float32)]
    table = measured_on(load_fp32(bundle), crops)
    for name in dict.fromkeys(entry.targets[0] for entry in AHEAD):
        options = Int8Options(target=find_target(name), method=Method.MINMAX, effort=Effort.FAST)
        bundle = quantize_bundle(bundle, table, options, crops=crops)
    return bundle


@pytest.fixture
def bundle(for_all: Bundle, tmp_path: Path) -> Bundle:
    """A copy of `for_all`, with engines of other kinds in it."""
    copied = Path(shutil.copytree(for_all.directory, tmp_path / "bundle"))
    for name, content in OTHERS.items():
        path = copied / ENGINES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Bundle.open(copied)


Refuse = Callable[..., str]


@pytest.fixture
def refuse(bundle: Bundle, entry: CompilerEntry, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Types `python -m export.engine … --for COMPILER`, which is to fail and to change nothing; gives what it says."""

    def type_in(*options: str, codes: tuple[int, ...] = (1, 2), directory: Path = bundle.directory) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(directory), "--for", entry.name, "--precision", "int8", *SIZE, *options])
        said = capsys.readouterr().err
        assert ended.value.code in codes, said
        return said

    return type_in


def _engines(bundle: Bundle) -> dict[str, bytes]:
    """Every file under engines/ by its name there; a folder that is empty is a failure."""
    root = bundle.directory / ENGINES
    assert not [path for path in root.rglob("*") if path.is_dir() and not any(path.iterdir())]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _one_error(said: str) -> bool:
    return (
        said.count("error: ") == 1 and said.splitlines()[-2].startswith("error: ") and said.splitlines()[-1].startswith(" hint: ")
    )


def test_a_compiler_that_is_missing_says_how_to_get_it(
    refuse: Refuse, entry: CompilerEntry, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.engine.compilers, "COMPILERS", (replace(entry, packages=("no_such_package",)),))
    said = refuse()
    assert f"the compiler of {entry.name!r} is not installed: no_such_package cannot be found" in said
    assert said.endswith(f" hint: {entry.install}\n")
    assert _engines(bundle) == OTHERS


def test_an_architecture_that_does_not_exist_is_named(refuse: Refuse, bundle: Bundle) -> None:
    assert "z80" in refuse("--architecture", "z80")
    assert _engines(bundle) == OTHERS


def test_an_operator_that_the_compiler_has_not_is_named_with_its_node(
    refuse: Refuse, entry: CompilerEntry, bundle: Bundle, tmp_path: Path
) -> None:
    odd = _with_operator(bundle, entry, tmp_path / "odd")
    said = refuse(directory=odd.directory)
    assert f"{OPERATOR} (tail/odd)" in said
    assert _one_error(said)
    assert not (odd.directory / ENGINES).exists()


def test_ctrl_c_half_way_leaves_nothing(entry: CompilerEntry, bundle: Bundle) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(bundle.directory), "--for", entry.name, "--precision", "int8", *SIZE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "stopped; nothing half-written is in use\n")
    assert _engines(bundle) == OTHERS


def test_a_full_disk_is_one_error(entry: CompilerEntry, bundle: Bundle) -> None:
    command = [sys.executable, "-m", "export.engine", str(bundle.directory), "--for", entry.name, "--precision", "int8", *SIZE]
    done = subprocess.run(command, preexec_fn=_limit_files, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2), done.stderr
    assert _one_error(done.stderr), done.stderr
    assert "File too large" in done.stderr
    assert "free some space" in done.stderr
    assert _engines(bundle) == OTHERS


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_compiled(
    refuse: Refuse, entry: CompilerEntry, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bundle.directory / ENGINES / entry.name
    folder.mkdir()
    monkeypatch.setattr(CompilerEntry, "load", None)  # never reached
    with _read_only(folder):
        said = refuse()
    assert f"cannot write the bundle {folder}: " in said
    assert _one_error(said)
    folder.rmdir()
    assert _engines(bundle) == OTHERS


def test_a_plan_whose_record_cannot_be_written_is_not_left_behind(refuse: Refuse, entry: CompilerEntry, bundle: Bundle) -> None:
    record = record_path(bundle.directory / ENGINES, entry.name, find_graph(bundle, entry, "int8", io="float32").file)
    (record / "in the way").mkdir(parents=True)
    said = refuse()
    assert f"cannot write {record}: " in said
    assert _one_error(said)
    shutil.rmtree(record)
    record.parent.rmdir()  # which holds nothing else
    assert _engines(bundle) == OTHERS


@needs_rtx
@pytest.mark.parametrize(
    ("oldest", "libraries", "says"),
    [((99, 0, 0), None, "is too old, expected 99.0.0 or later"), ((1, 7, 1), "1.6.1", "is of another version")],
    ids=["too old", "not of one version"],
)
def test_a_tensorrt_for_rtx_that_does_not_fit_says_which_does(
    oldest: tuple[int, ...], libraries: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtx_library, "_OLDEST", oldest)
    if libraries is not None:
        for real in rtx_library.find_folder().glob("libtensorrt_*.so.?.?.?"):
            (tmp_path / real.name).with_suffix("").with_suffix("").with_suffix(f".{libraries}").symlink_to(real)
        monkeypatch.setattr(rtx_library, "find_folder", lambda: tmp_path)
    with pytest.raises(BackendError, match=says) as refused:
        rtx_library.load_tensorrt_rtx.__wrapped__()
    assert "tensorrt-rtx-cu13-bindings==1.7.1.116" in refused.value.hint


@pytest.mark.skipif(bool(find_compiler("ethos-u").missing), reason="pip install 'sredge[ethos-u]'")
@pytest.mark.parametrize(
    ("writes", "says"),
    [
        (
            "made.mkdir(); (made / 'n.tflite').touch(); (made / 'n_summary_x.csv').write_text('cycles\\n1\\n')",
            "gives other figures",
        ),
        ("sys.exit('no such accelerator')", "does not compile .*: no such accelerator"),
    ],
    ids=["other figures", "no such accelerator"],
)
def test_another_vela_is_one_error_that_names_the_version_which_works(
    writes: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export.engine.ethos_u.vela import run_vela

    (tmp_path / "ethosu").mkdir()
    (tmp_path / "ethosu" / "vela.py").write_text(f"import pathlib, sys\nmade = pathlib.Path(sys.argv[-1])\n{writes}\n")
    (tmp_path / "ethosu" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(PipelineError, match=says) as refused:
        run_vela(b"", "ethos-u55-128", name="a graph")
    assert "ethos-u-vela==5.2.0" in refused.value.hint


def _with_operator(bundle: Bundle, entry: CompilerEntry, directory: Path) -> Bundle:
    """A bundle whose graph for that compiler ends in an operator that it has not."""
    variant = find_graph(bundle, entry, "int8", io="float32")
    model = onnx.load_model_from_string(bundle.read(variant))
    end = model.graph.output[0].name
    last = next(node for node in model.graph.node if end in node.output)
    last.output[list(last.output).index(end)] = "before"
    model.graph.node.append(onnx.helper.make_node(OPERATOR, ["before"], [end], name="tail/odd"))
    data = model.SerializeToString()
    changed = bundle.manifest.model_dump_json().replace(variant.sha256, sha256_bytes(data))
    files = {part.file: bundle.path(part).read_bytes() for part in bundle.manifest.parts} | {variant.file: data}
    return write_bundle(directory, Manifest.model_validate_json(changed), files=files)


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, resource.RLIM_INFINITY))


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    """Nobody may write to the folder: root neither, where the file system has such a mark."""
    forbid, allow = ["chmod", "-w"], ["chmod", "+w"]
    if os.geteuid() == 0:
        forbid, allow = ["chattr", "+i"], ["chattr", "-i"]
    if shutil.which(forbid[0]) is None or subprocess.run([*forbid, folder], capture_output=True, check=False).returncode:
        pytest.skip("root writes to every folder here: the file system has no mark against it")
    try:
        yield
    finally:
        subprocess.run([*allow, folder], check=True)
