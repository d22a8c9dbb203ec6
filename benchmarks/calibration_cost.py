"""python -m benchmarks.calibration_cost [BUNDLE] --data PICTURES: time and memory, beside ONNX Runtime's percentile calibrator.

Both see the same crops and the same tensors, each in a process of its own, one after the other, in turns; peak memory is the
process's, its imports included. The network run on those crops, and nothing else done, is what neither can be faster than.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import typer
from numpy.typing import NDArray
from rich.table import Table

from benchmarks import onnxruntime_quantizer
from benchmarks.machine import count_cores, describe_machine
from benchmarks.worker import end_with_parent
from calibration.crops import crops_of, describe_source
from calibration.datasets import CALIB_HELP, DATA_HELP, SAMPLES, choose_pictures, find_images
from calibration.measure import measure_activations
from calibration.ranges import DEFAULT_PERCENTILE
from calibration.table import CalibrationSource
from quantize.stage import load_fp32
from quantize.tensor_ranges import observed_tensors
from runtime.backends.onnxruntime import session_options
from runtime.bundle import Bundle, resolve_bundle
from runtime.terminal import console
from runtime.terminal.figures import measured_text

app = console.application("Measure what calibration costs, beside ONNX Runtime's.")
Crops = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Cost:
    """Seconds, and the peak of the process's resident memory."""

    seconds: float
    peak_bytes: int


@app.command()
def calibration_cost(
    bundle: Annotated[Path | None, typer.Argument(help="the bundle [default: the only one under build/]")] = None,
    calib: Annotated[str | None, typer.Option(help=CALIB_HELP)] = None,
    data: Annotated[str | None, typer.Option(help=f"{DATA_HELP} [default: {SAMPLES}]")] = None,
    crops: Annotated[int, typer.Option(min=1, help="how many crops of the pictures")] = 16,
    crop_size: Annotated[str, typer.Option(metavar="HxW", help="size of a crop")] = "96x96",
    turns: Annotated[int, typer.Option(min=1, help="how often each way is measured; the median counts")] = 3,
    theirs: Annotated[bool, typer.Option("--onnxruntime/--no-onnxruntime", help="ONNX Runtime's own beside it")] = True,
) -> None:
    """Measure what calibration costs."""
    opened = Bundle.open(resolve_bundle(bundle))
    scale, contract = opened.manifest.scale, opened.manifest.contract
    pictures, root = choose_pictures(calib=calib, data=data, default=SAMPLES)
    images = find_images(pictures, scale=scale, use="calibration", root=root)
    source = describe_source(images, scale=scale, crops=crops, crop_size=console.parse_size(crop_size, option="--crop-size"))
    given = list(crops_of(images, source, scale=scale, contract=contract))
    ways: dict[str, Callable[[], None]] = {"sredge": partial(_ours, opened.directory, source, given)}
    if theirs:
        ways["onnxruntime percentile"] = partial(_theirs, opened.directory, given)
    ways["the network alone"] = partial(_network, opened.directory, given)
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    with console.progress() as bar:
        task = bar.add_task("measuring", total=turns * len(ways))
        for _ in range(turns):
            for name, way in ways.items():
                bar.update(task, description=name)
                costs[name].append(_in_a_process(way))
                bar.advance(task)
    _print_costs(costs)
    console.show(
        f"{len(given)} crops of {_sizes(given)}, {opened.directory}; {turns} turns (seconds: their median, peak: the largest); "
        f"{describe_machine().processor}, {count_cores()} cores"
    )


def _sizes(crops: Crops) -> str:
    """As they are: of a picture smaller than --crop-size the whole is taken."""
    least, most = min(crop.shape[2:] for crop in crops), max(crop.shape[2:] for crop in crops)
    return "×".join(map(str, least)) + ("" if least == most else " to " + "×".join(map(str, most)))


def _ours(directory: Path, source: CalibrationSource, crops: Crops) -> None:
    model = ir.from_proto(load_fp32(Bundle.open(directory)))
    tensors = observed_tensors(model.graph)
    measure_activations(model, iter(crops), tensors=tensors, source=source, percentile=DEFAULT_PERCENTILE)


def _theirs(directory: Path, crops: Crops) -> None:
    bundle = Bundle.open(directory)
    bundle.read(bundle.variant("fp32"))  # checked, since ONNX Runtime opens it by its path
    onnxruntime_quantizer.calibrate(bundle.path(bundle.variant("fp32")), crops)


def _network(directory: Path, crops: Crops) -> None:
    bundle = Bundle.open(directory)
    graph = bundle.read(bundle.variant("fp32"))
    session = ort.InferenceSession(graph, session_options(), providers=["CPUExecutionProvider"])
    for crop in crops:
        session.run(None, {session.get_inputs()[0].name: crop})


def _in_a_process(way: Callable[[], None]) -> Cost:
    with get_context("spawn").Pool(1, initializer=end_with_parent) as pool:
        return pool.apply(_measured, (way,))


def _measured(way: Callable[[], None]) -> Cost:
    began = time.perf_counter()
    way()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Cost(seconds, peak if sys.platform == "darwin" else peak * 1024)


def _print_costs(costs: dict[str, list[Cost]]) -> None:
    table = Table("calibrator", "s", "× sredge", "peak MiB", box=None, header_style="bold", pad_edge=False)
    taken = {name: median(cost.seconds for cost in runs) for name, runs in costs.items()}
    for name, runs in costs.items():
        peak = max(cost.peak_bytes for cost in runs) / 2**20
        table.add_row(name, measured_text(taken[name]), f"{taken[name] / taken['sredge']:.2f}", f"{peak:.0f}")
    console.out.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m benchmarks.calibration_cost")


if __name__ == "__main__":
    main()
