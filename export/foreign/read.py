"""Anybody's ONNX file, brought to the contract: (N, C, H, W) float32 in [0, 1] of any size it takes, RGB or luma.

The file is read (load.py), its picture in and out are found (ends.py), the graph is brought to normal form (normal_form.py), what
sizes it takes is measured and a fixed one freed where that is right (sized.py), and operators at its ends bring its values and
channels to the contract (contract_ends.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.axes import rename_axes
from export.foreign.contract_ends import CHANNELS, Order, convert_ends
from export.foreign.ends import Ends, find_ends
from export.foreign.load import load_file
from export.foreign.normal_form import NormalForm, to_normal_form
from export.foreign.original import Array, Run, open_graph, open_original
from export.foreign.rounding import KINDS, rounding_tolerance
from export.foreign.sized import Sized, find_sizes, fix_size
from export.parity import TOLERANCE
from runtime.bicubic import upscaled_size
from runtime.bundle import Contract
from runtime.errors import UserError

_SCALES = (1, 64)  # a manifest's


@dataclass(frozen=True)
class Foreign:
    """A file that was read, and what became of it.

    Attributes:
        model: the graph in normal form, at the exporter's native opset or above.
        scale: how many times larger the picture becomes.
        contract: what it takes.
        shape: (H, W) of a picture to compare it with the original on.
        run_original: what the file itself gives, (1, C, H, W) of the contract in and out, whatever batch it is fixed to.
        run_exact: the same of its float32 form; of a file in float32 the file itself.
        tolerance: how far the file in its own precision may be from its float32 form.
        notes: what was guessed, what was changed, and what could not be done.
    """

    model: ir.Model
    scale: float
    contract: Contract
    shape: tuple[int, int]
    run_original: Callable[[Array], Array]
    run_exact: Callable[[Array], Array]
    tolerance: float
    notes: tuple[str, ...]


def read_foreign(
    path: Path,
    *,
    scale: float | None,
    order: Order | None,
    value_range: tuple[float, float] | None,
    static: tuple[int, int] | None = None,
) -> Foreign:
    """Reads the super-resolution network in `path`, which enlarges by `scale`, or works on a picture enlarged before.

    Args:
        scale: None takes the network's own.
        order: its channels; None takes RGB for three and luma for one.
        value_range: its values for black and white; None takes 0 and 1.
        static: (H, W) of the one picture, before it is enlarged, that the graph is to be fixed to.

    Raises:
        UserError: no ONNX model, not one picture in and one out, an operator that the normal form cannot hold, or another scale.
    """
    if scale is not None and not _SCALES[0] < scale <= _SCALES[1]:
        raise UserError(f"--scale {scale:g}: expected more than {_SCALES[0]}, and {_SCALES[1]} at most", hint="--scale 2")
    proto = load_file(path)
    ends = find_ends(proto, path)
    if order is not None and order not in CHANNELS[ends.channels]:
        raise UserError(f"{path} takes {ends.channels} channels, which cannot be {order}", hint=f"--colour {CHANNELS[ends.channels][0]}")
    rename_axes(proto)
    form = to_normal_form(proto, path)
    notes = _describe_form(form, ends)
    notes += [] if order is not None else [f"{ends.channels} channels taken for {CHANNELS[ends.channels][0]}; --colour says otherwise"]
    notes += [] if value_range is not None else ["values taken for 0 to 1; --range LOW,HIGH says otherwise"]
    order, (low, high) = order or CHANNELS[ends.channels][0], value_range or (0.0, 1.0)
    original = open_original(proto)
    sized = find_sizes(form.model, ends, path, scale=scale)
    if scale is None:
        scale = _found_scale(sized, path)
        notes.append(f"enlarges by {scale:g}, found by running it")
    shown = form.model
    if static is not None:
        pre_upscaled = static if sized.factor != 1 else upscaled_size(static, scale)
        freed, sized = sized, fix_size(sized, pre_upscaled, ends, path)
        if sized.static_shape not in (None, freed.shape) and any(ends.fixed[1:]):  # the file itself takes another size alone
            shown, original = freed.model, open_graph(ir.to_proto(freed.model).SerializeToString())
    notes += sized.notes
    batch = 1 if shown is not form.model else ends.fixed[0] or 1
    exact = open_graph(ir.to_proto(shown).SerializeToString()) if form.floats else original
    tolerance, more = _tolerance(form, original, exact, sized, ends, batch=batch, low=low, high=high)
    notes += more
    convert_ends(sized.model, order, low, high)

    def on_contract(run: Run) -> Run:
        def run_on_contract(array: Array) -> Array:
            pixels = array[:, ::-1] if order == "BGR" else array
            output = run(np.repeat(pixels * (high - low) + low, batch, axis=0).astype(np.float32))[:1]
            restored = ((output - low) / (high - low)).astype(np.float32)
            return np.ascontiguousarray(restored[:, ::-1]) if order == "BGR" else restored

        return run_on_contract

    return Foreign(
        model=sized.model,
        scale=scale,
        contract=_contract(sized, order, scale=scale),
        shape=sized.shape,
        run_original=on_contract(exact if tolerance == float("inf") else original),
        run_exact=on_contract(exact),
        tolerance=TOLERANCE if tolerance == float("inf") else tolerance,
        notes=tuple(notes),
    )


def _describe_form(form: NormalForm, ends: Ends) -> list[str]:
    notes = [f"its {' and '.join(ends.turned)} {'have' if len(ends.turned) > 1 else 'has'} channels last (NHWC); turned to NCHW"] if ends.turned else []
    if form.floats:
        notes.append(f"{' and '.join(form.floats)} in the file, float32 here")
    if form.dequantized:
        notes.append(f"{form.dequantized} weights kept in integers in the file, the floats they stand for here")
    return notes


def _found_scale(sized: Sized, path: Path) -> float:
    if sized.factor <= 1:
        raise UserError(
            f"{path} keeps the size of its picture, so it works on one enlarged before, or enlarges nothing; --scale is missing",
            hint="--scale 2",
        )
    return sized.factor


def _tolerance(
    form: NormalForm, original: Run, exact: Run, sized: Sized, ends: Ends, *, batch: int, low: float, high: float
) -> tuple[float, list[str]]:
    """How far the file may be from its float32 form, in [0, 1], and what to say of it; infinite where the file itself overflows."""
    kind = next((kind for kind in KINDS if kind in form.floats), None)
    if kind is None:
        return TOLERANCE, []
    picture = np.random.default_rng(0).random((batch, ends.channels, *sized.shape), np.float32) * np.float32(high - low) + np.float32(low)
    allowed = rounding_tolerance(form.model, picture, kind)
    if not np.isfinite(original(picture)).all() or allowed == float("inf"):
        return float("inf"), [f"on noise the file itself overflows {kind}, so it is held to its float32 form alone"]
    del exact
    tolerance = max(TOLERANCE, float(f"{allowed / (high - low):.1e}"))
    return tolerance, [f"compared within {tolerance:.1e}, what {kind} rounds on its way"]


def _contract(sized: Sized, order: Order, *, scale: float) -> Contract:
    sizes = sized.sizes
    return Contract(
        colour="Y" if order == "Y" else "RGB",
        static_shape=sized.static_shape,
        pre_upscale=sized.factor == 1 and scale != 1,
        multiple_of=1 if sizes is None else sizes.multiple_of,
        least_side=1 if sizes is None else sizes.least_side,
        one_at_a_time=sizes is not None and sizes.one_at_a_time,
    )
