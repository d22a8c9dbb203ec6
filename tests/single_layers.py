"""Run and fit one operator by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from quantize.graph.qdq import RoundedWeight
from quantize.graph.walk import open_node
from quantize.weights.fit_layer import fit_layer
from quantize.weights.layer_sample import draw_sample
from runtime.targets import Target
from tests.graphs import Array


def run_node(node: ir.Node, inputs: Sequence[Sequence[Array]], *, opsets: Mapping[str, int]) -> list[list[Array] | None]:
    """Return each output of `node`, crop by crop; `inputs`, likewise, what it reads that is no constant."""
    run = open_node(node, [given[0] for given in inputs], opsets=opsets)
    made = [run(given) for given in zip(*inputs, strict=True)]
    return [None if one[0] is None else [array for array in one if array is not None] for one in zip(*made, strict=True)]


def fit(
    node: ir.Node, given: Sequence[Array], wanted: Sequence[Array], rng: np.random.Generator, *, target: Target, input_scale: float
) -> RoundedWeight | None:
    """Return `node` rounded so that of the inputs `given`, crop by crop, it makes what is `wanted`; None where it has no parts."""
    sample = draw_sample(node, [array.shape for array in given], rng)
    if sample is None:
        return None
    for made in wanted:
        sample.note(made)
    return fit_layer(node, given, sample, target=target, input_scale=input_scale)
