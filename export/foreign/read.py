"""Read anybody's ONNX file: a path in, a `Foreign` out, whose graph takes (N, C, H, W) float32 in [0, 1], RGB or luma.

The file is read (load.py), its picture in and out are found (ends.py), the graph is brought to normal form (normal_form.py), what
sizes it takes is measured and a fixed one freed where that is right (sized.py), and operators at its ends bring its values and
channels to the contract (contract_ends.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
from runtime.bundle import Contract
from runtime.errors import UserError
from runtime.sizes import upscaled_size

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
    """Read the super-resolution network in `path`, which enlarges by `scale`, or works on a picture enlarged before.

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
    values, notes = _find_values(ends, order, value_range, path)
    rename_axes(proto)
    form = to_normal_form(proto, path)
    original = open_original(proto)
    sized = find_sizes(form, ends, path, scale=scale)
    scale, found = (sized.factor, [_say_scale(sized, path)]) if scale is None else (scale, [])
    compared = _Compared(form.model, original, batch=ends.fixed[0] or 1)
    if static is not None:
        size = static if sized.factor != 1 else upscaled_size(static, scale)
        freed, sized = sized, fix_size(sized, size, path)
        if any(ends.fixed[1:]) and size != freed.shape:  # the file itself takes another size alone
            compared = _Compared(freed.model, _open(freed.model), batch=1)
    exact = _open(compared.model) if form.floats else compared.run
    tolerance, told = _tolerance(form, compared, values, (compared.batch, ends.channels, *sized.shape))
    convert_ends(sized.model, values.order, values.low, values.high)
    run = compared.run if tolerance is not None else exact
    return Foreign(
        model=sized.model,
        scale=scale,
        contract=_contract(sized, values.order, scale=scale),
        shape=sized.shape,
        run_original=partial(_run_on_contract, run, values, compared.batch),
        run_exact=partial(_run_on_contract, exact, values, compared.batch),
        tolerance=tolerance or TOLERANCE,
        notes=(*_describe_form(form, ends), *notes, *found, *sized.notes, *told),
    )


@dataclass(frozen=True)
class _Values:
    """What a file's values mean: the order of its channels, its black and white."""

    order: Order
    low: float
    high: float


@dataclass(frozen=True)
class _Compared:
    """What an export is compared with: a graph in normal form, what it stands for as a function, and the batch that this takes."""

    model: ir.Model
    run: Run
    batch: int


def _find_values(ends: Ends, order: Order | None, value_range: tuple[float, float] | None, path: Path) -> tuple[_Values, list[str]]:
    orders = CHANNELS[ends.channels]
    if order is not None and order not in orders:
        raise UserError(f"{path} takes {ends.channels} channels, which cannot be {order}", hint=f"--colour {orders[0]}")
    notes = [] if order is not None else [f"{ends.channels} channels taken for {orders[0]}; --colour says otherwise"]
    notes += [] if value_range is not None else ["values taken for 0 to 1; --range LOW,HIGH says otherwise"]
    return _Values(order or orders[0], *(value_range or (0.0, 1.0))), notes


def _open(model: ir.Model) -> Run:
    return open_graph(ir.to_proto(model).SerializeToString())


def _run_on_contract(run: Run, values: _Values, batch: int, array: Array) -> Array:
    """Return what `run` gives for (1, C, H, W) of the contract, as that."""
    span = values.high - values.low
    pixels = array[:, ::-1] if values.order == "BGR" else array
    output = run(np.repeat(pixels * span + values.low, batch, axis=0).astype(np.float32))[:1]
    restored = ((output - values.low) / span).astype(np.float32)
    return np.ascontiguousarray(restored[:, ::-1]) if values.order == "BGR" else restored


def _describe_form(form: NormalForm, ends: Ends) -> list[str]:
    notes = (
        [f"its {' and '.join(ends.turned)} {'have' if len(ends.turned) > 1 else 'has'} channels last (NHWC); turned to NCHW"]
        if ends.turned
        else []
    )
    if form.floats:
        notes.append(f"{' and '.join(form.floats)} in the file, float32 here")
    if form.dequantized:
        notes.append(f"{form.dequantized} weights kept in integers in the file, the floats they stand for here")
    return notes


def _say_scale(sized: Sized, path: Path) -> str:
    if sized.factor <= 1:
        raise UserError(
            f"{path} keeps the size of its picture, so it works on one enlarged before, or enlarges nothing; --scale is missing",
            hint="--scale 2",
        )
    return f"enlarges by {sized.factor:g}, found by running it; --scale says otherwise"


def _tolerance(
    form: NormalForm, compared: _Compared, values: _Values, shape: tuple[int, int, int, int]
) -> tuple[float | None, list[str]]:
    """Return how far the file may be from its float32 form, in [0, 1], and what to say of it.

    None where the file itself overflows.
    """
    kind = next((kind for kind in KINDS if kind in form.floats), None)
    if kind is None:
        return TOLERANCE, []
    span = values.high - values.low
    picture = np.random.default_rng(0).random(shape, np.float32) * np.float32(span) + np.float32(values.low)
    allowed = rounding_tolerance(compared.model, picture, kind)
    if not np.isfinite(compared.run(picture)).all() or not np.isfinite(allowed):
        return None, [f"on noise the file itself overflows {kind}, so it is held to its float32 form alone"]
    tolerance = max(TOLERANCE, float(f"{allowed / span:.1e}"))
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
