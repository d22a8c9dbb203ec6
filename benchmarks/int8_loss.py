"""python -m benchmarks.int8_loss --data FOLDER --weights FOLDER: what int8 loses, network by network, beside onnxruntime's.

Each network is exported with its authors' weights, calibrated on pictures that are not evaluated, quantized with every effort asked
for, and evaluated on Set5 and Set14 under protocol paper-y. Everything is in int8, first and last layer too. A bundle that is there
and up to date is not made again.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from json import dumps
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.compare import calibrated_on
from benchmarks.evaluated import PROTOCOL, Tell, evaluate
from benchmarks.loss import (
    GOALS,
    MIXED_SHARE,
    SETS,
    Goal,
    Loss,
    calibrate,
    mixed_losses,
    our_losses,
    their_loss,
    trials_of,
)
from benchmarks.machine import count_cores, describe_machine
from calibration.datasets import CALIB_HELP, DATA_HELP, find_images
from calibration.pairs import hash_pair
from calibration.ranges import Method
from calibration.table import CalibrationSource
from export.models import find_network
from export.stage import export_network
from export.weights import find_weights
from quantize.int8 import some_of
from quantize.options import Effort, Int8Options
from runtime.backends import choose_backend
from runtime.bundle import BUILD, Bundle
from runtime.errors import DatasetError, UnknownNameError, UserError, WeightsError
from runtime.files.whole import write_whole
from runtime.targets import Target, find_target
from runtime.terminal import console

app = console.application("Measure what int8 loses, network by network.")


@app.command()
def int8_loss(
    data: Annotated[str, typer.Option(help=f"{DATA_HELP}; here the last, with Set5, Set14 and what is calibrated on")],
    weights: Annotated[
        Path, typer.Option(help=f"trained weights: the folder that holds {', '.join(goal.weights for goal in GOALS)}")
    ],
    network: Annotated[
        list[str] | None,
        typer.Option(help=f"the network: {', '.join(goal.name for goal in GOALS)}; repeat for several [default: all]"),
    ] = None,
    target: Annotated[list[str] | None, typer.Option(help="the accelerator; repeat for several [default: cpu, openvino]")] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="what runs the graph; repeat for several [default: those of the target]")
    ] = None,
    effort: Annotated[
        list[Effort] | None, typer.Option(help="effort against what int8 loses; repeat for several [default: all]")
    ] = None,
    calib: Annotated[str, typer.Option(help=CALIB_HELP)] = "div2k",
    mixed: Annotated[
        bool, typer.Option("--mixed/--no-mixed", help=f"also with layers in float, {MIXED_SHARE:.0%} of MACs or more in int8")
    ] = True,
    theirs: Annotated[bool, typer.Option("--onnxruntime/--no-onnxruntime", help="ONNX Runtime's own beside it")] = True,
    out: Annotated[Path, typer.Option(help="where the result goes: the folder of it and of bundles")] = BUILD / "int8-loss",
) -> None:
    """Measure what int8 loses on Set5 and Set14, network by network."""
    goals = _find_goals(network)
    every = list(_options(target, effort))
    _check_inputs(goals, Path(data), weights, calib=calib, backends=backend, out=out)
    losses: list[Loss] = []
    with console.progress() as bar:
        task = bar.add_task("measuring", total=None)
        for goal in goals:

            def tell(doing: str, name: str = goal.name) -> None:
                bar.update(task, description=f"{name}: {doing}")

            tell("exporting")
            bundle = _exported(goal, weights, out / goal.name)
            first = calibrate(bundle, calib, Path(data), replace(every[0], effort=Effort.BALANCED), tell)
            _check_apart(bundle, first.found.table.source, calib, Path(data), tell)
            sets = [find_images(name, scale=goal.scale, use="evaluation", root=Path(data)) for name in SETS]
            evaluated = list(evaluate(bundle, sets, tell))
            for options in every:
                calibrated = calibrate(bundle, calib, Path(data), options, tell)
                with trials_of(bundle, options, calibrated.found, tell) as trials:
                    losses += our_losses(goal, bundle, options, backend, evaluated, calibrated=calibrated, trials=trials, tell=tell)
                    if mixed and not options.target.everything_int8:
                        losses += mixed_losses(goal, bundle, options, backend, evaluated, trials=trials, tell=tell)
            if theirs:
                losses.append(their_loss(goal, bundle, evaluated, some_of(first.found.crops), tell=tell))
    body = {
        "machine": describe_machine().model_dump(),
        "protocol": str(PROTOCOL),
        "losses": [_finite(asdict(loss)) for loss in losses],
    }
    with _writing(out):
        write_whole(out / "int8-loss.json", dumps(body, indent=1, allow_nan=False).encode())
    _print_losses(losses)
    console.show(f"{count_cores()} cores, {describe_machine().processor}; calibrated on {calib}; {out / 'int8-loss.json'}")


def _find_goals(networks: Sequence[str] | None) -> list[Goal]:
    """Return those of that name, or all."""
    names = {goal.name: goal for goal in GOALS}
    for name in networks or ():
        if name not in names:
            raise UnknownNameError("network", name, valid=names)
    return [names[name] for name in networks or names]


def _check_inputs(
    goals: Sequence[Goal], data: Path, weights: Path, *, calib: str, backends: Sequence[str] | None, out: Path
) -> None:
    """Raise UserError for what is missing or misspelt, now rather than after the networks before it were measured."""
    for name in backends or ():
        choose_backend(name)
    for goal in goals:
        for name in (*SETS, calib):
            find_images(name, scale=goal.scale, use="calibration" if name == calib else "evaluation", root=data)
        if not (weights / goal.weights).is_file():
            raise WeightsError(
                f"--weights {weights}: there is no {goal.weights} in it, the weights of {goal.name}",
                hint=f"--weights FOLDER, which holds it, or other networks: --network {GOALS[0].name}",
            )
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror or error}", hint="another --out") from error


def _check_apart(bundle: Bundle, source: CalibrationSource, calib: str, data: Path, tell: Tell) -> None:
    """Raise DatasetError where a picture that is evaluated was calibrated on, by its pixels' hash."""
    scale = bundle.manifest.scale
    for name in SETS:
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
    return replace(target, name=f"{target.name}-float32", float_dtype="float32", backends=("onnxruntime",))


def _exported(goal: Goal, weights: Path, directory: Path) -> Bundle:
    network = find_network(goal.network, scale=goal.scale)
    found = find_weights(network, scale=goal.scale, choice=str(weights / goal.weights))
    return export_network(network, scale=goal.scale, weights=found, directory=directory)


def _finite(fields: dict[str, object]) -> dict[str, object]:
    """JSON has no infinity: null stands for that of equal pictures."""
    return {
        name: _finite(value) if isinstance(value, dict) else None if isinstance(value, float) and math.isinf(value) else value
        for name, value in fields.items()
    }


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
            *(f"{loss.loss_db[name]:.3f}" for name in SETS),
            f"{loss.average_db:.3f}",
            f"{loss.goal_db:.3g}{'' if loss.average_db <= loss.goal_db else ' (!)'}",
            f"{loss.ssim_loss:.4f}",
            f"{loss.worst_db:.3f}",
            f"{loss.psnr_vs_fp32_db:.1f}",
            "" if loss.seconds is None else f"{loss.seconds:.0f}",
        )
    console.out.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m benchmarks.int8_loss")


if __name__ == "__main__":
    main()
