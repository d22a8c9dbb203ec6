"""Make a peer's environment: a virtual environment with the peer's pinned packages, made on first use and kept."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from benchmarks.peers.registry import Peer
from runtime.errors import PipelineError
from runtime.files.whole import write_whole

_INSTALL_LIMIT_S = 1800  # gigabytes of wheels over a slow line
_STAMP = "requirements.json"


def find_python(peer: Peer, folder: Path) -> Path:
    """Return the interpreter of `peer`'s environment under `folder`, making the environment where it is not there yet.

    Raises:
        PipelineError: it cannot be made; says in pip's words why.
    """
    if not peer.requirements:
        return Path(sys.executable)
    place = folder / peer.name
    python = place.absolute() / "bin" / "python"
    stamp = json.dumps(peer.requirements)
    if python.exists() and (place / _STAMP).is_file() and (place / _STAMP).read_text(encoding="utf-8") == stamp:
        return python
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", str(place)], peer)
    _run([str(python), "-m", "pip", "install", "--disable-pip-version-check", "--retries=2", *peer.requirements], peer)
    write_whole(place / _STAMP, stamp.encode())
    return python


def package_version(peer: Peer, python: Path) -> str:
    """Return the version of the peer's package in that environment."""
    if not peer.requirements:
        return metadata.version(peer.package)
    asked = f"from importlib import metadata; print(metadata.version({peer.package!r}))"
    return subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True).stdout.strip()


def _run(command: list[str], peer: Peer) -> None:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise PipelineError(f"{peer.name} does not install within {_INSTALL_LIMIT_S // 60} minutes") from error
    if ran.returncode:
        lines = [line for line in (ran.stderr or ran.stdout).splitlines() if line.strip()]
        said = [line for line in lines if line.startswith("ERROR:")] or lines or ["no word why"]
        raise PipelineError(f"{peer.name} does not install: {said[-1].removeprefix('ERROR:').strip()}")
