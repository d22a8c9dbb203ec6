"""python -m benchmarks.int8_loss --data FOLDER --weights FOLDER: what int8 loses, network by network, beside onnxruntime's.

Each network is exported with its authors' weights, calibrated on pictures that are not evaluated, quantized with every effort asked
for, and evaluated on Set5 and Set14 under protocol paper-y. Everything is in int8, first and last layer too. A bundle that is there
and up to date is not made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from json import dumps
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from benchmarks import onnxruntime_quantizer
from benchmarks.compare import calibrated_on
from benchmarks.machine import count_cores, describe_machine
from benchmarks.metrics import Score, psnr_db, score
from benchmarks.protocols import find_protocol
from calibration.datasets import find_images
from calibration.pairs import hash_pair, load_pair
from calibration.ranges import DEFAULT_PERCENTILE, CalibrationSource, Method
from export.models import find_network
from export.stage import export_network
from export.weights import find_weights
from quantize.int8 import some_of
from quantize.options import Effort, Int8Options
from quantize.search.choose import lifting_order
from quantize.search.result import Timing
from quantize.search.trials import Subject, Trials
from quantize.stage import load_fp32, quantize_bundle, quantized_already
from quantize.tables import FoundTable, TableRequest, find_table
from runtime import console
from runtime.backends import open_backend
from runtime.bundle import BUILD, Bundle
from runtime.errors import DatasetError, UnknownNameError
from runtime.files import write_whole
from runtime.images import Picture, from_network, to_network
from runtime.targets import Target, find_target

_SETS = ("set5", "set14")
_PROTOCOL = find_protocol("paper-y")
_MIXED_SHARE = 0.98
_THEIRS = "onnxruntime quantize_static"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Goal:
    """A network, the file of its authors' weights, and the losses that are aimed at, of the average over the sets.

    The second is with as many layers in float as leave `_MIXED_SHARE` of multiply-accumulates in int8.
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
class _Evaluated:
    """A picture of a set: what goes in, and what fp32 makes of it and scores."""

    name: str
    dataset: str
    low: Picture
    high: Picture
    array: NDArray[np.float32]
    fp32: NDArray[np.float32]
    fp32_score: Score


@dataclass(frozen=True)
class _Calibrated:
    """A table, and what it took to measure it."""

    found: FoundTable
    seconds: float


app = console.application("Measure what int8 loses, network by network.")


@app.command()
def int8_loss(
    data: Annotated[Path, typer.Option(help="the folder that holds Set5, Set14 and what is calibrated on")],
    weights: Annotated[Path, typer.Option(help=f"the folder that holds {', '.join(goal.weights for goal in GOALS)}")],
    network: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(goal.name for goal in GOALS)}; repeat for several [default: all]")
    ] = None,
    target: Annotated[list[str] | None, typer.Option(help="targets; repeat for several [default: cpu, openvino]")] = None,
    backend: Annotated[list[str] | None, typer.Option(help="repeat for several [default: those of the target]")] = None,
    effort: Annotated[list[Effort] | None, typer.Option(help="repeat for several [default: all]")] = None,
    calib: Annotated[str, typer.Option(help="what is calibrated on")] = "div2k",
    mixed: Annotated[
        bool, typer.Option("--mixed/--no-mixed", help=f"also with layers in float, {_MIXED_SHARE:.0%} of MACs or more in int8")
    ] = True,
    theirs: Annotated[bool, typer.Option("--onnxruntime/--no-onnxruntime", help="quantize_static beside it")] = True,
    out: Annotated[Path, typer.Option(help="folder of bundles and of the result")] = BUILD / "int8-loss",
) -> None:
    """Measure what int8 loses on Set5 and Set14, network by network."""
    names = {goal.name: goal for goal in GOALS}
    for name in network or ():
        if name not in names:
            raise UnknownNameError("network", name, valid=names)
    losses: list[Loss] = []
    with console.progress() as bar:
        task = bar.add_task("measuring", total=None)
        for goal in [names[name] for name in network] if network else GOALS:

            def tell(doing: str, name: str = goal.name) -> None:
                bar.update(task, description=f"{name}: {doing}")

            tell("exporting")
            bundle = _exported(goal, weights, out / goal.name)
            evaluated: list[_Evaluated] = []
            tables: dict[bool, _Calibrated] = {}  # by whether it is that of effort best
            for options in _options(target, effort):
                is_best = options.effort is Effort.BEST
                if is_best not in tables:
                    tables[is_best] = _calibrated(bundle, calib, data, tell, is_best=is_best)
                calibrated = tables[is_best]
                if not evaluated:
                    _check_apart(bundle, calibrated.found.table.source, calib, data, tell)
                    evaluated = list(_evaluated(bundle, data, tell))
                losses += _ours(goal, bundle, options, backend, evaluated, calibrated=calibrated, tell=tell)
                if mixed and not options.target.everything_int8:
                    losses += _mixed(goal, bundle, options, backend, evaluated, found=calibrated.found, tell=tell)
            if theirs:
                losses.append(_their_loss(goal, bundle, evaluated, some_of(calibrated.found.crops), tell=tell))
    body = {"machine": describe_machine().model_dump(), "protocol": str(_PROTOCOL), "losses": [asdict(loss) for loss in losses]}
    write_whole(out / "int8-loss.json", dumps(body, indent=1).encode())
    _print_losses(losses)
    console.show(f"{count_cores()} cores, {describe_machine().processor}; calibrated on {calib}; {out / 'int8-loss.json'}")


