"""Compare fp32, fp16 and int8 on each backend: bundles and pictures in, one result per case out; each case has its own process.

Every picture goes through all cases before the next; latency is timed in rounds that take the cases in turn, so that a ratio of
two medians compares like with like on a machine whose speed drifts. The parent does the scoring, so that a case's peak memory
is its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.gpu import read_gpu_state
from benchmarks.latency import ROUND, WARM_UP, DeviceLatency, Latency, summarise, summarise_device
from benchmarks.machine import describe_machine
from benchmarks.metrics import Score, prepare, psnr_db, score
from benchmarks.protocols import Protocol
from benchmarks.result import Baseline, ImageScore, Result, Row
from benchmarks.worker import Case, Worker, open_case
from calibration.datasets import dataset_names
from calibration.pairs import ImageSet, PairHashes, load_pair
from calibration.table import CalibrationSource, read_table, used_hashes
from quantize.search.result import HeldBack, read_state
from runtime.backends import choose_entry
from runtime.bundle import REPORTS, Bundle, sha256_bytes, source_digest
from runtime.errors import BackendError, DatasetError
from runtime.images import Picture, from_network, to_network
from runtime.sizes import upscaled_size
from runtime.tiles.filling import fill_up
from runtime.verify.value_check import ValueCheck

REFERENCE_BACKEND = "onnxruntime"
_LATENCY_SIDE = 128
PICTURED = 4  # as many pictures appear in the report

OnStep = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are done, and of how many."""


@dataclass(frozen=True)
class Request:
    """What to compare, and how."""

    bundle: Bundle
    cases: tuple[Case, ...]
    images: ImageSet
    hashes: tuple[PairHashes, ...]
    """The hashes of each of `images`, as `hash_pair` gives them."""
    protocol: Protocol
    runs: int
    threads: int
    allow_calibration_images: bool = False
    insists: bool = False
    """The backends were asked for by name: one that does not open is an error, not a note."""

    @property
    def scale(self) -> float:
        return self.bundle.manifest.scale


@dataclass(frozen=True)
class Panel:
    """One picture as the report shows it, uint8 RGB: what went in, and what came out by precision."""

    bundle: str
    name: str
    low: Picture
    high: Picture
    bicubic: Picture
    outputs: dict[str, Picture]


@dataclass
class _Tally:
    """What one case's pictures gave so far."""

    scores: list[tuple[str, Score]] = field(default_factory=list)
    against_fp32_db: list[float] = field(default_factory=list)


def request_key(requests: Iterable[Request]) -> str:
    """sha256 over bundles, pictures, protocol, cases, machine, versions and the benchmark's own code."""
    described = [
        {
            "folder": str(request.bundle.directory),
            "bundle": request.bundle.manifest.model_dump(mode="json"),
            "cases": [str(case) for case in request.cases],
            "pictures": [sorted(hashes.known) for hashes in request.hashes],
            "protocol": str(request.protocol),
            "runs": [request.runs, request.threads],
        }
        for request in requests
    ]
    code = source_digest([Path(__file__).parent, Path(__file__).parents[1] / "runtime"])
    return sha256_bytes(json.dumps([described, describe_machine().model_dump(mode="json"), code]).encode())


def check_overlap(request: Request) -> int:
    """Return how many of the pictures the bundle was calibrated on: of the same pixels, or the same name in the same known data
    set.

    Raises:
        DatasetError: there are some and the request does not insist; names them.
    """
    seen = _seen(request)
    shared = list(dict.fromkeys(name for source in seen for name in calibrated_on(source, request.images, request.hashes)))
    if shared and not request.allow_calibration_images:
        raise DatasetError(
            f"{request.bundle.directory} was calibrated on {len(shared)} of these pictures ({', '.join(shared[:3])}…): "
            "figures on them would flatter it",
            hint="evaluate on other pictures, calibrate on others, or insist with --allow-calibration-images",
        )
    return len(shared)


def _seen(request: Request) -> list[CalibrationSource | HeldBack]:
    """Return the pictures that the cases' graphs were calibrated on, and those by which layers were chosen that are not in int8.

    Raises:
        DatasetError: a graph does not say what it was calibrated on, and the request does not insist.
    """
    bundle, asked = request.bundle, {(case.precision, case.target) for case in request.cases}
    seen: list[CalibrationSource | HeldBack] = []
    for variant in bundle.manifest.variants:
        if (variant.precision, variant.target) not in asked or variant.io != "float32":
            continue
        if variant.calibration is not None:
            seen.append(read_table(bundle.path(variant.calibration)).source)
        elif variant.precision == "int8" and not request.allow_calibration_images:
            raise DatasetError(
                f"{bundle.directory} lacks the calibration table of {variant.file}: it may have been made of these pictures",
                hint=f"python -m quantize {bundle.directory} --calib div2k --target {variant.target}, or insist with "
                "--allow-calibration-images",
            )
        if variant.precision == "int8":
            state = read_state(bundle.directory / REPORTS / f"search-{variant.target}.json")
            seen += [] if state is None else [state.held_back]
    return seen


