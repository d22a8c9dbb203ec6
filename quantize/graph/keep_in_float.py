"""Keep layers and additions in float: their names in, the placement of quantizers without them out.

A layer, which then runs in float; an addition inside one, which then reads what was never rounded; and the input of a layer, as
LAYER.input: the layer stays in int8 and reads its input's rounding error too (`low_rank_correction.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from quantize.graph.input_correction import is_correctable, readings_of_input
from quantize.graph.placement import Placement, liftable_additions, place_quantizers
from runtime.errors import UnknownNameError, UserError
from runtime.targets import Target


@dataclass(frozen=True)
class Liftable:
    """The names of what a graph can keep in float, in the order it runs; inputs by the layer that reads them."""

    layers: tuple[str, ...]
    additions: tuple[str, ...]
    inputs: dict[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.layers, *self.additions, *self.inputs)


@dataclass(frozen=True)
class LiftedGraph:
    """Where quantizers are with something kept in float.

    Attributes:
        corrected: the layers in int8 that read their input's rounding error.
        fitted_as_float: operators that weights are fitted for as if they read no tensor rounded: those that do not, and what
            reads the inputs of corrected layers.
    """

    placement: Placement
    corrected: tuple[str, ...]
    fitted_as_float: frozenset[str]


def find_liftable(graph: ir.Graph, target: Target) -> Liftable:
    """Return what can be kept in float in `graph`, an fp32 network."""
    layers = place_quantizers(graph, target).int8_layers
    inputs = {f"{node.name}.input": str(node.name) for node in graph if node.name in layers and is_correctable(node, target)}
    return Liftable(layers, liftable_additions(graph, target), {name: of for name, of in inputs.items() if name not in layers})


def lift(graph: ir.Graph, lifted: frozenset[str], target: Target) -> LiftedGraph:
    """Return where quantizers are with `lifted` names in float, if any.

    Raises:
        UserError: the target has no float, a name is unknown, or all layers are to be kept in float.
    """
    if lifted and target.everything_int8:
        raise UserError(
            f"target {target.name} runs everything in int8: no layer can be kept in float", hint="choose another target"
        )
    known = find_liftable(graph, target)
    for name in sorted(lifted.difference(known.names)):
        raise UnknownNameError("layer", name, valid=known.names)
    if lifted and lifted.issuperset(known.layers):
        raise UserError(
            "with every layer kept in float nothing is left in int8", hint="that is the bundle's fp32 graph: keep fewer in float"
        )
    inputs = known.inputs.keys() & lifted
    placement = place_quantizers(graph, target, lifted=lifted - inputs)
    reading = {known.inputs[name] for name in inputs} - lifted
    corrected = [node for node in graph if node.name in reading]
    placement = _moved_as_floats(placement, corrected, target)
    names = tuple(str(node.name) for node in corrected)
    return LiftedGraph(placement, names, placement.float_readers.union(names))


def _moved_as_floats(placement: Placement, layers: Sequence[ir.Node], target: Target) -> Placement:
    """Return `placement` where the inputs of `layers` are moved about for them before they are rounded, and not after."""
    quantizers = dict(placement.quantizers)
    movers: set[str] = set()
    for layer in layers:
        for reading in readings_of_input(layer, target)[:-1]:
            movers.add(str(reading.reader.name))
            if all(use.node is reading.reader for use in reading.tensor.uses()):
                quantizers.pop(str(reading.tensor.name), None)
    return replace(placement, quantizers=quantizers, float_readers=placement.float_readers | movers)
