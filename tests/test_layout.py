"""The house's own rules: who may import whom, and what the documents promise of the code."""

from __future__ import annotations

import ast
import json
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.bundle import Bundle, manifest_schema
from tests.commands import imported_module

ROOT = Path(__file__).resolve().parents[1]
# ARCHITECTURE: runtime <- calibration <- quantize; runtime <- export; benchmarks may import all of them.
# export.graph is the torch-free home of what every package shares that edits ONNX graphs.
ALLOWED = {
    "runtime": set[str](),
    "calibration": {"runtime", "export.graph"},
    "quantize": {"runtime", "calibration", "export.graph"},
    "export": {"runtime"},
    "benchmarks": {"runtime", "calibration", "quantize", "export"},
}
# Heavy packages, and the modules that own them (a folder owns all below it).
OWNERS = {
    "torch": {"export", "quantize/reconstruct", "benchmarks/peers/scripts"},  # the scripts run in environments of their own
    "openvino": {"runtime/backends/openvino.py", "benchmarks/peers/scripts"},
    "ncnn": {"runtime/backends/ncnn"},
    "tensorrt": {"runtime/backends/tensorrt.py", "export/engine"},
    "tensorrt_rtx_bindings": {"runtime/backends/tensorrt_rtx_library.py"},
    "onnxruntime_ep_nv_tensorrt_rtx": set[str](),  # it links files in its folder: onnxruntime_rtx.py imports it by name, to run
    "pycuda": {"runtime/backends/gpu_engine.py", "runtime/backends/cuda.py"},
    "ai_edge_litert": {"runtime/backends/litert.py", "runtime/backends/litert_layers.py", "export/engine/litert"},
    "flatbuffers": {"export/engine/litert"},
    "onnxruntime_qnn": {"runtime/backends/qnn_library.py"},
    "onnx": {"export", "calibration", "quantize", "benchmarks/peers/scripts"},
}


def _imports(path: Path) -> Iterator[str]:
    """Yield the absolute name of each module that `path` imports; runtime/ alone imports its own modules relatively."""
    own = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert (node.level > 0) <= (own[0] == "runtime"), f"{path}: imports are absolute outside runtime/"
            yield imported_module(node, path)


def _is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_those_the_architecture_allows(package: str) -> None:
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in _modules(package)
        for name in _imports(path)
        if name.partition(".")[0] in ALLOWED and not any(_is_within(name, one) for one in (package, *ALLOWED[package]))
    }
    assert not wrong


@pytest.mark.parametrize("library", OWNERS)
def test_a_heavy_library_is_imported_only_by_its_owners(library: str) -> None:
    wrong = {
        str(path.relative_to(ROOT))
        for package in ALLOWED
        for path in _modules(package)
        if any(_is_within(name, library) for name in _imports(path))
        and not any(path.is_relative_to(ROOT / owner) for owner in OWNERS[library])
    }
    assert not wrong


def test_the_shared_graph_room_imports_neither_torch_nor_the_rest_of_export() -> None:
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in _modules("export/graph")
        for name in _imports(path)
        if _is_within(name, "torch") or (_is_within(name, "export") and not _is_within(name, "export.graph"))
    }
    assert not wrong


@pytest.mark.parametrize("package", ALLOWED)
def test_no_two_rooms_of_a_package_import_each_other(package: str) -> None:
    """A folder and a room inside it may import each other (its errors, its options); two rooms beside each other may not."""
    folders = {path.parent for path in _modules(package)}
    edges = {
        (path.parent, room)
        for path in _modules(package)
        for name in _imports(path)
        for room in ((ROOT / name.replace(".", "/")), (ROOT / name.replace(".", "/")).parent)
        if room in folders and room != path.parent
    }
    mutual = {frozenset((one, other)) for one, other in edges if (other, one) in edges}
    assert not [pair for pair in mutual if not any(one in other.parents for one in pair for other in pair)]


# What marks a formula that is written once, and the modules that may have it.
ONCE = {
    "65.481": {"runtime/quality.py"},  # luma
    # PSNR; a ratio of powers, which is no PSNR; a number's digits; PSNR in an environment that has nothing of sredge
    "log10(": {
        "runtime/quality.py",
        "quantize/explain/sensitivity.py",
        "runtime/terminal/figures.py",
        "benchmarks/peers/scripts/quantize_nncf.py",
    },
}


@pytest.mark.parametrize("mark", ONCE)
def test_a_formula_that_every_measurement_shares_is_written_once(mark: str) -> None:
    paths = [path for package in ALLOWED for path in _modules(package)]
    assert {str(path.relative_to(ROOT)) for path in paths if mark in _without_docstrings(path)} == ONCE[mark]


def _without_docstrings(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def test_no_python_file_is_an_empty_shell() -> None:
    empty = [
        str(path.relative_to(ROOT))
        for package in ALLOWED
        for path in _modules(package)
        if not path.read_text(encoding="utf-8").strip() and path.name != "__init__.py"
    ]
    assert not empty


def test_the_published_schema_is_the_manifests_own() -> None:
    published = json.loads((ROOT / "deploy_docs" / "manifest.schema.json").read_text(encoding="utf-8"))
    assert published == manifest_schema(), "run: make schema"


def test_a_manifest_on_disk_has_the_fields_of_the_published_schema(quantized: Bundle) -> None:
    written = json.loads((quantized.directory / "manifest.json").read_text(encoding="utf-8"))
    schema = manifest_schema()
    assert written.keys() == dict.fromkeys(schema["properties"]).keys()  # type: ignore[call-overload] # JSON
    assert set(schema["required"]) <= written.keys()  # type: ignore[call-overload] # JSON


def test_the_base_install_needs_no_package_that_only_a_workstation_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = " ".join(project["dependencies"])
    assert not [name for name in ("torch", "onnx>", "onnx-ir", "scipy", "scikit-image", "openvino", "ncnn") if name in base]


@pytest.mark.parametrize(
    "extra",
    [
        "export",
        "quantize",
        "benchmarks",
        "ncnn",
        "tensorrt",
        "tensorrt-rtx",
        "litert",
        "ethos-u",
        "qnn",
        "serve",
        "dev",
        "docs",
        "all",
    ],
)
def test_every_promised_extra_is_there(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"][extra]


def test_nothing_is_added_to_the_top_level() -> None:
    allowed = {*ALLOWED, "tests", "deploy_docs", "build", "dist", "Makefile", "constraints.txt", "pyproject.toml"}
    allowed |= {"README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {path.partition("/")[0] for path in tracked.splitlines() if not path.startswith(".")} - allowed