def calibrated_on(source: CalibrationSource | HeldBack, images: ImageSet, hashes: Sequence[PairHashes]) -> list[str]:
    """Return those of `images` that `source` has: of the same pixels, or the same name in the same known data set."""
    used = used_hashes(source.images)
    same_set = source.dataset == images.name and source.dataset in dataset_names()
    named = {image.name for image in source.images if same_set}
    return [pair.name for pair, known in zip(images.pairs, hashes, strict=True) if used & known.known or pair.name in named]


def compare(requests: Sequence[Request], *, on_step: OnStep) -> tuple[Result, list[Panel]]:
    """Measure every case of every request.

    Raises:
        DatasetError: pictures that were calibrated on, or pairs that do not fit.
        BackendError: a backend cannot run a graph.
    """
    rows: list[Row] = []
    baselines: list[Baseline] = []
    panels: list[Panel] = []
    refused: list[str] = []
    for request in requests:
        overlap = check_overlap(request)
        on_step(f"{request.bundle.directory.name}: checking values", 0, 1)
        request, checks, refusals = _with_checked_values(request)
        refused += refusals
        reference = Case(request.bundle.directory, "fp32", REFERENCE_BACKEND, request.threads)
        wanted = dict.fromkeys((reference, *request.cases))
        with ExitStack() as stack:
            on_step(f"{request.bundle.directory.name}: opening", 0, 1)
            workers = {case: stack.enter_context(Worker(case)) for case in wanted}
            tallies, baseline = _score_pictures(request, reference, workers, panels, on_step)
            baselines.append(baseline)
            timed = [case for case in request.cases if not choose_entry(case.backend).emulated]
            taken = _time_in_turn(request, [workers[case] for case in timed], on_step)
            for case in request.cases:
                median_fp32 = _fastest_fp32_ms(taken)
                scored = tallies[case], tallies[reference]
                rows.append(_row(request, workers[case], *scored, taken.get(case), median_fp32, overlap, checks[case]))
    result = Result(
        key=request_key(requests),
        machine=describe_machine(),
        reference=f"fp32 on {REFERENCE_BACKEND}",
        protocol=str(requests[0].protocol),
        rows=tuple(rows),
        refused=tuple(refused),
        bicubic=tuple(baselines),
    )
    return result, panels


def _with_checked_values(request: Request) -> tuple[Request, dict[Case, ValueCheck | None], list[str]]:
    """Return the request less the cases that do not open or compute other values than their graph says; what the others' check
    gave; why those were left out. In this process, so that the workers' memory is that of running alone.

    Raises:
        BackendError: the request insists on them, or none is left.
    """
    checks: dict[Case, ValueCheck | None] = {}
    refused: list[str] = []
    for case in request.cases:
        try:
            with open_case(case, verify="once") as opened:
                checks[case] = opened.value_check
        except BackendError as error:
            if request.insists or len(refused) + 1 == len(request.cases):
                raise
            refused.append(f"{case}: {error}")
    return replace(request, cases=tuple(checks)), checks, refused


def _score_pictures(
    request: Request, reference: Case, workers: dict[Case, Worker], panels: list[Panel], on_step: OnStep
) -> tuple[dict[Case, _Tally], Baseline]:
    contract = request.bundle.manifest.contract
    tallies = {case: _Tally() for case in workers}
    bicubic_scores = []
    for index, pair in enumerate(request.images.pairs):
        on_step(f"{request.bundle.directory.name}: {pair.name}", index, len(request.images.pairs))
        low, high = prepare(*load_pair(pair, scale=request.scale), request.protocol, scale=request.scale)
        bicubic = np.asarray(Image.fromarray(low).resize(high.shape[1::-1], Image.Resampling.BICUBIC))
        bicubic_scores.append(score(bicubic, high, request.protocol, scale=request.scale))
        array = fill_up(to_network(low, contract, scale=request.scale), contract, multiple=request.bundle.manifest.fill_multiple)
        rows, columns = upscaled_size((low.shape[0], low.shape[1]), request.scale)
        fp32 = workers[reference].run(array)[:, :, :rows, :columns]
        shown: dict[str, Picture] = {}
        for case, worker in workers.items():
            output = fp32 if case == reference else worker.run(array)[:, :, :rows, :columns]
            tally = tallies[case]
            picture = from_network(output, contract.colour, source=low, rounding=request.protocol.rounding)
            tally.scores.append((pair.name, score(picture, high, request.protocol, scale=request.scale)))
            tally.against_fp32_db.append(psnr_db(output.clip(0, 1), fp32.clip(0, 1), peak=1))
            shown.setdefault(case.precision, from_network(output, contract.colour, source=low))
        if index < PICTURED:
            panels.append(Panel(request.bundle.directory.name, pair.name, low, high, bicubic, shown))
    psnr, ssim = _means(bicubic_scores)
    return tallies, Baseline(bundle=request.bundle.directory.name, psnr_db=psnr, ssim=ssim)


