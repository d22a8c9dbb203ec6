"""Prepare a network before it is rounded: an fp32 graph in, the same function out, in the form that loses least in int8.

Channels are mixed and equalized, ends are put on the pixel grid, ReLUs are centred; all of it is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.table import CalibrationTable
from export.graph.opset import raise_opset
from quantize.exact.backend_forms import BEFORE_QUANTIZERS, take_forms
from quantize.exact.centre import Centred, centre
from quantize.exact.equalize import equalize
from quantize.exact.equalize_weights import equalize_weights, scaled_ranges
from quantize.exact.mix_channels import mix_channels
from quantize.exact.pixel_grid import PixelGrid, align_ends
from quantize.exact.subpixel import SHUFFLED
from quantize.graph.qdq import ActivationRange
from quantize.options import Int8Options
from quantize.tensor_ranges import known_ranges, largest_values, mixed_ranges, wide_range
from runtime.targets import Target


@dataclass(frozen=True)
class Prepared:
    """The fp32 graph that an int8 graph can be held against: of the same tensors and layers, by name, and of the same output.

    Attributes:
        known: ranges that need no measuring.
        grid, centred: what became of the graph.
        factors: what each channel of a tensor was multiplied by after it was measured, (C,) by name.
        target: the one asked for.
    """

    model: ir.Model
    known: Mapping[str, ActivationRange]
    grid: PixelGrid
    centred: Centred
    target: Target
    factors: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


def prepare(model: onnx.ModelProto, table: CalibrationTable, options: Int8Options) -> Prepared:
    """Return `model`, at the lowest opset that the target takes or its own, and what is known of it."""
    target, prepared = options.target, ir.from_proto(raise_opset(model, options.target.opset_range[0]))
    graph = prepared.graph
    rewrite_as_measured(graph, table)
    take_forms(graph, target, BEFORE_QUANTIZERS)
    factors = equalize_weights(graph, table) if target.has_wide_codes else {}
    known = {name: wide_range(ends) for name, ends in scaled_ranges(table, factors).items()}
    known |= {**mixed_ranges(graph, table, options), **known_ranges(graph, target)}
    grid, centred = PixelGrid(), Centred()
    if "pixel-grid" in options.steps:
        grid = align_ends(prepared, target)
    if "centre" in options.steps and target.activation_symmetric and not target.has_wide_codes:
        centred = centre(graph, target, largest_values(graph, table, options))
    for constant in [value for value in graph.initializers.values() if not value.uses()]:
        del graph.initializers[str(constant.name)]  # what others have taken the place of
    return Prepared(prepared, {**known, **grid.ranges, **centred.ranges}, grid, centred, target, factors)


def rewrite_as_measured(graph: ir.Graph, table: CalibrationTable) -> None:
    """Mix and scales channels of the fp32 `graph` in place as they were when `table` was measured."""
    if table.mixing is not None:
        mix_channels(graph, table.mixing)
    if table.equalization is not None:
        equalize(graph, table.equalization)


def with_shuffled(table: CalibrationTable) -> CalibrationTable:
    """Return `table`, and what it holds under the names that `subpixel.py` has for the same values."""
    shuffled = {f"{name}{SHUFFLED}": statistics for name, statistics in table.tensors.items()}
    return table.model_copy(update={"tensors": {**table.tensors, **shuffled}})


def channel_means(table: CalibrationTable, prepared: Prepared) -> dict[str, NDArray[np.float64]]:
    """(C,) for each tensor measured, and for those that were made of them."""
    means = {name: np.asarray(statistics.channel_means) for name, statistics in table.tensors.items() if statistics.channel_means}
    means = {name: mean * prepared.factors.get(name, 1.0) for name, mean in means.items()}
    for name, (source, gain, offset, last) in prepared.grid.made_of.items():
        if source in means:
            means[name] = np.append(means[source] * gain + offset, last)
    for name, (source, offset) in prepared.centred.shifts.items():
        if source in means:
            means[name] = means[source] - offset
    return means
