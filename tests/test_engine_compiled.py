"""Records of engines that were compiled ahead of time, and the list of compilers."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.engine.cli import main
from export.engine.compilers import COMPILERS, find_compiler
from runtime.backends import BACKENDS
from runtime.backends.compiled_engines import (
    CompiledKey,
    EngineLayer,
    find_compiled,
    read_compiled_plan,
    record_path,
    write_compiled,
)
from runtime.backends.engines import EngineKey, ShapeProfile, find_engine, write_engine
from runtime.bundle import Bundle
from runtime.describe import describe
from runtime.errors import BackendError, UnknownNameError, UserError
from runtime.targets import TARGETS

GRAPH, PLAN = "a" * 64, b"a plan"
LAYERS = (EngineLayer(name="conv1", op="Conv", precision="int8", unit="NPU"),)
FOR_GPU = EngineKey(
    graph_sha256=GRAPH,
    precision="int8",
    tensorrt="10.16.1",
    gpu="Orin",
    compute_capability=(8, 7),
    driver="CUDA 12.6",
    profile=ShapeProfile(min=(16, 16), opt=(16, 16), max=(16, 16)),
)


def _key(compiler: str = "some-compiler", *, graph_sha256: str = GRAPH, version: str = "1.0") -> CompiledKey:
    return CompiledKey(graph_sha256=graph_sha256, precision="int8", compiler=compiler, version=version, architectures=("v73",))


def _write(engines: Path, key: CompiledKey, plan: bytes = PLAN) -> None:
    write_compiled(record_path(engines, key.compiler, "model.int8-npu.onnx"), plan, key, suffix=".bin", layers=LAYERS)


def test_an_engine_that_was_written_is_found_again_and_its_plan_is_verified(tmp_path: Path) -> None:
    _write(tmp_path, _key())
    found = find_compiled(tmp_path, "some-compiler", graph_sha256=GRAPH, precision="int8")
    assert (found.key, found.size_bytes, found.layers) == (_key(), len(PLAN), LAYERS)
    assert read_compiled_plan(tmp_path, found) == PLAN
    (tmp_path / "some-compiler" / found.plan.file).write_bytes(b"another")
    with pytest.raises(BackendError, match="sha256 differs"):
        read_compiled_plan(tmp_path, found)


def test_engines_of_other_kinds_stay_where_one_is_written_anew(tmp_path: Path) -> None:
    gpu = write_engine(tmp_path / "model.int8-npu.json", PLAN, FOR_GPU)
    _write(tmp_path, _key("another"))
    _write(tmp_path, _key())
    _write(tmp_path, _key(version="2.0"), b"a newer plan")
    assert find_engine(tmp_path, graph_sha256=GRAPH, precision="int8") == gpu
    assert find_compiled(tmp_path, "another", graph_sha256=GRAPH, precision="int8").key.version == "1.0"
    newer = find_compiled(tmp_path, "some-compiler", graph_sha256=GRAPH, precision="int8")
    assert read_compiled_plan(tmp_path, newer) == b"a newer plan"
    assert len(list((tmp_path / "some-compiler").glob("*.bin"))) == 1


def test_an_engine_of_another_graph_is_not_taken_and_the_error_says_what_to_type(tmp_path: Path) -> None:
    _write(tmp_path / "engines", _key(graph_sha256="b" * 64))
    with pytest.raises(BackendError, match="built from another graph") as refused:
        find_compiled(tmp_path / "engines", "some-compiler", graph_sha256=GRAPH, precision="int8")
    assert refused.value.hint == f"python -m export.engine {tmp_path} --for some-compiler --precision int8"


def test_the_description_of_a_bundle_names_its_compiled_engines(bundle_copy: Bundle) -> None:
    _write(bundle_copy.directory / "engines", _key(graph_sha256=bundle_copy.variant("fp32").sha256))
    assert "int8 by some-compiler 1.0 for v73" in "\n".join(describe(bundle_copy))


def test_the_list_of_compilers_says_what_is_installed_and_how_to_get_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    for entry in COMPILERS:
        row = next(line for line in lines if line.split()[:1] == [entry.name])
        assert ("not installed" in row) == bool(entry.missing)


@pytest.mark.parametrize("entry", COMPILERS, ids=lambda entry: entry.name)
def test_a_compiler_names_targets_and_architectures_that_exist(entry: object) -> None:
    assert isinstance(entry, type(COMPILERS[0]))
    assert set(entry.targets) <= {target.name for target in TARGETS}
    assert set(entry.default_architectures) <= set(entry.architectures)
    for name in entry.architectures:
        assert entry.choose_architectures(name.upper()) == (name,)
    if entry.architectures:
        with pytest.raises(UnknownNameError, match=entry.architectures[0]):
            entry.choose_architectures("z80")
    else:
        with pytest.raises(UserError, match="builds"):
            entry.choose_architectures("z80")


def test_an_unknown_compilers_error_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="known: tensorrt"):
        find_compiler("nvcc")
    assert any(entry.name == "tensorrt" for entry in BACKENDS)
