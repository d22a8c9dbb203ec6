"""python -m benchmarks.peers [BUNDLE…] --calib NAME|DIR: sredge's int8 beside other quantizers', in a table per network.

Each peer runs in an environment of its own, which is made on first use, in a process that has one core and a time limit; so does
`python -m quantize`. What a peer made is kept, and its row costs nothing the next time; sredge's rows are measured again whenever
its code has changed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.evaluated import PROTOCOL
from benchmarks.machine import describe_machine
from benchmarks.peers.attempts import OURS, Subject
from benchmarks.peers.interleaved import TURNS
from benchmarks.peers.measure import Asked, Pictures, find_pictures, measure
from benchmarks.peers.pictures import write_calibration
from benchmarks.peers.registry import PEERS, find_rows
from benchmarks.peers.scores import Row
from benchmarks.peers.table import AHEAD, cost_columns, loss_columns, markdown_table, terminal_table
from calibration.datasets import CALIB_HELP, DATA_HELP
from quantize.options import Effort
from runtime.backends import choose_backend
from runtime.bundle import BUILD, Bundle, resolve_bundle
from runtime.errors import UserError
from runtime.files.whole import check_writable, write_whole
from runtime.targets import TARGETS, find_target
from runtime.terminal import console

_MINUTES = 15
_CALIBRATED_ON = 32
_SETS = ("set5", "set14")

app = console.application("Measure sredge's int8 beside other quantizers'.")


@app.command()
def peers(
    bundles: Annotated[
        list[Path] | None, typer.Argument(metavar="[BUNDLE]...", help="bundles [default: the only one under build/]")
    ] = None,
    calib: Annotated[str, typer.Option(help=f"{CALIB_HELP}; every quantizer's")] = "bsds500",
    data: Annotated[
        list[str] | None, typer.Option(help=f"{DATA_HELP}; to evaluate on, repeat for several [default: {', '.join(_SETS)}]")
    ] = None,
    calib_pictures: Annotated[int, typer.Option(min=1, help="at most so many pictures to calibrate on")] = _CALIBRATED_ON,
    per_set: Annotated[
        int | None, typer.Option(min=1, help="at most so many pictures of a set to evaluate on [default: all]")
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help=f"the other quantizer: {', '.join(one.name for one in PEERS)}, or one row, as '{PEERS[1].rows[1]}'; "
            "repeat for several [default: all]"
        ),
    ] = None,
    effort: Annotated[
        list[Effort] | None, typer.Option(help="effort against what int8 loses; repeat for several [default: all]")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help=f"the accelerator: {', '.join(known.name for known in TARGETS)}; repeat for several [default: openvino]"),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="what runs the graph, and judges what it loses; repeat for several [default: openvino]"),
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="time limit of each quantizer")] = _MINUTES,
    turns: Annotated[int, typer.Option(min=1, help="how often each way is measured; the median counts")] = TURNS,
    out: Annotated[
        Path, typer.Option(help="where the result goes: the folder of peers' environments and of what they made")
    ] = BUILD / "peers",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="the result as JSON, in a file")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="the tables as Markdown")] = False,
    force: Annotated[bool, typer.Option("--force", "--fresh", help="again even if nothing changed")] = False,
) -> None:
    """Measure sredge's int8 beside other quantizers': loss, time and memory to quantize, latency."""
    asked = Asked(
        peers=find_rows(peer),
        efforts=effort or list(Effort),
        targets=[find_target(name) for name in target or ["openvino"]],
        backends=[choose_backend(name).name for name in backend or ["openvino"]],
        calib=calib,
        data=data or _SETS,
        calib_pictures=calib_pictures,
        per_set=per_set,
        turns=turns,
    )
    opened = [Bundle.open(path) for path in bundles or [resolve_bundle(None)]]
    pictures = [find_pictures(bundle, asked) for bundle in opened]
    _check_writable(out, json_file)
    every: list[list[Row]] = []
    with console.progress() as bar:
        task = bar.add_task("measuring", total=None)
        for bundle, its in zip(opened, pictures, strict=True):

            def tell(doing: str, name: str = bundle.directory.name) -> None:
                bar.update(task, description=f"{name}: {doing}")

            calibration = write_calibration(its.calibration, bundle.manifest, out / "calibration")
            every.append(measure(Subject(bundle, calibration, minutes * 60, out, force), its, asked, tell))
    if json_file is not None:
        _write_json(every, json_file)
    _print_tables(every, markdown=markdown)
    for line in _conditions(every, pictures[0], asked):
        console.show(f"- {line}" if markdown else line)


def _check_writable(out: Path, json_file: Path | None) -> None:
    """Raise UserError now rather than after minutes of measuring."""
    path = out
    try:
        out.mkdir(parents=True, exist_ok=True)
        check_writable(out / "probe")
        if json_file is not None:
            path = json_file
            check_writable(path)
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror or error}", hint="another --out or --json") from error


def _write_json(every: Sequence[Sequence[Row]], path: Path) -> None:
    body = {
        "machine": describe_machine().model_dump(),
        "protocol": str(PROTOCOL),
        "rows": [_plain(asdict(row)) for rows in every for row in rows],
    }
    try:
        write_whole(path, json.dumps(body, indent=1, allow_nan=False).encode() + b"\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _plain(value: Any) -> Any:  # noqa: ANN401 # JSON
    """Return what JSON has a form for: no infinity, which is that of equal pictures, and no paths."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, float) and math.isinf(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _print_tables(every: Sequence[Sequence[Row]], *, markdown: bool) -> None:
    for rows in every:
        console.show(f"### {rows[0].network}\n" if markdown else rows[0].network)
        for columns in (loss_columns(rows), cost_columns(rows)):
            if markdown:
                console.show(markdown_table(rows, columns))
            else:
                console.out.print(terminal_table(rows, columns))
            console.show("")


def _conditions(every: Sequence[Sequence[Row]], pictures: Pictures, asked: Asked) -> list[str]:
    """Say how the figures were taken, and what the tables' marks and heads mean."""
    attempts = [row.attempt for rows in every for row in rows]
    versions = dict.fromkeys(f"{one.who} {one.version}" for one in attempts if one.version)
    sets = ", ".join(f"{len(one.pairs)} pictures of {one.name}" for one in pictures.sets)
    ours = [one.label for one in attempts if one.who == OURS and one.graph is not None]
    return [
        f"dB: PSNR of fp32 less that of int8, {PROTOCOL}; {sets}",
        f"calibrated on {len(pictures.calibration.pairs)} pictures of {pictures.calibration.name}: "
        "sredge on its own crops of them, every other quantizer on one crop of each",
        "vs fp32: PSNR of the outputs as floats; int8 conv: share of the graph's convolutions that openvino multiplies in int8",
        "CPU s, peak MB: of the quantizer's process on one core, its imports included, as the operating system counts them",
        f"ms: CPU time of one thread, median of {asked.turns}, the graphs in turn in one process; × fp32: how many times as fast "
        f"as fp32 there{f'; × sredge: the time as a multiple of that of {ours[-1]}' if ours else ''}",
        f"{AHEAD.strip()} ahead of every row of sredge's on that backend",
        ", ".join((f"{describe_machine().processor}", *versions)),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m benchmarks.peers")