def _check_apart(bundle: Bundle, source: CalibrationSource, calib: str, data: Path, tell: Tell) -> None:
    """DatasetError where a picture that is evaluated was calibrated on, by its pixels' hash."""
    scale = bundle.manifest.scale
    for name in _SETS:
        images = find_images(name, scale=scale, use="evaluation", root=data)
        tell(f"hashing {name}")
        shared = calibrated_on(source, images, [hash_pair(pair, scale=scale) for pair in images.pairs])
        if shared:
            raise DatasetError(f"{calib} has pictures of {name}: {', '.join(shared[:3])}", hint="calibrate on others: --calib")


def _options(targets: Sequence[str] | None, efforts: Sequence[Effort] | None) -> Iterator[Int8Options]:
    for name in targets or ("cpu", "openvino"):
        for effort in efforts or Effort:
            yield Int8Options(target=_runs_here(find_target(name)), method=Method.PERCENTILE, effort=effort)


def _runs_here(target: Target) -> Target:
    """With float32 around the integers where it has float16: of that with integers CPU backends compute something else."""
    if target.float_dtype == "float32":
        return target
    return replace(target, name=f"{target.name}-float32", float_dtype="float32", default_backend="onnxruntime")


def _exported(goal: Goal, weights: Path, directory: Path) -> Bundle:
    network = find_network(goal.network, scale=goal.scale)
    found = find_weights(network, scale=goal.scale, choice=str(weights / goal.weights))
    return export_network(network, scale=goal.scale, weights=found, directory=directory)


def _evaluated(bundle: Bundle, data: Path, tell: Tell) -> Iterator[_Evaluated]:
    manifest = bundle.manifest
    with open_backend("openvino", bundle.read(bundle.variant("fp32")), precision="fp32") as fp32:
        for name in _SETS:
            images = find_images(name, scale=manifest.scale, use="evaluation", root=data)
            for pair in images.pairs:
                tell(f"{pair.name} in fp32")
                low, high = load_pair(pair, scale=manifest.scale)
                array = to_network(low, manifest.contract, scale=manifest.scale)
                made = fp32.run(array)
                yield _Evaluated(pair.name, name, low, high, array, made, _scored(bundle, made, low, high))


def _ours(
    goal: Goal,
    bundle: Bundle,
    options: Int8Options,
    backends: Sequence[str] | None,
    evaluated: Sequence[_Evaluated],
    *,
    calibrated: _Calibrated,
    tell: Tell,
) -> Iterator[Loss]:
    how = f"sredge {options.effort.value}"
    began = time.perf_counter()
    seconds = None
    quantized = Bundle.open(bundle.directory)
    if not quantized_already(quantized, calibrated.found.table, options, compared=True):
        steps = lambda phase, done, total: tell(f"{how} for {options.target.name}, {phase} {done} of {total}")  # noqa: E731
        quantized = quantize_bundle(quantized, calibrated.found.table, options, crops=calibrated.found.crops, on_step=steps)
        seconds = calibrated.seconds + time.perf_counter() - began
    graph = quantized.read(quantized.variant("int8", target=options.target.name))
    for backend in backends or _usual_backends(options.target):
        tell(f"{how} for {options.target.name} on {backend}")
        yield _loss(goal, bundle, graph, evaluated, how=how, target=options.target.name, backend=backend, seconds=seconds)