def _time_in_turn(request: Request, workers: Sequence[Worker], on_step: OnStep) -> dict[Case, list[float]]:
    array = _latency_input(request)
    taken: dict[Case, list[float]] = {worker.case: [] for worker in workers}
    for worker in workers:
        worker.time(array, WARM_UP)
    rounds = -(-request.runs // ROUND)
    for turn in range(rounds):
        on_step(f"{request.bundle.directory.name}: timing", turn, rounds)
        count = min(ROUND, request.runs - turn * ROUND)
        for worker in workers:
            taken[worker.case] += worker.time(array, count)
    return taken


def _time_on_device(request: Request, worker: Worker) -> DeviceLatency | None:
    """By the accelerator's own clock, after the rounds in turn: they have warmed it up."""
    array = _latency_input(request)
    if worker.time_on_device(array, WARM_UP) is None:
        return None
    before = read_gpu_state()
    times = worker.time_on_device(array, request.runs)
    assert times is not None
    return summarise_device(times, before=before, after=read_gpu_state())


def _latency_input(request: Request) -> NDArray[np.float32]:
    """Return what the network gets for a picture of 128×128, or of the nearest size that it takes."""
    contract = request.bundle.manifest.contract
    size = contract.filled_size(contract.input_size((_LATENCY_SIDE, _LATENCY_SIDE), scale=request.scale))
    return np.random.default_rng(0).random((1, contract.channels, *size), np.float32)


def _row(
    request: Request,
    worker: Worker,
    tally: _Tally,
    reference: _Tally,
    taken_ms: Sequence[float] | None,
    fp32_median_ms: float | None,
    overlap: int,
    check: ValueCheck | None,
) -> Row:
    case, manifest = worker.case, request.bundle.manifest
    variant = worker.variant()
    psnr, ssim = _means([score for _, score in tally.scores])
    latency = None if taken_ms is None else _latency(request, taken_ms, threads=case.threads)
    device_latency = None if latency is None else _time_on_device(request, worker)
    peak = worker.peak_rss_bytes()  # before the look at precisions, which opens the graph once more
    report = worker.precision_report()
    return Row(
        bundle=str(request.bundle.directory),
        model=manifest.model,
        scale=manifest.scale,
        weights=f"{manifest.checkpoint.source} {manifest.checkpoint.sha256[:12]}",
        precision=case.precision,
        target=variant.target,
        backend=case.backend,
        dataset=request.images.name,
        protocol=request.protocol.name,
        images=len(tally.scores),
        psnr_db=psnr,
        ssim=ssim,
        drop_db=_drop_db(reference.scores, tally.scores),
        psnr_vs_fp32_db=_mean_db(tally.against_fp32_db),
        latency=latency,
        device_latency=device_latency,
        speedup=None if fp32_median_ms is None or latency is None else round(fp32_median_ms / latency.p50_ms, 3),
        macs=manifest.macs,
        int8_mac_share=round(manifest.int8_mac_share(variant), 6),
        precision_verified=report.verified,
        precision_ran={name: round(share, 6) for name, share in report.mac_share.items()},
        psnr_vs_simulated_db=None if check is None else check.psnr_db,
        expected_psnr_vs_simulated_db=None if check is None else check.expected_db,
        size_bytes=request.bundle.path(variant).stat().st_size,
        peak_rss_bytes=peak,
        calibration_images_evaluated=overlap if case.precision == "int8" else 0,
        scores=tuple(ImageScore(name=name, psnr_db=_finite(one.psnr_db), ssim=round(one.ssim, 6)) for name, one in tally.scores),
    )


def _latency(request: Request, taken_ms: Sequence[float], *, threads: int) -> Latency:
    shape = _latency_input(request).shape
    return summarise(taken_ms, shape=(shape[0], shape[1], shape[2], shape[3]), threads=threads)


def _fastest_fp32_ms(taken: dict[Case, list[float]]) -> float | None:
    """Return the least median of the fp32 cases: what lower precision has to beat, on whatever backend that ran."""
    return min((float(np.median(times)) for case, times in taken.items() if case.precision == "fp32"), default=None)


def _drop_db(reference: Sequence[tuple[str, Score]], own: Sequence[tuple[str, Score]]) -> float | None:
    """Return the mean of what is lost, over the pictures that neither made equal to the truth; None where there are none.

    A difference of means would be one over different pictures: an infinite PSNR is in none.
    """
    lost = [before.psnr_db - after.psnr_db for (_, before), (_, after) in zip(reference, own, strict=True)]
    return _mean_db(lost)


def _means(scores: Sequence[Score]) -> tuple[float | None, float]:
    """Mean PSNR (None where infinite) and mean SSIM, as published tables take them: over pictures."""
    return _mean_db([one.psnr_db for one in scores]), round(float(np.mean([one.ssim for one in scores])), 6)


def _mean_db(values_db: Sequence[float]) -> float | None:
    """Mean over the pictures that differ at all; None where none does."""
    finite = [value for value in values_db if np.isfinite(value)]
    return round(float(np.mean(finite)), 4) if finite else None


def _finite(value_db: float) -> float | None:
    return round(value_db, 4) if np.isfinite(value_db) else None
