"""Fetches NVIDIA's bindings, pycuda and ModelOpt, once, and builds what they load; skips where one of them cannot be had."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from filelock import FileLock

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
_CACHE = ROOT / "build" / "stand_ins"
# JetPack 6's, the last 10 and an 11.
BINDINGS = {
    "10.3.0": "tensorrt-cu12-bindings",
    "10.16.1.11": "tensorrt-cu12-bindings",
    "11.4.0.106": "tensorrt-cu13-bindings",
}
# NVIDIA's own front package does as the first two lines do.
_FRONT = """from tensorrt_bindings import *
from tensorrt_bindings import __version__
import os
if "SREDGE_STAND_IN" in os.environ:
    from tests.stand_ins import tensorrt_api
    tensorrt_api.install()
"""
_PYCUDA = "pycuda==2026.1"
# With what its ONNX part imports beyond the packages of this project, whose versions of onnx and onnxruntime it runs on.
_MODELOPT = ("nvidia-modelopt==0.47.0", "onnx-graphsurgeon==0.6.1", "onnxslim==0.1.98", "lief==1.0.0", "nvidia-ml-py", "tqdm")
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_CUDA = Path("/usr/local/cuda/include")
_DECLARED = re.compile(r"CUresult\s+CUDAAPI\s+(cu\w+)\s*\(|#define\s+(cu\w+)\s+(cu\w+)")


def bindings(version: str, python: str = sys.executable) -> dict[str, str]:
    """The environment of a process of `python` that imports that version's `tensorrt`."""
    folder = _once(f"tensorrt-{version}-{_tag(python)}", lambda made: _make_bindings(made, version, python))
    return {"LD_LIBRARY_PATH": str(folder / "lib"), "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder)))}


def pycuda(python: str = sys.executable) -> dict[str, str]:
    """The environment of a process of `python` that imports pycuda over the stand-in driver; the first time it takes minutes."""
    site = _once(f"pycuda-{_tag(python)}", lambda made: _make_pycuda(made, python))
    return {"LD_LIBRARY_PATH": str(_driver()), "PYTHONPATH": os.pathsep.join((str(ROOT), str(site)))}


def modelopt() -> dict[str, str]:
    """The environment of a process that imports NVIDIA's ModelOpt; 40 MB, which take seconds."""
    site = _once("modelopt-0.47.0", lambda made: _pip(sys.executable, "install", "--no-deps", "--target", made, *_MODELOPT))
    return {"PYTHONPATH": os.pathsep.join((str(ROOT), str(site)))}


def joined(*environments: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with all of those paths."""
    names = ("LD_LIBRARY_PATH", "PYTHONPATH")
    return {**os.environ, **{name: os.pathsep.join(made[name] for made in environments if name in made) for name in names}}


def _driver() -> Path:
    digest = hashlib.sha256((HERE / "driver.c").read_bytes()).hexdigest()
    return _once(f"driver-{digest[:8]}", _make_driver)


def _tag(python: str) -> str:
    code = "import sys; print('cp', *sys.version_info[:2], sep='')"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _once(name: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of that name in the cache, made whole or not at all, by one worker while the others wait."""
    wanted = _CACHE / name
    _CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(_CACHE / f"{name}.lock"):
        if not wanted.is_dir():
            with tempfile.TemporaryDirectory(dir=_CACHE) as scratch:
                made = Path(scratch) / name
                made.mkdir()
                make(made)
                made.rename(wanted)
    return wanted


def _make_bindings(folder: Path, version: str, python: str) -> None:
    _pip(python, "download", "--no-deps", "--only-binary=:all:", "--dest", folder, f"{BINDINGS[version]}=={version}")
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)
    (folder / "tensorrt.py").write_text(_FRONT)
    (folder / "lib").mkdir()
    for library in _LIBRARIES:
        soname = f"lib{library}.so.{version.partition('.')[0]}"
        _compile(HERE / "bindings.c", folder / "lib" / soname, soname=soname)


def _make_driver(folder: Path) -> None:
    source = (HERE / "driver.c").read_text()
    ours = set(re.findall(r"^int (cu\w+)\(", source, re.MULTILINE))
    headers = "".join((_CUDA / name).read_text() for name in ("cuda.h", "cudaProfiler.h") if (_CUDA / name).is_file())
    named = {name for match in _DECLARED.finditer(headers) for name in match.groups() if name} - ours
    (folder / "driver.c").write_text(source + "".join(f"int {name}(void) {{ return 801; }}\n" for name in sorted(named)))
    _compile(folder / "driver.c", folder / "libcuda.so.1", soname="libcuda.so.1")
    (folder / "libcuda.so").symlink_to("libcuda.so.1")


def _make_pycuda(folder: Path, python: str) -> None:
    if not (_CUDA / "cuda.h").is_file() or shutil.which("g++") is None:
        pytest.skip(f"pycuda is built against {_CUDA}/cuda.h with g++, and one of them is not on this machine")
    settings = {
        "USE_SHIPPED_BOOST": True,
        "CUDA_ROOT": str(_CUDA.parent),
        "CUDA_ENABLE_CURAND": False,
        "CUDADRV_LIB_DIR": [str(_driver())],
        "CUDADRV_LIBNAME": ["cuda"],
        "CXXFLAGS": ["-O0", "-w"],
    }
    # Where pycuda's build looks for its settings.
    (folder / ".aksetup-defaults.py").write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    own_settings = os.environ.get("XDG_CONFIG_HOME", str(Path.home() / ".config"))  # pip's stay
    needs = ("pytools", "siphash24", "platformdirs")
    options = ("--no-deps", "--no-binary=pycuda", "--target", folder)
    _pip(python, "install", *options, *needs, _PYCUDA, HOME=str(folder), XDG_CONFIG_HOME=own_settings, CFLAGS="-O0 -w")


def _pip(python: str, *arguments: str | Path, **environment: str) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        pytest.skip(f"pip {arguments[0]} of {arguments[-1]} failed: {last}")


def _compile(source: Path, library: Path, *, soname: str) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", library, source, f"-Wl,-soname,{soname}"], check=True)
