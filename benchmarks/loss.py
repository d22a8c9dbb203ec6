"""Measure what one way to quantize one network loses: a bundle and evaluation sets in, dB lost per picture out.

The ways are sredge's own, sredge's with layers kept in float, and onnxruntime's quantizer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import onnxruntime_quantizer
from benchmarks.metrics import Score, psnr_db, score
from benchmarks.protocols import find_protocol
from calibration.datasets import find_images
from calibration.pairs import load_pair
from calibration.ranges import DEFAULT_PERCENTILE
from quantize.options import Int8Options
from quantize.search.choose import lifting_order
from quantize.search.result import Timing
from quantize.search.trials import Subject, Trials
from quantize.stage import load_fp32, quantize_bundle, quantized_already
from quantize.tables import FoundTable, TableRequest, find_table
from runtime.backends import open_backend
from runtime.bundle import Bundle
from runtime.images import Picture, from_network, to_network
from runtime.sizes import upscaled_size
from runtime.targets import Target
from runtime.terminal.figures import share_text
from runtime.tiles.filling import fill_up

SETS = ("set5", "set14")
PROTOCOL = find_protocol("paper-y")
MIXED_SHARE = 0.98
_THEIRS = "onnxruntime quantize_static"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Goal:
    """A network, the file of its authors' weights, and the losses that are aimed at, of the average over the sets.

    The second is with as many layers in float as leave `MIXED_SHARE` of multiply-accumulates in int8.
    """

    network: str
    scale: int
    weights: str
    loss_db: float
    mixed_loss_db: float

    @property
    def name(self) -> str:
        return f"{self.network}_x{self.scale}"


GOALS = (
    Goal("lesrcnn", 2, "lesrcnn_x2.pth", 0.05, 0.02),
    Goal("lesrcnn", 3, "lesrcnn_x3.pth", 0.03, 0.015),
    Goal("lesrcnn", 4, "lesrcnn_x4.pth", 0.03, 0.015),
    Goal("espcn", 3, "super_resolution_x3.onnx", 0.05, 0.02),
    Goal("srcnn", 2, "srcnn_isr_best.pth", 0.05, 0.02),
    Goal("srgan", 4, "srgan_x4.pth", 0.05, 0.02),
)


@dataclass(frozen=True)
class Loss:
    """What one way to quantize one network loses; decibels are means over pictures, `average_db` that of the sets."""

    network: str
    how: str
    target: str
    backend: str
    loss_db: Mapping[str, float]
    average_db: float
    goal_db: float
    ssim_loss: float
    worst_db: float
    worst: str
    psnr_vs_fp32_db: float
    seconds: float | None
    """What calibration and quantization took; None where it was there already."""


@dataclass(frozen=True)
class Evaluated:
    """A picture of a set: what goes in, and what fp32 makes of it and scores."""

    name: str
    dataset: str
    low: Picture
    high: Picture
    array: NDArray[np.float32]
    fp32: NDArray[np.float32]
    fp32_score: Score


@dataclass(frozen=True)
class Calibrated:
    """A table, and what it took to measure it."""

    found: FoundTable
    seconds: float


def evaluate(bundle: Bundle, data: Path, tell: Tell) -> Iterator[Evaluated]:
    manifest = bundle.manifest
    with open_backend("openvino", bundle.read(bundle.variant("fp32")), precision="fp32") as fp32:
        for name in SETS:
            images = find_images(name, scale=manifest.scale, use="evaluation", root=data)
            for pair in images.pairs:
                tell(f"{pair.name} in fp32")
                low, high = load_pair(pair, scale=manifest.scale)
                array = fill_up(
                    to_network(low, manifest.contract, scale=manifest.scale), manifest.contract, multiple=manifest.fill_multiple
                )
                made = fp32.run(array)
                yield Evaluated(pair.name, name, low, high, array, made, _scored(bundle, made, low, high))


def trials_of(bundle: Bundle, options: Int8Options, found: FoundTable, tell: Tell) -> Trials:
    """Return what rounds weights for these options, once for all rows that are of them."""
    timing = Timing(shape=(1, 1, 1, 1), warm_up=0, n=0)  # nothing is timed
    subject = Subject(bundle.manifest, load_fp32(bundle), found.table, options, found.crops, (), "", timing)
    how = f"sredge {options.effort.value} for {options.target.name}"
    return Trials(subject, on_step=lambda phase, done, total: tell(f"{how}, {phase} {done} of {total}"))


def our_losses(
    goal: Goal,
    bundle: Bundle,
    options: Int8Options,
    backends: Sequence[str] | None,
    evaluated: Sequence[Evaluated],
    *,
    calibrated: Calibrated,
    trials: Trials,
    tell: Tell,
) -> Iterator[Loss]:
    how = f"sredge {options.effort.value}"
    began = time.perf_counter()
    seconds = None
    quantized = Bundle.open(bundle.directory)
    if not quantized_already(quantized, calibrated.found.table, options, compared=True):
        found, rounded = calibrated.found, trials.plain.rounded
        quantized = quantize_bundle(quantized, found.table, options, crops=found.crops, rounded=rounded)
        seconds = calibrated.seconds + time.perf_counter() - began
    graph = quantized.read(quantized.variant("int8", target=options.target.name))
    for backend in backends or _usual_backends(options.target):
        tell(f"{how} for {options.target.name} on {backend}")
        yield _loss(goal, bundle, graph, evaluated, how=how, target=options.target.name, backend=backend, seconds=seconds)


def mixed_losses(
    goal: Goal,
    bundle: Bundle,
    options: Int8Options,
    backends: Sequence[str] | None,
    evaluated: Sequence[Evaluated],
    *,
    trials: Trials,
    tell: Tell,
) -> Iterator[Loss]:
    """With the layers in float that gain most for their multiply-accumulates, as many as there is room for."""
    target = options.target.name
    tell(f"sredge {options.effort.value} for {target}: layers to keep in float")
    room = trials.int8_mac_share(trials.plain) - MIXED_SHARE
    lifted = frozenset(lifting_order(trials.costs, trials.noise, spare=room))
    if not lifted:
        return  # everything is more than there is room for
    mixed = trials.fitted(lifted)
    share, graph = trials.int8_mac_share(mixed), mixed.model.SerializeToString(deterministic=True)
    how = f"sredge {options.effort.value}, {share_text(share)} int8"
    for backend in backends or _usual_backends(options.target):
        tell(f"{how} for {target} on {backend}")
        aim = replace(goal, loss_db=goal.mixed_loss_db)
        yield _loss(aim, bundle, graph, evaluated, how=how, target=target, backend=backend, seconds=None)


def _usual_backends(target: Target) -> tuple[str, ...]:
    return ("openvino", "onnxruntime") if target.name == "cpu" else (target.default_backend,)


def their_loss(
    goal: Goal, bundle: Bundle, evaluated: Sequence[Evaluated], crops: Sequence[NDArray[np.float32]], *, tell: Tell
) -> Loss:
    """ONNX Runtime's own: QDQ, per channel, percentile 99.999, on as many crops as layers are rounded on."""

    alike = [crop for crop in crops if crop.shape == crops[0].shape]  # its calibrator takes one size
    tell(_THEIRS)
    began = time.perf_counter()
    bundle.read(bundle.variant("fp32"))  # checked, since ONNX Runtime opens it by its path
    graph = onnxruntime_quantizer.quantize(bundle.path(bundle.variant("fp32")), alike)
    seconds = time.perf_counter() - began
    return _loss(goal, bundle, graph, evaluated, how=_THEIRS, target="", backend="onnxruntime", seconds=seconds)