def _mixed(
    goal: Goal,
    bundle: Bundle,
    options: Int8Options,
    backends: Sequence[str] | None,
    evaluated: Sequence[_Evaluated],
    *,
    found: FoundTable,
    tell: Tell,
) -> Iterator[Loss]:
    """With the layers in float that gain most for their multiply-accumulates, as many as there is room for."""
    target = options.target.name
    timing = Timing(shape=(1, 1, 1, 1), warm_up=0, n=0)  # nothing is timed
    subject = Subject(bundle.manifest, load_fp32(bundle), found.table, options, found.crops, (), "", timing)
    tell(f"sredge {options.effort.value} for {target}: layers to lift")
    with Trials(subject, on_step=lambda phase, done, total: tell(f"{phase} {done} of {total}")) as trials:
        # what another layer does the work of is in int8 with it
        merged = sum(layer.macs for layer in bundle.manifest.layers if layer.name in trials.plain.merged_layers)
        room = sum(trials.shares.values()) + merged / max(bundle.manifest.macs, 1) - _MIXED_SHARE
        lifted = frozenset(lifting_order(trials.shares, trials.noise, spare=room))
        graph = trials.graph(lifted).model.SerializeToString(deterministic=True)
        share = 1 - sum(trials.shares[layer] for layer in lifted)
    how = f"sredge {options.effort.value}, {share:.1%} int8"
    for backend in backends or _usual_backends(options.target):
        tell(f"{how} for {target} on {backend}")
        mixed = replace(goal, loss_db=goal.mixed_loss_db)
        yield _loss(mixed, bundle, graph, evaluated, how=how, target=target, backend=backend, seconds=None)


def _usual_backends(target: Target) -> tuple[str, ...]:
    return ("openvino", "onnxruntime") if target.name == "cpu" else (target.default_backend,)


def _their_loss(
    goal: Goal, bundle: Bundle, evaluated: Sequence[_Evaluated], crops: Sequence[NDArray[np.float32]], *, tell: Tell
) -> Loss:
    """ONNX Runtime's own: QDQ, per channel, percentile 99.999, on as many crops as layers are rounded on."""

    alike = [crop for crop in crops if crop.shape == crops[0].shape]  # its calibrator takes one size
    tell(_THEIRS)
    began = time.perf_counter()
    graph = onnxruntime_quantizer.quantize(bundle.path(bundle.variant("fp32")), alike)
    seconds = time.perf_counter() - began
    return _loss(goal, bundle, graph, evaluated, how=_THEIRS, target="", backend="onnxruntime", seconds=seconds)


def _calibrated(bundle: Bundle, calib: str, data: Path, tell: Tell, *, is_best: bool) -> _Calibrated:
    """As `python -m quantize` does it: equalized at effort best, on pictures enough."""
    began = time.perf_counter()
    request = TableRequest(calib=calib, root=data, percentile=DEFAULT_PERCENTILE, equalize=None if is_best else False)
    steps = lambda phase, done, total: tell(f"{phase} {done} of {total}")  # noqa: E731
    found = find_table(Bundle.open(bundle.directory), request, on_step=steps)
    return _Calibrated(found, time.perf_counter() - began)


def _loss(
    goal: Goal,
    bundle: Bundle,
    graph: bytes,
    evaluated: Sequence[_Evaluated],
    *,
    how: str,
    target: str,
    backend: str,
    seconds: float | None,
) -> Loss:
    with open_backend(backend, graph, precision="int8") as int8:
        made = [int8.run(one.array) for one in evaluated]
    scores = [_scored(bundle, output, one.low, one.high) for output, one in zip(made, evaluated, strict=True)]
    losses = [one.fp32_score.psnr_db - now.psnr_db for one, now in zip(evaluated, scores, strict=True)]
    by_set = {
        name: float(np.mean([loss for loss, one in zip(losses, evaluated, strict=True) if one.dataset == name])) for name in _SETS
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


def _scored(bundle: Bundle, output: NDArray[np.float32], low: Picture, high: Picture) -> Score:
    picture = from_network(output, bundle.manifest.contract.colour, source=low, rounding=_PROTOCOL.rounding)
    return score(picture, high, _PROTOCOL, scale=bundle.manifest.scale)


def _print_losses(losses: Sequence[Loss]) -> None:
    heads = (
        "network",
        "quantized by",
        "target",
        "backend",
        "Set5 dB",
        "Set14 dB",
        "average",
        "aim",
        "SSIM",
        "worst dB",
        "vs fp32",
        "s",
    )
    table = Table(*heads, box=None, header_style="bold", pad_edge=False)
    for loss in losses:
        table.add_row(
            loss.network,
            loss.how,
            loss.target,
            loss.backend,
            *(f"{loss.loss_db[name]:.3f}" for name in _SETS),
            f"{loss.average_db:.3f}",
            f"{loss.goal_db:.3g}{'' if loss.average_db <= loss.goal_db else ' (!)'}",
            f"{loss.ssim_loss:.4f}",
            f"{loss.worst_db:.3f} {loss.worst}",
            f"{loss.psnr_vs_fp32_db:.1f}",
            "" if loss.seconds is None else f"{loss.seconds:.0f}",
        )
    console.out.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m benchmarks.int8_loss")


if __name__ == "__main__":
    main()
