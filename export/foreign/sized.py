"""Decide which sizes a file's graph takes: free where it is or can be, fixed where it must be or is asked to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from export.axes import NAMES
from export.fixed_size import fix_sizes
from export.foreign.ends import Ends
from export.foreign.freeing import Freed, free_sizes, with_input
from export.foreign.guarded import open_guarded
from export.foreign.normal_form import NormalForm, lift_constants
from export.foreign.original import open_graph
from export.foreign.pixel_counts import find_count
from export.foreign.sizes import Probe, Size, Sizes, measure_fixed, measure_sizes
from runtime.errors import BackendError, UserError


@dataclass(frozen=True)
class Sized:
    """A graph, and what it takes.

    Attributes:
        model: takes (N, C, H, W), free but for what `sizes` says, or one picture of `static_shape`.
        factor: output side by input side; 1 where it keeps the size.
        sizes: where height and width are free.
        static_shape: (H, W) where they are not.
        shape: (H, W) of a picture that the file itself takes too.
        notes: what was done, and what could not be.
    """

    model: ir.Model
    factor: float
    sizes: Sizes | None
    static_shape: Size | None
    shape: Size
    notes: tuple[str, ...]


def find_sizes(form: NormalForm, ends: Ends, path: Path, *, scale: float | None) -> Sized:
    """Find out what sizes a graph in normal form takes, and free it of a fixed one where that is proven to be right.

    Raises:
        UserError: it must stay fixed, and not to one picture of one size; it enlarges by no factor, or by another than `scale`.
    """
    model, (batch, height, width) = form.model, ends.fixed
    if not height and not width:
        return _find_free(model, ends, path, scale=scale)
    own = (height or width, width or height)
    fixed = with_input(model, (batch or 1, ends.channels, *own))
    factor = measure_fixed(_probe(fixed, ends, batch=batch or 1), own, path, scale=scale)
    count = find_count(form.unfolded)
    freed = Freed(None, None, count) if count else free_sizes(model, own, channels=ends.channels, factor=factor, path=path)
    said = _describe(ends)
    if freed.model is not None and freed.sizes is not None:
        free = _with_batch(freed.model, ends, freed.sizes)
        return Sized(free, factor, freed.sizes, None, own, (_say_freed(ends, freed.sizes),))
    one = with_input(model, (1, ends.channels, *own))
    if not (height and width) or not _runs(one, ends, own):
        raise UserError(
            f"{path} is fixed to {said}, and must stay so: {freed.reason}; expected free sizes, or one picture of one size",
            hint="export the model so",
        )
    return Sized(one, factor, None, own, own, (f"stays fixed to {said}: {freed.reason}",))


def fix_size(sized: Sized, size: Size, path: Path) -> Sized:
    """Return `sized` for one picture of `size` (H, W) alone, that of the graph's input.

    Raises:
        UserError: the graph does not take that size.
    """
    if sized.static_shape is not None:
        if sized.static_shape != size:
            raise UserError(
                f"{path} cannot be fixed to {_by(size)}: it {'; '.join(sized.notes)}", hint=f"--static {_by(sized.static_shape)}"
            )
        return sized
    assert sized.sizes is not None
    multiple, least = sized.sizes.multiple_of, sized.sizes.least_side
    nearest = tuple(max(-(-side // multiple) * multiple, least) for side in size)
    if nearest != size:
        raise UserError(
            f"{path} takes sides of multiples of {multiple} from {least} on, not {_by(size)}",
            hint=f"--static {_by((nearest[0], nearest[1]))}",
        )
    model = lift_constants(fix_sizes(ir.to_proto(sized.model), (1, *size)))
    return Sized(model, sized.factor, None, size, size, sized.notes)


def _find_free(model: ir.Model, ends: Ends, path: Path, *, scale: float | None) -> Sized:
    """Measure what a file of free height and width takes, and free it of a fixed batch where that gives the same."""
    batch = ends.fixed[0]
    free = with_input(model, (NAMES[0], ends.channels, *NAMES[2:]))
    try:
        sizes = measure_sizes(_probe(free, ends), path, scale=scale)
    except BackendError as error:  # a batch burnt into the graph may contradict the free one
        free = with_input(model, (1, ends.channels, *NAMES[2:]))
        if batch > 1 or not _opens(free):
            raise UserError(
                f"{path} is fixed to {_describe(ends)}, and does not run with others: {error}", hint="export the model so"
            ) from error
        sizes = measure_sizes(_probe(free, ends), path, scale=scale)
    notes = []
    if batch and not sizes.one_at_a_time:
        notes.append(_say_freed(ends, sizes))
    elif limits := _within(sizes):
        notes.append(f"takes pictures {limits}")
    return Sized(_with_batch(free, ends, sizes), sizes.factor, sizes, None, sizes.pictures[0], tuple(notes))


def _say_freed(ends: Ends, sizes: Sizes) -> str:
    limits = _within(sizes)
    return f"fixed to {_describe(ends)} in the file, now of any size" + (f", for pictures {limits}" if limits else "")


def _with_batch(model: ir.Model, ends: Ends, sizes: Sizes) -> ir.Model:
    """Free axes, but for a batch of one where more together do not run."""
    return with_input(model, (1 if sizes.one_at_a_time else NAMES[0], ends.channels, *NAMES[2:]))


def _within(sizes: Sizes) -> str:
    """Return what the sizes are within, as an addition; "" where that is nothing."""
    limits = [f"whose sides are multiples of {sizes.multiple_of}"] * (sizes.multiple_of > 1)
    limits += [f"of {sizes.least_side} pixels per side or more"] * (sizes.least_side > sizes.multiple_of)
    limits += ["one picture at a time"] * sizes.one_at_a_time
    return ", ".join(limits)


def _describe(ends: Ends) -> str:
    return ", ".join(f"{name} {size}" for name, size in zip(("batch", "height", "width"), ends.fixed, strict=True) if size)


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _probe(model: ir.Model, ends: Ends, *, batch: int = 1) -> Probe:
    return Probe(open_guarded(model), channels=ends.channels, batch=batch)


def _opens(model: ir.Model) -> bool:
    try:
        open_graph(ir.to_proto(model).SerializeToString())
    except BackendError:
        return False
    return True


def _runs(model: ir.Model, ends: Ends, size: Size) -> bool:
    return _opens(model) and _probe(model, ends).output(size) is not None
