"""Plot an explanation: one line per layer with error, clipping, codes and cost; below, pictures and colours."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quantize.explain.result import ExplainedLayer, ExplainedPicture, Explanation, Shift, is_exact

_INT8, _OTHER, _FP32, _LOSS = "#2f7f5f", "#c0762c", "#5b6b7b", "#b5483a"
_PICTURES = 12  # the worst; more would not be read
_FEWEST = 5  # bars that there is room for: fewer do not grow thicker
_NARROWEST = {"clipped": 0.01, "shift": 0.1}  # percent and 8-bit steps that fill an axis: less should look like little
_CHANNELS = {"R": "#b5483a", "G": "#2f7f5f", "B": "#3f6fb5"}


def draw(explanation: Explanation, *, title: str) -> bytes:
    """PNG."""
    layers, pictures = explanation.layers, explanation.pictures[:_PICTURES]
    upper, lower = 0.22 * len(layers) + 0.8, 0.24 * max(len(pictures), _FEWEST) + 0.9
    figure = Figure(figsize=(13, upper + lower), layout="constrained")
    figure.suptitle(title, fontsize=11)
    top, bottom = figure.subfigures(2, 1, height_ratios=(upper, lower), squeeze=False)[:, 0]
    _draw_layers(top.subplots(1, 4, sharey=True, width_ratios=(3, 1.2, 1.2, 1.2)), layers)
    to_fp32, drop, shift = bottom.subplots(1, 3, width_ratios=(2, 2, 1.6))
    _draw_pictures(to_fp32, drop, pictures)
    _draw_shift(shift, explanation.colour_shift)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw_layers(axes: Sequence[Axes], layers: Sequence[ExplainedLayer]) -> None:
    error, clipped, codes, cost = axes
    lines = range(len(layers))
    for label, colour, form, values in (
        ("with int8's inputs (accumulated)", _INT8, "o-", [layer.sqnr_db for layer in layers]),
        ("with fp32's inputs (this layer alone)", _OTHER, "x-", [layer.alone_sqnr_db for layer in layers]),
        ("PSNR of the output, nothing else in int8", _LOSS, "s", [layer.output_psnr_db for layer in layers]),
    ):
        drawn = [math.nan if value is None or is_exact(value) else value for value in values]
        if not all(map(math.isnan, drawn)):
            error.plot(drawn, lines, form, color=colour, label=label, markersize=5, linewidth=0.8)
    for line in [line for line, layer in enumerate(layers) if is_exact(layer.sqnr_db)]:
        error.text(0.01, line, "exact", transform=error.get_yaxis_transform(), fontsize=7, verticalalignment="center", color=_INT8)
    error.set_xlabel("SQNR, dB", fontsize=8)
    if error.get_legend_handles_labels()[1]:  # where every layer is exact there is no line
        error.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    error.set_yticks(lines, [layer.name for layer in layers], fontsize=7)
    error.set_ylim(len(layers) - 0.5, -0.5)
    clipped.barh(lines, [100 * (layer.clipped_share or 0) for layer in layers], color=_LOSS)
    clipped.set_xlabel("clipped, % of values", fontsize=8)
    clipped.set_xlim(0, max(_NARROWEST["clipped"], clipped.get_xlim()[1]))
    codes.barh(lines, [100 * (layer.codes_used_share or 0) for layer in layers], color=_FP32)
    codes.set_xlabel("codes used, %", fontsize=8)
    codes.set_xlim(0, 100)
    colours = [_INT8 if layer.ran == "int8" else _OTHER for layer in layers]
    cost.barh(lines, [layer.macs / 1e9 for layer in layers], color=colours)
    cost.set_xlabel("GMAC; orange: not in int8", fontsize=8)
    for axis in axes:
        axis.grid(axis="x", alpha=0.3)
        _plain(axis)


def _draw_pictures(to_fp32: Axes, drop: Axes, pictures: Sequence[ExplainedPicture]) -> None:
    lines, names = range(len(pictures)), [picture.name for picture in pictures]
    bars = to_fp32.barh(lines, [picture.psnr_vs_fp32_db or 0 for picture in pictures], color=_INT8)
    texts = ["equal" if picture.psnr_vs_fp32_db is None else f" {picture.psnr_vs_fp32_db:.1f}" for picture in pictures]
    to_fp32.bar_label(bars, texts, fontsize=7)
    to_fp32.set_xlabel("PSNR against fp32's picture, dB: the worst", fontsize=8)
    bars = drop.barh(lines, [picture.drop_db or 0 for picture in pictures], color=_LOSS)
    drop.bar_label(bars, ["" if picture.drop_db is None else f" {picture.drop_db:.3f}" for picture in pictures], fontsize=7)
    drop.set_xlabel("lost against the truth, dB (RGB)", fontsize=8)
    for axis, labels in ((to_fp32, names), (drop, [""] * len(names))):
        axis.set_yticks(lines, labels, fontsize=7)
        axis.set_ylim(max(len(names), _FEWEST) - 0.5, -0.5)
        axis.margins(x=0.15)
        _plain(axis)


def _draw_shift(axis: Axes, shift: Shift) -> None:
    bars = axis.bar(list(_CHANNELS), shift, color=list(_CHANNELS.values()))
    axis.bar_label(bars, [f"{value:+.3f}" for value in shift], fontsize=8)
    axis.axhline(0, color="black", linewidth=0.6)
    limit = 1.3 * max(_NARROWEST["shift"], *map(abs, shift))
    axis.set_ylim(-limit, limit)
    axis.set_title("colour shift, mean of int8 − fp32, 8-bit steps", fontsize=8)
    _plain(axis)


def _plain(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=7)
