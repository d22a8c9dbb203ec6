"""Two writers at once: nothing that either wrote is lost, and no bundle is broken.

SREDGE_WRITER_PAIRS=40 runs more pairs than the few that the suite has time for.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import onnx
import pytest

from calibration.shipped_tables import SHIPPED_TABLES
from quantize.search.result import HeldBack, SearchState, Timing, Trial, read_state, write_state
from runtime.backends.engines import EngineKey, ShapeProfile, read_engine, read_plan
from runtime.bundle import MANIFEST, Bundle, extend_bundle, sha256_bytes, write_bundle
from runtime.errors import BundleError
from runtime.files.lock import LOCK, locked
from runtime.targets import Precision
from tests.bundle_processes import add_engine, add_pixels

ROOT = Path(__file__).resolve().parents[1]
PAIRS = int(os.environ.get("SREDGE_WRITER_PAIRS", "4"))
PATIENCE_S = 60
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")


def _copy(bundle: Bundle, directory: Path) -> Path:
    return Path(shutil.copytree(bundle.directory, directory))


def _start(processes: ForkServerContext, target: Callable[..., None], *arguments: Any) -> Any:  # noqa: ANN401 # a ForkServerProcess
    process = processes.Process(target=target, args=arguments)
    process.start()
    return process


def _check_whole(directory: Path, *, names: set[str]) -> None:
    """Every part of the bundle is there and whole, and beside the manifest there is nothing else."""
    bundle = Bundle.open(directory)
    assert {part.file for part in bundle.manifest.parts} == names
    assert {path.name for path in directory.iterdir()} == {MANIFEST, *names}
    for variant in bundle.manifest.variants:
        onnx.checker.check_model(onnx.load_model_from_string(bundle.read(variant)))


def _pixels_of(bundle: Bundle, precision: Precision) -> str:
    return f"{bundle.variant(precision).file.removesuffix('.onnx')}.uint8-io.onnx"


@pytest.mark.parametrize("pair", range(PAIRS))
def test_two_writers_at_once_lose_nothing(quantized: Bundle, processes: ForkServerContext, tmp_path: Path, pair: int) -> None:
    rng = random.Random(pair)
    directory = _copy(quantized, tmp_path / "bundle")
    chosen = rng.sample(PRECISIONS, 2)
    writers = [_start(processes, add_pixels, directory, precision, rng.uniform(0, 0.05)) for precision in chosen]
    for writer in writers:
        writer.join(PATIENCE_S)
        assert writer.exitcode == 0
    names = {part.file for part in quantized.manifest.parts} | {_pixels_of(quantized, precision) for precision in chosen}
    _check_whole(directory, names=names)


@pytest.mark.parametrize("pair", range(PAIRS))
def test_a_writer_killed_beside_another_takes_nothing_with_it_and_leaves_nothing(
    quantized: Bundle, processes: ForkServerContext, tmp_path: Path, pair: int
) -> None:
    rng = random.Random(pair)
    directory = _copy(quantized, tmp_path / "bundle")
    killed, other, last = rng.sample(PRECISIONS, 3)
    victim = _start(processes, add_pixels, directory, killed, 0.0)
    writer = _start(processes, add_pixels, directory, other, rng.uniform(0, 0.02))
    victim.join(rng.uniform(0, 0.4))
    victim.kill()
    writer.join(PATIENCE_S)
    assert writer.exitcode == 0, "it was kept from writing"
    add_pixels(directory, last, 0.0)  # sweeps what was left staged
    victim.join(PATIENCE_S)
    written = {_pixels_of(quantized, other), _pixels_of(quantized, last)}
    if Bundle.open(directory).manifest.find_variant(killed, io="uint8"):
        written.add(_pixels_of(quantized, killed))
    _check_whole(directory, names={part.file for part in quantized.manifest.parts} | written)


def _key(graph: bytes) -> EngineKey:
    profile = ShapeProfile(min=(16, 16), opt=(64, 64), max=(128, 128))
    return EngineKey(
        graph_sha256=sha256_bytes(graph),
        precision="fp16",
        tensorrt="10.16.1.11",
        gpu="NVIDIA Test",
        compute_capability=(8, 7),
        driver="570.1",
        profile=profile,
    )


@pytest.mark.parametrize("pair", range(PAIRS))
def test_two_builds_of_an_engine_at_once_leave_one_of_them_whole(processes: ForkServerContext, tmp_path: Path, pair: int) -> None:
    rng = random.Random(pair)
    path = tmp_path / "engines" / "model.fp16.json"
    plans = [bytes([number]) * 1_000_000 for number in range(4)]
    writers = [_start(processes, add_engine, path, plan, _key(plan), rng.uniform(0, 0.01)) for plan in plans]
    for writer in writers:
        writer.join(PATIENCE_S)
        assert writer.exitcode == 0
    record = read_engine(path)
    assert record is not None
    assert read_plan(path.parent, record) in plans
    assert {found.name for found in path.parent.iterdir()} == {path.name, record.plan.file}


def _state(*lifted: str) -> SearchState:
    held_back = HeldBack(dataset="set", images=(), are_other_pictures=True, crops=1, crop_size=(8, 8), seed=0)
    trials = tuple(
        Trial(lifted=(name,), sha256="0" * 64, int8_mac_share=1, drop_db=0, p50_ms=1, int8_p50_ms=1, fp32_p50_ms=1, times_int8=1)
        for name in lifted
    )
    timing = Timing(shape=(1, 3, 8, 8), warm_up=1, n=1)
    return SearchState(key="0" * 64, target="cpu", backend="onnxruntime", held_back=held_back, timing=timing, trials=trials)


def test_two_searches_keep_what_each_of_them_tried(tmp_path: Path) -> None:
    file = tmp_path / "reports" / "search-cpu.json"
    write_state(file, _state("conv1"))
    write_state(file, _state("conv2"))
    found = read_state(file)
    assert found is not None
    assert [trial.lifted for trial in found.trials] == [("conv1",), ("conv2",)]


def test_a_search_that_is_to_forget_replaces_what_was_tried(tmp_path: Path) -> None:
    file = tmp_path / "reports" / "search-cpu.json"
    write_state(file, _state("conv1"))
    write_state(file, _state("conv2"), replace=True)
    assert read_state(file) == _state("conv2")


def test_what_was_made_of_a_graph_that_is_gone_is_refused_and_says_what_to_do(bundle_copy: Bundle) -> None:
    int8 = bundle_copy.read(bundle_copy.variant("int8"))
    other = onnx.load_model_from_string(bundle_copy.read(bundle_copy.variant("fp32")))
    other.producer_name = "exported anew"
    data = other.SerializeToString(deterministic=True)
    fp32 = bundle_copy.variant("fp32").model_copy(update={"sha256": sha256_bytes(data)})
    anew = write_bundle(bundle_copy.directory, bundle_copy.manifest.with_variant(fp32), files={fp32.file: data})
    late = bundle_copy.variant("int8").model_copy(update={"file": "model.int8-npu.onnx", "target": "npu"})
    with pytest.raises(BundleError, match="made anew meanwhile") as caught:
        extend_bundle(bundle_copy, lambda now: now.with_variant(late), files={late.file: int8})
    assert "again" in caught.value.hint
    assert Bundle.open(bundle_copy.directory) == anew


def test_a_reader_does_not_wait_for_a_writer(bundle_copy: Bundle) -> None:
    with locked(bundle_copy.directory):
        assert Bundle.open(bundle_copy.directory) == bundle_copy


def test_a_lock_that_a_killed_writer_left_is_taken_and_goes(bundle_copy: Bundle) -> None:
    (bundle_copy.directory / LOCK).touch()
    add_pixels(bundle_copy.directory, "fp32", 0.0)
    assert not (bundle_copy.directory / LOCK).exists()


def test_a_full_disk_leaves_the_old_bundle_and_nothing_else(bundle_copy: Bundle) -> None:
    before = {path.name: path.read_bytes() for path in bundle_copy.directory.iterdir()}
    largest = bundle_copy.path(bundle_copy.variant("fp32")).stat().st_size
    # A limit on the size of files: the system ends a write in its middle, as a full disk does.
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    code = "import sys, pathlib, tests.bundle_processes as writers; writers.add_pixels(pathlib.Path(sys.argv[1]), 'fp32', 0)"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(bundle_copy.directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, hard)),
    )
    assert "BundleError: cannot write the bundle" in ended.stderr
    assert {path.name: path.read_bytes() for path in bundle_copy.directory.iterdir()} == before


def _as_anybody(command: list[str]) -> list[str]:
    """The command as a user whom the modes of folders bind."""
    if os.geteuid() != 0:
        return command
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("root may write everywhere, and there is no setpriv to give that up")
    return [setpriv, "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search", *command]


COMMANDS = {
    "quantize": ("-m", "quantize", "--calib", str(SHIPPED_TABLES / "lesrcnn_x2.json"), "--target", "openvino"),
    "export": ("-m", "export", "lesrcnn", "--scale", "2", "--force", "--out"),
    "pixel io": ("-c", "import sys, pathlib, tests.bundle_processes as it; it.add_pixels(pathlib.Path(sys.argv[1]), 'fp32', 0)"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_cannot_be_written_is_noticed_before_the_work(bundle_copy: Bundle, command: str) -> None:
    directory = bundle_copy.directory
    before = sorted(directory.iterdir())
    directory.chmod(0o555)
    try:
        line = _as_anybody([sys.executable, *COMMANDS[command], str(directory)])
        ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    finally:
        directory.chmod(0o755)
    assert ended.returncode != 0
    assert "cannot write the bundle" in ended.stderr
    assert "calibration:" not in ended.stdout, "it calibrated first"
    assert sorted(directory.iterdir()) == before
