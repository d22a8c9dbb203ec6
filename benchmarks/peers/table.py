"""Turn rows into two tables, of what int8 loses and of what it costs, and mark where a peer is ahead of sredge.

Both are for one network, for the terminal or in Markdown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from rich.table import Table

from benchmarks.peers.attempts import OURS
from benchmarks.peers.scores import Row
from runtime.terminal.figures import measured_text

AHEAD = " (!)"
_NAME = "quantized by"
_WIDEST_NAME = 40  # columns of the terminal; a longer reason goes on below


@dataclass(frozen=True)
class Column:
    """A figure of a row: how it is read, how it is written, and which of two is ahead."""

    head: str
    value: Callable[[Row], float | None]
    text: Callable[[float], str]
    is_less_ahead: bool | None = True
    """None where neither is."""


def loss_columns(rows: Sequence[Row]) -> list[Column]:
    """Return what int8 loses, by data set and over all of them."""
    sets = dict.fromkeys(name for row in rows if row.scored.judged for name in row.scored.judged.loss_db)
    return [
        *(Column(f"{name} dB", partial(_loss_db, name), _three_places) for name in sets),
        Column("worst dB", partial(_judged, "worst_db"), _three_places),
        Column("SSIM lost", partial(_judged, "ssim_loss"), "{:.4f}".format),
        Column("vs fp32 dB", partial(_judged, "psnr_vs_fp32_db"), _closeness, False),
        Column("int8 conv", _int8_share, "{:.0%}".format, False),
    ]


def cost_columns(rows: Sequence[Row]) -> list[Column]:
    """Return what quantizing takes, and what int8 takes on each backend that any of `rows` was timed on."""
    backends = dict.fromkeys(name for row in rows for name in row.timed)
    return [
        Column("CPU s", _cpu_seconds, measured_text),
        Column("peak MB", _peak_mb, "{:.0f}".format),
        *(column for name in backends for column in _time_columns(name)),
    ]


def _time_columns(backend: str) -> tuple[Column, ...]:
    return (
        Column(f"{backend} ms", partial(_timed, backend, "cpu_ms"), measured_text, None),
        Column("× fp32", partial(_timed, backend, "times_fp32"), "{:.2f}".format, False),
        Column("× sredge", partial(_timed, backend, "times_sredge"), "{:.2f}".format, None),
    )


def _timed(backend: str, field: str, row: Row) -> float | None:
    return getattr(row.timed[backend], field) if backend in row.timed else None


def _judged(field: str, row: Row) -> float | None:
    return None if row.scored.judged is None else getattr(row.scored.judged, field)


def _cpu_seconds(row: Row) -> float | None:
    return None if row.attempt.counted is None else row.attempt.counted.cpu_seconds


def _peak_mb(row: Row) -> float | None:
    return None if row.attempt.counted is None else row.attempt.counted.peak_bytes / 1e6


def _loss_db(name: str, row: Row) -> float | None:
    return row.scored.judged.loss_db.get(name) if row.scored.judged else None


def _int8_share(row: Row) -> float | None:
    return row.scored.int8_convolutions / row.scored.convolutions if row.scored.convolutions else None


def _closeness(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "equal"


def _three_places(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # + 0.0: no "-0.000"


def name_of(row: Row, *, backends: int) -> str:
    """Return who quantized how, on which backend where there are several, and why it made nothing."""
    where = f" on {row.backend}" if backends > 1 else ""
    failure = f": {row.failure}" if row.failure else ""
    return f"{row.attempt.label}{where}{failure}"


def cells(rows: Sequence[Row], columns: Sequence[Column]) -> Iterator[list[str]]:
    """Yield the texts of each row; a peer's figure that is ahead of every one of sredge's on the same backend is marked."""
    backends = len({row.backend for row in rows})
    for row in rows:
        ours = [other for other in rows if other.attempt.who == OURS and other.backend == row.backend]
        yield [name_of(row, backends=backends), *(_cell(row, column, ours) for column in columns)]


def _cell(row: Row, column: Column, ours: Sequence[Row]) -> str:
    value = column.value(row)
    if value is None:
        return "–"
    text = column.text(value)
    return f"{text}{AHEAD}" if is_ahead(row, column, ours) else text


def is_ahead(row: Row, column: Column, ours: Sequence[Row]) -> bool:
    """Return whether a peer's figure, as it is printed, is ahead of every one of `ours`.

    An attempt that failed is ahead in none, nor is a graph of which nothing was quantized.
    """
    value, theirs = column.value(row), [other for one in ours if not one.failure and (other := column.value(one)) is not None]
    if (
        row.attempt.who == OURS
        or row.failure
        or not row.scored.int8_convolutions
        or column.is_less_ahead is None
        or value is None
        or not theirs
    ):
        return False
    best = min(theirs) if column.is_less_ahead else max(theirs)
    ahead = value < best if column.is_less_ahead else value > best
    return ahead and column.text(value) != column.text(best)


def terminal_table(rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(_NAME, max_width=_WIDEST_NAME, overflow="fold")
    for column in columns:
        table.add_column(column.head, justify="right", no_wrap=True)
    for row, texts in zip(rows, cells(rows, columns), strict=True):
        table.add_row(*texts, style="dim" if row.failure else None)
    return table


def markdown_table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    lines = [[_NAME, *(column.head for column in columns)], ["---", *("---:" for _ in columns)], *cells(rows, columns)]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)