def calibrate(bundle: Bundle, calib: str, data: Path, tell: Tell) -> Calibrated:
    """As `python -m quantize` does it."""
    began = time.perf_counter()
    request = TableRequest(calib=calib, root=data, percentile=DEFAULT_PERCENTILE, mix=None)
    steps = lambda phase, done, total: tell(f"{phase} {done} of {total}")  # noqa: E731
    found = find_table(Bundle.open(bundle.directory), request, on_step=steps)
    return Calibrated(found, time.perf_counter() - began)


def _loss(
    goal: Goal,
    bundle: Bundle,
    graph: bytes,
    evaluated: Sequence[Evaluated],
    *,
    how: str,
    target: str,
    backend: str,
    seconds: float | None,
) -> Loss:
    with open_backend(backend, graph, precision="int8") as int8:
        made = [int8.run(one.array) for one in evaluated]
    scores = [_scored(bundle, output, one.low, one.high) for output, one in zip(made, evaluated, strict=True)]
    losses = [_lost_db(one.fp32_score, now) for one, now in zip(evaluated, scores, strict=True)]
    by_set = {
        name: float(np.mean([loss for loss, one in zip(losses, evaluated, strict=True) if one.dataset == name])) for name in SETS
    }
    worst = int(np.argmax(losses))
    ssim_loss = np.mean([one.fp32_score.ssim - now.ssim for one, now in zip(evaluated, scores, strict=True)])
    against = [psnr_db(output.clip(0, 1), one.fp32.clip(0, 1), peak=1) for output, one in zip(made, evaluated, strict=True)]
    return Loss(
        network=goal.name,
        how=how,
        target=target,
        backend=backend,
        loss_db={name: round(loss, 4) for name, loss in by_set.items()},
        average_db=round(float(np.mean(list(by_set.values()))), 4),
        goal_db=goal.loss_db,
        ssim_loss=round(float(ssim_loss), 5),
        worst_db=round(losses[worst], 3),
        worst=evaluated[worst].name,
        psnr_vs_fp32_db=round(float(np.mean(against)), 2),
        seconds=None if seconds is None else round(seconds, 1),
    )


def _lost_db(before: Score, after: Score) -> float:
    """Infinite where fp32's picture is the truth itself and int8's is not."""
    return 0.0 if before.psnr_db == after.psnr_db else before.psnr_db - after.psnr_db


def _scored(bundle: Bundle, output: NDArray[np.float32], low: Picture, high: Picture) -> Score:
    rows, columns = upscaled_size((low.shape[0], low.shape[1]), bundle.manifest.scale)
    cropped = output[:, :, :rows, :columns]  # without what comes of filling the picture up
    picture = from_network(cropped, bundle.manifest.contract.colour, source=low, rounding=PROTOCOL.rounding)
    return score(picture, high, PROTOCOL, scale=bundle.manifest.scale)
