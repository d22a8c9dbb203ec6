"""Free a file that is fixed to one size, where it is proven that no constant stands for that size; else leave it fixed.

The proof is by operator (size_rules.py), on the shapes of every tensor at the file's own size and at two others that share no
factor with it: a constant of the picture's shape then meets a tensor of another one, and what is left is what an operator computes
wrongly without a word. Where the network looks no further than a halo, the freed graph is also held against the fixed one on pieces
of a larger picture: away from the pieces' borders both must give the same.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from export.arithmetic import infer_sizes
from export.axes import NAMES
from export.foreign.guarded import open_guarded
from export.foreign.original import Run, open_graph
from export.foreign.shapes import Shapes
from export.foreign.size_constants import find_size_constant
from export.foreign.size_rules import find_burnt_in
from export.foreign.sizes import Probe, Size, Sizes, enlarged, is_prime, measure_sizes
from export.reach import receptive_field
from runtime.errors import BackendError, UserError

_NAMED = re.compile(r"[Nn]ode(?:\. Name:'| \()([^')]*)")
_SAME = 1e-4  # of values in [0, 1], as the parity of an export


@dataclass(frozen=True)
class Freed:
    """The graph for any size, and what sizes; or why it stays fixed."""

    model: ir.Model | None
    sizes: Sizes | None
    reason: str


def free_sizes(model: ir.Model, own: Size, *, channels: int, factor: float, path: Path) -> Freed:
    """Free `model`, which is fixed to pictures of `own` (H, W) and enlarges them by `factor`."""
    free = with_input(model, (NAMES[0], channels, *NAMES[2:]))
    try:
        run = open_guarded(free)
        sizes = measure_sizes(Probe(run, channels=channels), path, scale=factor, own=own)
    except (BackendError, UserError) as error:
        return Freed(None, None, _name_failure(error, model))
    others = [_other_size(own, sizes, index) for index in range(2)]
    try:
        at_sizes = [_shapes(free, size) for size in (own, *others)]
    except onnx.shape_inference.InferenceError as error:
        return Freed(None, None, _name_failure(error, model))
    reason = find_burnt_in(free.graph, Shapes(at_sizes)) or _compare_pieces(free, run, model, own, sizes, channels=channels)
    return Freed(None, None, reason) if reason else Freed(free, sizes, "")


def with_input(model: ir.Model, shape: tuple[int | str, ...]) -> ir.Model:
    """Return a copy of `model` that takes pictures of `shape`, and says nothing of any other tensor."""
    changed = ir.from_proto(ir.to_proto(model))
    for node in changed.graph:
        for output in node.outputs:
            output.shape = None
    changed.graph.inputs[0].shape = ir.Shape(shape)
    changed.graph.outputs[0].shape = ir.Shape([None] * 4)
    return changed


def _shapes(model: ir.Model, size: Size) -> dict[str, tuple[int | None, ...]]:
    graph = infer_sizes(ir.to_proto(model), (1, *size))
    values = (*graph.inputs, *(output for node in graph for output in node.outputs))
    return {
        str(value.name): tuple(side if isinstance(side, int) else None for side in value.shape)
        for value in values
        if value.shape is not None
    }


def _other_size(own: Size, sizes: Sizes, index: int) -> Size:
    """Return one larger and one smaller than `own`, or also larger, of sides that share no factor with it but the multiple."""
    multiple, burnt = sizes.multiple_of, own[0] * own[1]
    primes = [prime for prime in range(2, 997) if is_prime(prime) and burnt % prime and prime * multiple >= sizes.least_side]
    smaller = [prime for prime in primes if prime * multiple < min(own)][-2:]
    larger = [prime for prime in primes if prime * multiple > max(own)][:4]
    chosen = smaller if index and len(smaller) == 2 else larger[2 * index : 2 * index + 2]
    return chosen[0] * multiple, chosen[1] * multiple


def _compare_pieces(free: ir.Model, run: Run, fixed: ir.Model, own: Size, sizes: Sizes, *, channels: int) -> str:
    """Return why the freed graph differs on a larger picture from the fixed one on pieces.

    "" where it does not, or looks too far.
    """
    field = receptive_field(free.graph, multiple_of=sizes.multiple_of)
    halo, unit = field.halo, math.lcm(field.alignment, sizes.multiple_of)
    if halo == "global" or 2 * halo + unit >= min(own):
        return ""
    run_fixed = open_graph(ir.to_proto(with_input(fixed, (1, channels, *own))).SerializeToString())
    step = unit * max(1, min(own) // (3 * unit))
    picture = np.random.default_rng(1).random((1, channels, own[0] + step, own[1] + 2 * step), np.float32)
    whole = run(picture)
    for top, left in ((0, 0), (step, 2 * step), (step, 0)):
        piece = run_fixed(np.ascontiguousarray(picture[:, :, top : top + own[0], left : left + own[1]]))
        inside = [slice(math.ceil(halo * sizes.factor), math.floor((side - halo) * sizes.factor)) for side in own]
        start = enlarged((top, left), sizes.factor)
        same = whole[:, :, start[0] : start[0] + piece.shape[2], start[1] : start[1] + piece.shape[3]]
        difference = np.abs(piece[:, :, inside[0], inside[1]] - same[:, :, inside[0], inside[1]])
        peak = max(1.0, float(np.abs(piece).max()))
        if difference.size and not float(difference.max()) <= _SAME * peak:
            return f"on pieces of a larger picture it gives something else, by {float(difference.max()):.1e}"
    return ""


def _name_failure(error: Exception, fixed: ir.Model) -> str:
    """Return which operator has the size in it: by its constants, else the one that the runtime names."""
    known = find_size_constant(fixed.graph)
    if known:
        return known
    found = _NAMED.search(str(error))
    return f"with other sizes {found[1]} does not run" if found and found[1] else "with other sizes the graph does not run"
