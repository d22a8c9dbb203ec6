"""Random networks of the operators that super-resolution networks are made of: a plan drawn from a seed, and its graph.

A plan is a head, some steps and a tail. Every step takes features of `CHANNELS` channels at the picture's own size and gives the
same, so that any sequence is a network: ×2, of RGB in [0, 1]; what it adds to the enlarged picture is small, as in trained ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx

from tests.random_graphs.body import CHANNELS, SCALE, Body
from tests.random_graphs.enlarging import HEADS, TAILS
from tests.random_graphs.layers import LAYERS
from tests.random_graphs.structures import GLOBAL, MULTIPLES, STRUCTURES

STEPS = {**LAYERS, **STRUCTURES}
_GLOBAL = GLOBAL | {"instance norm", "linear corners"}
_DETAIL = 0.2  # how much of the steps' result is added to the enlarged picture
FIXED = (32, 48)
"""(H, W) of the graphs that are fixed to one size."""
# Where a constant stands for the picture's size, and no operator says so. As for "linear": the simplifier puts a MatMul and an Add
# of a fixed size between two Reshapes to that size.
_TIED = frozenset(
    (
        *("channel shuffle", "window attention", "attention of channels", "contrast by sums", "spatial attention"),
        *("linear", "repeated", "linear corners"),
    )
)

Form = Literal["free", "fixed", "constant nodes"]


@dataclass(frozen=True)
class Plan:
    """What a random graph is built of, by name; `seed` draws weights and what steps leave open."""

    seed: int
    head: str
    steps: tuple[str, ...]
    tail: str
    form: Form

    @property
    def is_global(self) -> bool:
        """Whether some operator looks at the whole picture, or at a place that depends on its size."""
        return not _GLOBAL.isdisjoint((self.head, *self.steps, self.tail))

    @property
    def multiple(self) -> int:
        """What the sides of its input are multiples of."""
        return max((MULTIPLES.get(step, 1) for step in (self.head, *self.steps, self.tail)), default=1)

    @property
    def may_stay_fixed(self) -> bool:
        """Whether its sizes are burnt in, in a way that need not be found out."""
        return self.form == "fixed" and not _TIED.isdisjoint((*self.steps, self.tail))

    @property
    def operators(self) -> frozenset[str]:
        """Of ONNX, in the graph."""
        return frozenset(node.op_type for node in build(self).graph.node)


def draw_plan(seed: int) -> Plan:
    """The plan of that seed. Seeds in a row go through all heads, steps and tails in turn, and add others at random."""
    rng = np.random.default_rng(seed)
    steps, tails, heads, forms = tuple(STEPS), tuple(TAILS), tuple(HEADS), ("free", "fixed", "constant nodes")
    turn = [steps[(2 * seed + at) % len(steps)] for at in range(2)]
    drawn = [str(step) for step in rng.choice(steps, int(rng.integers(0, 3)))]
    form: Form = forms[int(rng.integers(3))]  # type: ignore[assignment] # one of them
    return Plan(
        seed,
        heads[seed % len(heads)],
        tuple(str(step) for step in rng.permutation([*turn, *drawn])),
        tails[seed % len(tails)],
        form,
    )


def build(plan: Plan) -> onnx.ModelProto:
    """The graph of `plan`: (N, 3, H, W) -> (N, 3, 2H, 2W), opset 18."""
    body = Body(plan.seed, fixed=FIXED if plan.form == "fixed" else None)
    body.current = HEADS[plan.head](body)
    for step in plan.steps:
        body.kept.append(body.current)
        body.current = STEPS[step](body, body.current)
    detail = body.graph.add("Mul", TAILS[plan.tail](body, body.current), body.graph.constant(_DETAIL))
    scales = body.graph.constant(np.array([1, 1, SCALE, SCALE], np.float32))
    larger = body.graph.add(
        "Resize", "input", "", scales, mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"
    )
    proto = body.graph.proto(body.graph.add("Add", larger, detail))
    if plan.form == "constant nodes":
        _turn_into_nodes(proto)
    return proto


def _turn_into_nodes(proto: onnx.ModelProto) -> None:
    """Small constants as Constant nodes, as torch's legacy exporter writes them."""
    small = [tensor for tensor in proto.graph.initializer if math.prod(tensor.dims) <= CHANNELS]
    nodes = [onnx.helper.make_node("Constant", [], [tensor.name], name=f"make_{tensor.name}", value=tensor) for tensor in small]
    kept = [tensor for tensor in proto.graph.initializer if tensor not in small]
    others = list(proto.graph.node)
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.initializer.extend(kept)
    proto.graph.node.extend([*nodes, *others])
