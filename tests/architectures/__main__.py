"""python -m tests.architectures [NAME…]: the table of what becomes of each architecture, from each exporter, on each target."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from calibration.datasets import SAMPLES
from quantize.options import Effort
from runtime.files.whole import write_whole
from runtime.targets import TARGETS, find_target
from runtime.terminal import console
from runtime.terminal.figures import share_text
from tests.architectures import ARCHITECTURES, find_architecture
from tests.architectures.exporters import EXPORTERS, find_exporter
from tests.architectures.table import Row, Settings, rows

_HEADS = (
    "network",
    "exporter",
    "target",
    "halo",
    "tiles",
    "sizes",
    "MACs int8",
    "as run",
    "on",
    "fp32 dB",
    "lost dB",
    "theirs",
    "vs simulated",
    "cost",
)
_WIDTHS = (8, 8, 9, 12, 5, 9, 9, 6, 11, 11, 13, 13, 13, 5)
_LONGEST = 240  # letters of a refusal; all of it is in the file of --json

app = console.application("Show what becomes of each architecture, from each exporter, on each target.")


@app.command()
def table(
    names: Annotated[list[str] | None, typer.Argument(help="which architectures [default: every one]")] = None,
    exporter: Annotated[str, typer.Option(help="exporters, with commas between")] = ",".join(one.name for one in EXPORTERS),
    target: Annotated[str, typer.Option(help="targets, with commas between")] = ",".join(one.name for one in TARGETS),
    effort: Annotated[Effort, typer.Option(help="effort against what int8 loses")] = Effort.FAST,
    data: Annotated[
        Path | None, typer.Option(help="folder with Set5, Set14 and BSDS500 [default: windows of the sample photographs]")
    ] = None,
    crops: Annotated[int | None, typer.Option(min=1, help="how many crops to calibrate on [default: as quantize]")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="the result as JSON, in a file")] = None,
) -> None:
    """Print a row as soon as it is done; a failure is a row."""
    networks = [find_architecture(name) for name in names] if names else list(ARCHITECTURES)
    exporters = [find_exporter(name) for name in exporter.split(",")]
    targets = [find_target(name) for name in target.split(",")]
    settings = Settings(effort, data, SAMPLES if data is None else "bsds500", crops)
    done: list[Row] = []
    with console.progress() as bar:
        task = bar.add_task("importing", total=None)
        console.show(_line(_HEADS))
        for row in rows(networks, exporters, targets, settings, tell=lambda doing: bar.update(task, description=doing)):
            done.append(row)
            console.show(_describe(row))
            if json_file is not None:
                write_whole(json_file, json.dumps([asdict(one) for one in done], indent=1).encode() + b"\n")


def _describe(row: Row) -> str:
    refused = f"refused: {row.failed}"[:_LONGEST]
    if row.failed and not row.halo:
        return _line((row.architecture, row.exporter, row.target, refused))
    found = (row.halo.split(" ")[0], "" if row.tiles is None else str(row.tiles), row.sizes)
    if row.failed:
        return _line((row.architecture, row.exporter, row.target, *found, refused))
    check = "" if row.backend_psnr_db is None else f"{row.backend_psnr_db:.0f} of {row.expected_db:.0f}"
    ran = (_share(row.int8_macs), _share(row.int8_macs_ran), row.backend, _decibels(row.fp32_db, 2))
    lost = (_decibels(row.loss_db, 3), _decibels(row.their_loss_db, 3) or "fails")
    cost = "" if row.cost is None else f"{row.cpu_seconds:.0f} s, {row.cost:.1f}"
    return _line((row.architecture, row.exporter, row.target, *found, *ran, *lost, check, cost))


def _share(share: float | None) -> str:
    return "" if share is None else share_text(share)


def _decibels(by_set: Mapping[str, float], digits: int) -> str:
    return " / ".join(f"{value:.{digits}f}" for value in by_set.values())


def _line(cells: Sequence[str]) -> str:
    widths = [*_WIDTHS[: len(cells) - 1], 0]
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m tests.architectures")


if __name__ == "__main__":
    main()
