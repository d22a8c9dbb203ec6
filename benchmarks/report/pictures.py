"""Draw the report's pictures: what the networks made of the images, and how long each network took."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.compare import Panel
from benchmarks.result import Result
from runtime.images import Picture
from runtime.terminal.figures import measured_text

_SIDE = 192  # pixels of the output shown: enough to see texture, small enough to compare at a glance
_ERROR_LIMIT = 8  # 8-bit steps at which the error picture is brightest
_COLOURS = {"fp32": "#5b6b7b", "fp16": "#8aa0b5", "bf16": "#b58aa0", "int8": "#2f7f5f"}


def draw_panels(panels: Sequence[Panel]) -> bytes:
    """PNG: a row per picture; the input, bicubic, each precision, the truth, and int8's error against fp32."""
    precisions = list(dict.fromkeys(precision for panel in panels for precision in panel.outputs))
    with_error = {"fp32", "int8"} <= set(precisions)
    titles = ["input", "bicubic", *precisions, "ground truth", *(["|int8 − fp32|"] if with_error else [])]
    figure = Figure(figsize=(2.3 * len(titles), 2.5 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), len(titles), squeeze=False)
    for line, panel in zip(axes, panels, strict=True):
        crop = _detail_window(panel.high)
        images = [_enlarge(panel.low, panel.high)[crop], panel.bicubic[crop]]
        blank = np.full_like(panel.high[crop], 255)  # a bundle may lack a precision that another has
        images += [panel.outputs[precision][crop] if precision in panel.outputs else blank for precision in precisions]
        images.append(panel.high[crop])
        for axis in line[len(images) :]:
            axis.set_axis_off()
        for axis, image, title in zip(line, images, titles, strict=False):
            _show(axis, image, title)
        line[0].set_ylabel(panel.name, fontsize=9)
        if {"fp32", "int8"} <= panel.outputs.keys():
            _show_error(line[-1], panel.outputs["int8"][crop], panel.outputs["fp32"][crop], figure)
    return _png(figure)


def draw_latency(result: Result) -> bytes:
    """PNG: median latency of every row that has one as a bar, its 90th percentile as a whisker where there were runs enough."""
    timed = [(row, row.latency) for row in result.rows if row.latency is not None]
    rows, latencies = [row for row, _ in timed], [latency for _, latency in timed]
    figure = Figure(figsize=(7, 0.6 + 0.42 * len(rows)), layout="constrained")
    axis = figure.subplots()
    medians = [latency.p50_ms for latency in latencies]
    tails = [0.0 if latency.p90_ms is None else latency.p90_ms - latency.p50_ms for latency in latencies]
    labels = [f"{row.graph}{'' if row.precision_verified else ' *'}, {row.backend}" for row in rows]
    bars = axis.barh(range(len(rows)), medians, color=[_COLOURS[row.precision] for row in rows], height=0.62)
    if any(tails):
        axis.errorbar(medians, range(len(rows)), xerr=[[0.0] * len(rows), tails], fmt="none", ecolor="black")
    axis.bar_label(bars, [f" {measured_text(value)}" for value in medians], fontsize=8)
    axis.set_yticks(range(len(rows)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(
        f"ms, median of {latencies[0].n}"
        + "; whisker: 90th percentile" * any(tails)
        + "; * did not run as asked" * any(not row.precision_verified for row in rows)
        + f"\n{result.machine.processor}, {latencies[0].threads} threads",
        fontsize=8,
    )
    axis.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _detail_window(picture: Picture) -> tuple[slice, slice]:
    """Return the square of `_SIDE` pixels whose neighbouring pixels differ most, on a grid of half a square."""
    grey = picture.astype(np.float32).mean(axis=2)
    height, width = (min(_SIDE, size) for size in grey.shape)
    tops = range(0, grey.shape[0] - height + 1, _SIDE // 2)
    lefts = range(0, grey.shape[1] - width + 1, _SIDE // 2)
    windows = [(slice(top, top + height), slice(left, left + width)) for top in tops for left in lefts]
    return max(windows, key=lambda window: float(np.abs(np.diff(grey[window], axis=1)).mean()))


def _enlarge(low: Picture, high: Picture) -> Picture:
    """Return `low` with every pixel repeated, at the size of `high`."""
    factor = high.shape[0] // low.shape[0]
    return low.repeat(factor, axis=0).repeat(factor, axis=1)


def _show(axis: Axes, image: NDArray[np.uint8], title: str) -> None:
    axis.imshow(image, interpolation="nearest")
    axis.set_title(title, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])


def _show_error(axis: Axes, int8: Picture, fp32: Picture, figure: Figure) -> None:
    error = np.abs(int8.astype(np.int16) - fp32.astype(np.int16)).max(axis=2)
    image = axis.imshow(error, cmap="magma", vmin=0, vmax=_ERROR_LIMIT, interpolation="nearest")
    axis.set_axis_on()
    axis.set_title(f"|int8 − fp32|, max {int(error.max())}", fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])
    figure.colorbar(image, ax=axis, fraction=0.046, label="8-bit steps").ax.tick_params(labelsize=7)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call] # matplotlib leaves it bare
    return buffer.getvalue()
