"""Quantize one graph with one quantizer: what it takes out, or why it made nothing.

A result is kept under a name that follows from all that it comes from: graph, calibration crops, setting, and the peer's script and
versions, or sredge's own source. A change of sredge has its rows measured again, and no peer's.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from benchmarks.peers.counted import Counted, run_counted
from benchmarks.peers.environments import find_python, package_version
from benchmarks.peers.pictures import Calibration
from benchmarks.peers.registry import Peer
from quantize.options import Effort
from runtime.bundle import Bundle
from runtime.errors import PipelineError
from runtime.files.whole import write_whole
from runtime.targets import Target

_ATTEMPT, _GRAPHS = "attempt.json", ("int8.onnx", "int8.xml")
_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("quantize", "calibration", "runtime", "export")
OURS = "sredge"


@dataclass(frozen=True)
class Attempt:
    """What one quantizer made of one graph.

    Attributes:
        who: sredge, or the peer's name.
        graph: the ONNX file or openvino IR that it made; None where it made none.
        counted: what that took; None where it was not started.
        failure: why there is no graph.
        backends: those that the graph is for; none: it may run on any.
        kept: it was made before.
    """

    who: str
    setting: str
    version: str
    graph: Path | None
    counted: Counted | None
    failure: str = ""
    backends: tuple[str, ...] = ()
    kept: bool = False

    @property
    def label(self) -> str:
        """What a table calls it."""
        return f"{self.who} {self.setting}"


@dataclass(frozen=True)
class Subject:
    """What is quantized, on which pictures, in which time, and where results are kept."""

    bundle: Bundle
    calibration: Calibration
    limit_s: float
    folder: Path
    force: bool = False


def try_peer(subject: Subject, peer: Peer, setting: str) -> Attempt:
    """Quantize with a peer; where its environment cannot be made, that is an attempt too."""
    try:
        python = find_python(peer, subject.folder)
    except PipelineError as error:
        return Attempt(peer.name, setting, "", None, None, str(error))
    version = package_version(peer, python)
    graph = subject.bundle.path(subject.bundle.variant("fp32"))
    made_from = (hashlib.sha256(peer.script.read_bytes()).hexdigest(), setting, version, *peer.requirements)

    def command(working: Path) -> list[str]:
        return [str(python), *(str(path.absolute()) for path in (peer.script, graph, subject.calibration.file, working)), setting]

    def made(working: Path) -> Path | None:
        return next((working / name for name in _GRAPHS if (working / name).is_file()), None)

    return _try(subject, Attempt(peer.name, setting, version, None, None), made_from, command, made)


def try_ours(subject: Subject, effort: Effort, target: Target) -> Attempt:
    """Quantize a copy of the bundle with `python -m quantize`."""
    options = [f"--calib={subject.calibration.folder.absolute()}", f"--effort={effort.value}", f"--target={target.name}", "--force"]

    def command(working: Path) -> list[str]:
        copy = working.absolute() / "bundle"
        shutil.copytree(subject.bundle.directory, copy, ignore=shutil.ignore_patterns("reports", "engines"))
        return [sys.executable, "-m", "quantize", str(copy), *options]

    def made(working: Path) -> Path:
        bundle = Bundle.open(working / "bundle")
        return bundle.path(bundle.variant("int8", target=target.name))

    attempt = Attempt(OURS, f"{effort.value}, {target.name}", "", None, None, backends=target.backends)
    return _try(subject, attempt, (_source_sha256(), attempt.setting), command, made, environment={"PYTHONPATH": str(_ROOT)})


def _try(
    subject: Subject,
    attempt: Attempt,
    made_from: Sequence[str],
    command: Callable[[Path], list[str]],
    made: Callable[[Path], Path | None],
    *,
    environment: dict[str, str] | None = None,
) -> Attempt:
    """Run what `command` makes of a working folder, unless the same was run before; `made` finds the graph in that folder."""
    key = _key(subject, made_from)
    place = subject.folder / "results" / f"{attempt.label.replace(' ', '-').replace(',', '')}-{key[:16]}"
    kept = None if subject.force else _read(place, limit_s=subject.limit_s)
    if kept is not None:
        return kept
    place.parent.mkdir(parents=True, exist_ok=True)
    working = Path(tempfile.mkdtemp(prefix=".", dir=place.parent))
    try:
        counted = run_counted(command(working), working, limit_s=subject.limit_s, environment=environment)
        graph = made(working) if counted.exit_code == 0 else None
        failure = _failure(counted, graph is not None, subject.limit_s)
        name = None if graph is None else str(graph.relative_to(working))
        body = {**asdict(replace(attempt, counted=counted, failure=failure)), "graph": name, "limit_s": subject.limit_s}
        write_whole(working / _ATTEMPT, json.dumps(body, indent=1).encode())
        shutil.rmtree(place, ignore_errors=True)
        working.rename(place)
    except PipelineError as error:
        return replace(attempt, failure=str(error))
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return replace(attempt, counted=counted, failure=failure, graph=None if name is None else place / name)


def _failure(counted: Counted, made: bool, limit_s: float) -> str:
    if counted.exit_code is None:
        return f"not done in {limit_s / 60:g} minutes"
    if counted.exit_code:
        return f"ended with exit code {counted.exit_code}: {counted.last_line}"
    return "" if made else f"made no graph: {counted.last_line}"


def _key(subject: Subject, made_from: Sequence[str]) -> str:
    graph = subject.bundle.variant("fp32")
    return hashlib.sha256("\n".join([graph.sha256, subject.calibration.sha256, *made_from]).encode()).hexdigest()


@cache
def _source_sha256() -> str:
    """Return what changes with any line of sredge's own code that quantizing may run."""
    digest = hashlib.sha256()
    for path in sorted(path for package in _PACKAGES for path in (_ROOT / package).rglob("*.py")):
        digest.update(str(path.relative_to(_ROOT)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(place: Path, *, limit_s: float) -> Attempt | None:
    """Return what was made before; None where nothing was, or it had not ended within a shorter limit than this one."""
    try:
        body = json.loads((place / _ATTEMPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    counted = Counted(**body.pop("counted"))
    if counted.exit_code is None and body["limit_s"] < limit_s:
        return None
    graph, backends = body.pop("graph"), tuple(body.pop("backends"))
    del body["limit_s"], body["kept"]
    return Attempt(**body, graph=None if graph is None else place / graph, counted=counted, backends=backends, kept=True)
