"""Log a training run: a CSV file that grows as it trains, and the plot of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from matplotlib.figure import Figure

from export.train.recipe import Progress
from runtime.files.whole import write_whole

_COLUMNS = tuple(field.name for field in fields(Progress))


def read_log(path: Path, *, up_to: int) -> list[Progress]:
    """Return the reports of a log up to that step; none where there is no log."""
    if not path.is_file():
        return []
    rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
    reports = (Progress(int(row["step"]), *(float(row[name]) for name in _COLUMNS[1:])) for row in rows)
    return [report for report in reports if report.step <= up_to]


def write_log(path: Path, reports: Sequence[Progress]) -> None:
    """Write the CSV file, whole."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for report in reports:
        step, *values = astuple(report)
        writer.writerow([step, *(f"{value:.6g}" for value in values)])
    write_whole(path, text.getvalue().encode())


def draw_log(reports: Sequence[Progress], *, title: str) -> bytes:
    """PNG: the loss, and the PSNR on the pictures held out, over the steps."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    loss_axis = figure.subplots()
    steps = [report.step for report in reports]
    losses = [report.loss for report in reports]
    loss_axis.plot(steps, losses, color="#8aa0b5")
    scale = "log" if max(losses, default=0) > 0 else "linear"  # a network may learn a flat colour exactly
    loss_axis.set(xlabel="step", ylabel="L1 loss", yscale=scale, title=title)
    psnr_axis = loss_axis.twinx()
    psnr_axis.plot(steps, [report.held_out_db for report in reports], color="#2f7f5f")
    psnr_axis.set_ylabel("PSNR on held-out pictures, dB", color="#2f7f5f")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
