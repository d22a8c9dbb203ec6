"""Judge what quantizers made: attempts and evaluated pictures in, a row of each out.

What a peer's graph scored is kept beside the graph, under the pictures, the protocol and the backend that it was judged with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

from benchmarks.evaluated import PROTOCOL, Evaluated, Judged, judge
from benchmarks.peers.attempts import Attempt
from benchmarks.peers.interleaved import Timed
from benchmarks.peers.opened import convolution_names, in_int8, open_made
from calibration.pairs import picture_sha256
from runtime.bundle import Bundle
from runtime.errors import BackendError
from runtime.files.whole import write_whole


@dataclass(frozen=True)
class Scored:
    """What a graph loses, and how many of its convolutions ran in int8; `failure` where the backend does not run it."""

    judged: Judged | None
    int8_convolutions: int = 0
    convolutions: int = 0
    failure: str = ""


@dataclass(frozen=True)
class Row:
    """One quantizer on one network, judged on one backend; None is what could not be measured."""

    network: str
    attempt: Attempt
    backend: str
    scored: Scored
    timed: dict[str, Timed] = field(default_factory=dict)

    @property
    def failure(self) -> str:
        return self.attempt.failure or self.scored.failure


def score_attempt(attempt: Attempt, bundle: Bundle, evaluated: Sequence[Evaluated], key: str, backend: str) -> Scored:
    """Run an attempt's graph on the evaluated pictures, whose `evaluation_key` is `key`, or return what was kept of that."""
    if attempt.graph is None:
        return Scored(None)
    version = metadata.version(backend)
    kept = attempt.graph.with_name(f"scored-{hashlib.sha256(f'{key} {backend} {version}'.encode()).hexdigest()[:16]}.json")
    if attempt.kept and kept.is_file():
        body = json.loads(kept.read_text(encoding="utf-8"))
        return Scored(**{**body, "judged": None if body["judged"] is None else Judged(**body["judged"])})
    scored = _score(attempt.graph, bundle, evaluated, backend)
    write_whole(kept, json.dumps(asdict(scored), indent=1).encode())
    return scored


def evaluation_key(evaluated: Sequence[Evaluated]) -> str:
    """Return what tells these pictures and the protocol from others."""
    parts = [
        str(PROTOCOL),
        *(f"{one.dataset} {one.name} {picture_sha256(one.high)} {picture_sha256(one.low)}" for one in evaluated),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _score(graph: Path, bundle: Bundle, evaluated: Sequence[Evaluated], backend: str) -> Scored:
    try:
        names = convolution_names(graph)
        with open_made(graph, backend) as int8:
            made = [int8.run(one.array) for one in evaluated]
            ran = in_int8(names, int8.precisions())
    except BackendError as error:
        return Scored(None, failure=str(error))
    return Scored(judge(bundle, made, evaluated), ran, len(names))
