"""The built wheel with its base dependencies alone, in an environment of its own: what it holds, that it upscales, its types."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import runtime
from runtime.bundle import Bundle
from runtime.images import read_picture, write_picture
from runtime.pictures.pixels import Picture
from runtime.upscaler import Upscaler

ROOT = Path(__file__).resolve().parents[1]
APP = """
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sredge import Bundle, SredgeError, Upscaler, read_picture, write_picture


def enlarge(bundle: Path, source: Path, result: Path) -> str:
    with Upscaler.open(bundle, precision="int8", backend="onnxruntime") as upscaler:
        picture: npt.NDArray[np.uint8] = read_picture(source)
        larger: npt.NDArray[np.uint8] = upscaler(picture)
        write_picture(result, larger)
        return f"{upscaler.backend_name}: {upscaler.precision_report}, scale {Bundle.open(bundle).manifest.scale:g}"


try:
    print(enlarge(Path("bundle"), Path("in.png"), Path("out.png")))
except SredgeError as error:
    print(error, error.hint)
"""
MISTAKES = """
from sredge import Upscaler

with Upscaler.open("bundle", precision="int7") as upscaler:
    upscaler("in.png")
"""
# The names that an app may use; a change of this list is a change of the public interface.
PUBLIC = {
    *("Upscaler", "Upscaled", "Bundle", "Manifest", "Variant", "Contract", "read_picture", "write_picture", "__version__"),
    *("SredgeError", "UserError", "PipelineError", "BundleError", "BackendError", "ImageError", "UnknownNameError"),
}


@dataclass(frozen=True)
class Installed:
    """A wheel, and the interpreter of a fresh environment that has it."""

    wheel: Path
    python: Path


def _run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Skips where the package index cannot be reached."""
    folder = tmp_path_factory.mktemp("wheel")
    built = _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    made = _run(sys.executable, "-m", "venv", folder / "env", folder=folder)
    assert made.returncode == 0, made.stderr
    python = folder / "env" / "bin" / "python"
    done = _run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel, folder=folder)
    if done.returncode != 0 and "No matching distribution" in done.stderr and "Failed to establish" in done.stderr:
        pytest.skip("the package index cannot be reached from here")
    assert done.returncode == 0, done.stderr
    return Installed(wheel, python)


@pytest.fixture
def app(quantized: Bundle, picture: Picture, tmp_path: Path) -> Path:
    """An app's folder: a bundle, a picture, a program, and modules that are named as folders of a checkout are."""
    shutil.copytree(quantized.directory, tmp_path / "bundle")
    write_picture(tmp_path / "in.png", picture)
    (tmp_path / "app.py").write_text(APP)
    for name in ("runtime", "export", "quantize", "calibration"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('sredge took a module of the app')\n")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").write_text("raise ImportError('sredge took a module of the app')\n")
    return tmp_path


def test_the_wheel_holds_one_package_and_no_weights(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = wheel.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"sredge"}
    assert "sredge/py.typed" in names
    files = [name for name in names if name.startswith("sredge/")]
    assert {Path(name).suffix for name in files} == {".py", ".typed"}
    assert len(files) == len([*(ROOT / "runtime").rglob("*.py"), "py.typed"])


def test_an_app_that_has_its_own_runtime_module_upscales(
    installed: Installed, app: Path, quantized: Bundle, picture: Picture
) -> None:
    done = _run(installed.python, "app.py", folder=app)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "onnxruntime: int8 100%, scale 2\n")
    with Upscaler.open(quantized, precision="int8", backend="onnxruntime") as upscaler:
        assert np.array_equal(read_picture(app / "out.png"), upscaler(picture))


@pytest.mark.parametrize("program", ["-m", "script"])
def test_the_wheels_commands_upscale_beside_an_apps_own_modules(
    installed: Installed, app: Path, quantized: Bundle, picture: Picture, program: str
) -> None:
    command = [installed.python, "-m", "sredge"] if program == "-m" else [installed.python.with_name("sredge")]
    done = _run(*command, *["upscale", "in.png", "-o", "out.png", "--bundle", "bundle"], folder=app)
    assert done.returncode == 0, done.stderr
    assert "int8 on onnxruntime" in done.stdout
    with Upscaler.open(quantized, backend="onnxruntime") as upscaler:
        assert np.array_equal(read_picture(app / "out.png"), upscaler(picture))


def test_a_command_of_the_workstation_is_refused_with_where_to_find_it(installed: Installed, tmp_path: Path) -> None:
    done = _run(installed.python.with_name("sredge"), "quantize", folder=tmp_path)
    assert done.returncode == 2
    assert "unknown command 'quantize'; known: upscale, info, pack" in done.stderr
    assert "a checkout of the project" in done.stderr


def test_the_version_is_the_wheels(installed: Installed, tmp_path: Path) -> None:
    done = _run(installed.python.with_name("sredge"), "--version", folder=tmp_path)
    assert done.stdout == f"sredge {runtime.__version__}\n"
    assert f"-{runtime.__version__}-" in installed.wheel.name


@pytest.mark.parametrize(
    "checker", [("-m", "mypy", "--strict", "--python-executable"), ("-m", "pyright", "--pythonpath")], ids=["mypy", "pyright"]
)
def test_an_apps_types_are_checked_against_the_wheel(installed: Installed, app: Path, checker: tuple[str, ...]) -> None:
    (app / "mistakes.py").write_text(MISTAKES)
    right, wrong = (_run(sys.executable, *checker, installed.python, name, folder=app) for name in ("app.py", "mistakes.py"))
    assert right.returncode == 0, right.stdout + right.stderr
    found = [line for line in wrong.stdout.splitlines() if "error" in line and "mistakes.py:" in line]
    assert {int(line.partition("mistakes.py:")[2].partition(":")[0]) for line in found} == {4, 5}, wrong.stdout


def test_a_base_install_brings_no_package_of_a_workstation(installed: Installed, tmp_path: Path) -> None:
    listed = _run(installed.python, "-m", "pip", "list", "--format", "freeze", folder=tmp_path).stdout.lower()
    assert "sredge==" in listed
    names = {line.partition("==")[0] for line in listed.splitlines()}
    assert not names & {"torch", "onnx", "onnx-ir", "onnxscript", "scipy", "scikit-image", "openvino", "ncnn", "matplotlib"}


def test_the_public_names_are_those_of_the_list() -> None:
    assert set(runtime.__all__) == PUBLIC
    assert {name for name in PUBLIC if not hasattr(runtime, name)} == set()
    assert not [name for name in PUBLIC - {"__version__"} if not getattr(runtime, name).__doc__]
