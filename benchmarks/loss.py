"""Measure what one way to quantize one network loses: a bundle and evaluation sets in, dB lost per picture out.

The ways are sredge's own, sredge's with layers kept in float, and onnxruntime's quantizer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks import onnxruntime_quantizer
from benchmarks.evaluated import Evaluated, Tell, judge
from calibration.ranges import DEFAULT_PERCENTILE
from quantize.choose_rewrites import measure_rewritten
from quantize.options import Int8Options
from quantize.search.choose import lifting_order
from quantize.search.result import Timing
from quantize.search.trials import Subject, Trials
from quantize.stage import load_fp32, quantize_bundle, quantized_already
from quantize.tables import FoundTable, TableRequest, ToMeasure, look_for_table
from runtime.backends import open_backend
from runtime.bundle import Bundle
from runtime.targets import Target
from runtime.terminal.figures import share_text

SETS = ("set5", "set14")
MIXED_SHARE = 0.98
_THEIRS = "onnxruntime quantize_static"


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
class Calibrated:
    """A table, and what it took to measure it."""

    found: FoundTable
    seconds: float


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


def calibrate(bundle: Bundle, calib: str, data: Path, options: Int8Options, tell: Tell) -> Calibrated:
    """As `python -m quantize` does it."""
    began = time.perf_counter()
    request = TableRequest(
        calib=calib,
        root=data,
        percentile=DEFAULT_PERCENTILE,
        measure_again=True,
        equalize=None,
        usual_crop_size=options.usual_crop_size,
        mix=None,
        choose_rewrites=options.chooses_rewrites,
    )
    steps = lambda phase, done, total: tell(f"{phase} {done} of {total}")  # noqa: E731
    opened, model = Bundle.open(bundle.directory), load_fp32(bundle)
    found = look_for_table(opened, request, ir.from_proto(model).graph, target=options.target, on_step=steps)
    if isinstance(found, ToMeasure):
        found = measure_rewritten(model, found, options, manifest=bundle.manifest, on_step=steps)
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
    judged = judge(bundle, made, evaluated)
    return Loss(
        network=goal.name,
        how=how,
        target=target,
        backend=backend,
        loss_db=judged.loss_db,
        average_db=judged.average_db,
        goal_db=goal.loss_db,
        ssim_loss=judged.ssim_loss,
        worst_db=judged.worst_db,
        worst=judged.worst,
        psnr_vs_fp32_db=judged.psnr_vs_fp32_db,
        seconds=None if seconds is None else round(seconds, 1),
    )
