"""Measure one network: a bundle, the pictures and the quantizers in; a row of figures for each quantizer and backend out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.compare import calibrated_on
from benchmarks.evaluated import Evaluated, Tell, evaluate
from benchmarks.peers.attempts import OURS, Attempt, Subject, try_ours, try_peer
from benchmarks.peers.interleaved import time_interleaved
from benchmarks.peers.pictures import spread
from benchmarks.peers.registry import Peer
from benchmarks.peers.scores import Row, evaluation_key, score_attempt
from calibration.crops import describe_source
from calibration.datasets import find_images
from calibration.pairs import ImageSet, hash_pair
from quantize.options import Effort
from runtime.backends import BACKENDS
from runtime.bundle import Bundle
from runtime.errors import DatasetError
from runtime.targets import Target

_SIZE = (128, 128)  # of the picture whose time is taken, before what the network wants enlarged is


@dataclass(frozen=True)
class Asked:
    """Which quantizers, which pictures, and what judges.

    Attributes:
        calib, data: names or folders of pictures to calibrate on, and of sets to evaluate on.
        calib_pictures, per_set: at most so many of them; None: all.
        turns: how often each graph is timed.
    """

    peers: Sequence[tuple[Peer, str]]
    efforts: Sequence[Effort]
    targets: Sequence[Target]
    backends: Sequence[str]
    calib: str
    data: Sequence[str]
    calib_pictures: int
    per_set: int | None
    turns: int


@dataclass(frozen=True)
class Pictures:
    """What is calibrated on, and the sets that are evaluated."""

    calibration: ImageSet
    sets: tuple[ImageSet, ...]


def find_pictures(bundle: Bundle, asked: Asked) -> Pictures:
    """Return the pictures that were asked for.

    Raises:
        DatasetError: one is not there, or a picture is to be calibrated and evaluated on.
    """
    scale = bundle.manifest.scale
    images = spread(find_images(asked.calib, scale=scale, use="calibration"), asked.calib_pictures)
    sets = [spread(find_images(name, scale=scale, use="evaluation"), asked.per_set) for name in asked.data]
    source = describe_source(images, scale=scale, crops=len(images.pairs))
    for one in sets:
        shared = calibrated_on(source, one, [hash_pair(pair, scale=scale) for pair in one.pairs])
        if shared:
            raise DatasetError(
                f"{asked.calib} has pictures of {one.name}: {', '.join(shared[:3])}", hint="calibrate on others: --calib"
            )
    return Pictures(images, tuple(sets))


def measure(subject: Subject, pictures: Pictures, asked: Asked, tell: Tell) -> list[Row]:
    """Quantize the bundle with each quantizer, judge what comes out, and time it."""
    attempts = list(_attempts(subject, asked, tell))
    evaluated = list(evaluate(subject.bundle, pictures.sets, tell))
    rows = list(_score(subject.bundle, attempts, evaluated, asked.backends, tell))
    return _time(subject.bundle, rows, asked.turns, tell)


def _attempts(subject: Subject, asked: Asked, tell: Tell) -> Iterator[Attempt]:
    for target in asked.targets:
        for effort in asked.efforts:
            tell(f"{OURS} {effort.value} for {target.name}")
            yield try_ours(subject, effort, target)
    for peer, setting in asked.peers:
        tell(f"{peer.name} {setting}")
        yield try_peer(subject, peer, setting)


def _score(
    bundle: Bundle, attempts: Sequence[Attempt], evaluated: Sequence[Evaluated], backends: Sequence[str], tell: Tell
) -> Iterator[Row]:
    key = evaluation_key(evaluated)
    for attempt in attempts:
        for backend in backends:
            if not attempt.backends or backend in attempt.backends:
                tell(f"{attempt.label} on {backend}")
                yield Row(bundle.directory.name, attempt, backend, score_attempt(attempt, bundle, evaluated, key, backend))


def _time(bundle: Bundle, rows: Sequence[Row], turns: int, tell: Tell) -> list[Row]:
    """Add what each graph takes on every backend that opens int8 graphs; sredge's, on those that it is for."""
    contract, fp32 = bundle.manifest.contract, bundle.variant("fp32")
    bundle.read(fp32)  # checked, since it is opened by its path
    size = contract.filled_size(contract.input_size(_SIZE, scale=bundle.manifest.scale), multiple=bundle.manifest.fill_multiple)
    timed = list(rows)
    for name in [entry.name for entry in BACKENDS if entry.opens_graphs and "int8" in entry.precisions]:
        fitting = {row.attempt.label: row.attempt for row in rows if not row.attempt.backends or name in row.attempt.backends}
        graphs = {label: attempt.graph for label, attempt in fitting.items() if attempt.graph is not None}
        ours = [label for label in graphs if fitting[label].who == OURS]
        tell(f"timing {len(graphs)} graphs on {name}")
        taken = time_interleaved(
            graphs,
            fp32=bundle.path(fp32),
            sredge=ours[-1] if ours else None,
            backend=name,
            shape=(1, contract.channels, *size),
            turns=turns,
        )
        timed = [
            replace(row, timed={**row.timed, name: taken[row.attempt.label]}) if row.attempt.label in taken else row
            for row in timed
        ]
    return timed
