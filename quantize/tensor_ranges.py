"""Give each quantized tensor its range: known beforehand, or chosen from what calibration measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from calibration.ranges import Method, activation_range
from calibration.table import CalibrationTable
from export.graph.attributes import attribute
from export.graph.constants import constant_input
from quantize.exact.backend_forms import BEFORE_QUANTIZERS
from quantize.exact.mix_channels import mixable_groups
from quantize.exact.subpixel import SHUFFLED
from quantize.graph.operators import is_weighted, row_of
from quantize.graph.placement import Placement, Quantizer, Role, moved_chain, place_quantizers, tensor_roles
from quantize.graph.qdq import ActivationRange
from quantize.options import Int8Options
from runtime.targets import TARGETS, Target

_ROOM = 2  # times what was measured: of 16 bits one is left for what other pictures hold, and clipping costs more than it does


def observed_tensors(graph: ir.Graph, targets: Sequence[Target] = TARGETS) -> Collection[str]:
    """Return the tensors that a calibration table must hold for `graph` to be quantized for each of `targets`: those with a
    quantizer, and those that layers read.

    Quantizers stand in the form of the graph that backends need; the table is of the tensors that `graph` itself has.
    """
    formed = graph.clone()
    for _, form in BEFORE_QUANTIZERS:
        form(formed)
    quantizers = [quantizer for target in targets for quantizer in place_quantizers(formed, target).quantizers.values()]
    wanted = {quantizer.range_of for quantizer in quantizers} | {quantizer.name for quantizer in quantizers}
    own = {str(value.name) for value in (*graph.inputs, *(output for node in graph for output in node.outputs))}
    return sorted(own & {name.removesuffix(SHUFFLED) for name in wanted})


def known_ranges(graph: ir.Graph, target: Target) -> dict[str, ActivationRange]:
    """Ranges that need no measuring, because a picture's values lie in [0, 1] whatever pictures were calibrated on.

    They are the input's and the output's, and that of a 1×1 convolution from the input's colours to as many (a mean shift):
    interval arithmetic, Σ max(w·low, w·high) + b and Σ min(w·low, w·high) + b, the widest of its channels. Measured ranges
    would clip a white that the calibration pictures did not happen to have. What the target's table says that an operator writes is
    known too.
    """
    ends = [value for end in graph.outputs for value in moved_chain(end, target)]
    known: dict[str, ActivationRange] = {str(value.name): (0.0, 1.0) for value in (*graph.inputs, *ends)}
    for node in graph:
        row = row_of(node, target)
        if row is not None and row.writes is not None:
            known.setdefault(str(node.outputs[0].name), row.writes)
        source = node.inputs[0] if node.op_type == "Conv" and is_weighted(node) and attribute(node, "group", 1) == 1 else None
        if (
            source is None
            or source.name not in known
            or not all(value is None or value.const_value is not None for value in node.inputs[1:])
        ):
            continue
        weight = constant_input(node, 1)
        if weight.shape[0] == weight.shape[1] and weight.shape[2:] == (1, 1):
            low, high = known[source.name]
            products = np.stack([weight[:, :, 0, 0] * low, weight[:, :, 0, 0] * high])
            bias = constant_input(node, 2) if len(node.inputs) > 2 else np.zeros(weight.shape[0], np.float32)
            lowest, highest = products.min(axis=0).sum(axis=1) + bias, products.max(axis=0).sum(axis=1) + bias
            known[str(node.outputs[0].name)] = (float(lowest.min()), float(highest.max()))
    return known


def mixed_ranges(graph: ir.Graph, table: CalibrationTable, options: Int8Options) -> dict[str, ActivationRange]:
    """Ranges of least squared error for tensors whose channels were mixed, in the place of percentiles.

    What is clipped of one of their channels is a small part of what the picture is made of, and not a colour or an edge.
    """
    if table.mixing is None or options.method is not Method.PERCENTILE or options.target.has_wide_codes:
        return {}
    groups = mixable_groups(graph)
    tensors = [str(value.name) for name in table.mixing for value in groups[name].tensors]
    symmetric = options.target.activation_symmetric
    return {
        name: activation_range(table.tensors[name], method=Method.MSE, symmetric=symmetric)
        for name in tensors
        if name in table.tensors
    }


def choose_ranges(
    placement: Placement,
    table: CalibrationTable,
    options: Int8Options,
    *,
    known: Mapping[str, ActivationRange],
) -> Mapping[str, ActivationRange]:
    """Return a range for each tensor that a quantizer takes its range from.

    What is `known` is taken; else the method asked for, but for global skips, which take min-max where it is one that clips
    whatever the error: what is missing there is missing from the picture.
    """
    ranges = {}
    for quantizer in placement.quantizers.values():
        source = quantizer.range_of
        ranges[source] = (
            known[source]
            if source in known
            else _measured(source, quantizer, table, options, symmetric=options.target.activation_symmetric)
        )
    return ranges


def largest_values(graph: ir.Graph, table: CalibrationTable, options: Int8Options) -> dict[str, float]:
    """Return the high end of every measured tensor's range, as if all codes might be used between it and the low end."""
    roles = tensor_roles(graph, options.target)
    named = [Quantizer(name, name, role) for name, role in roles.items() if name in table.tensors]
    return {quantizer.name: _measured(quantizer.name, quantizer, table, options, symmetric=False)[1] for quantizer in named}


def wide_range(ends: ActivationRange) -> ActivationRange:
    """Return the range of 16-bit codes for values that were measured between `ends`."""
    return _ROOM * ends[0], _ROOM * ends[1]


def _measured(
    name: str, quantizer: Quantizer, table: CalibrationTable, options: Int8Options, *, symmetric: bool
) -> ActivationRange:
    if options.target.has_wide_codes:
        return wide_range((table.tensors[name].minimum, table.tensors[name].maximum))
    clips = quantizer.role is Role.SKIP and options.method is not Method.MSE
    return activation_range(
        table.tensors[name],
        method=Method.MINMAX if clips else options.method,
        symmetric=symmetric or quantizer.signed,
        percentile=options.percentile,
    )
