"""Rewrite a graph exactly: one pass per file, in the order of these lists."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from export.arithmetic import SIDE, total_macs
from export.passes import (
    depth_to_space,
    fold_affine,
    fold_batch_norm,
    lower_depth_to_space,
    merge_branches,
    merge_convolutions,
    move_activations,
    names,
    scatter_to_concat,
    shrink_scales,
    simplify,
    squash,
)
from runtime.bundle import PassRecord
from runtime.errors import PipelineError, UnknownNameError

__all__ = ["EXTRA_PASSES", "PASSES", "Pass", "run_passes", "select_passes"]

Rewrite = Callable[[ir.Model], tuple[ir.Model, str]]
Difference = Callable[[bytes], float]
"""The largest absolute difference between a serialized graph's output and what the network gives."""


@dataclass(frozen=True)
class Pass:
    """A rewrite that keeps what the graph computes, up to floating-point rounding; it returns what it changed, in words.

    `required` ones cannot be switched off: later stages stand on them.
    """

    name: str
    rewrite: Rewrite
    required: bool = False


PASSES: tuple[Pass, ...] = (
    Pass("simplify", simplify.simplify, required=True),
    Pass("scatter-to-concat", scatter_to_concat.replace_scatters),
    Pass("depth-to-space", depth_to_space.restore_depth_to_space),
    Pass("tanh-to-sigmoid", squash.replace_tanh),
    Pass("fold-batch-norm", fold_batch_norm.fold_batch_norm),
    Pass("fold-affine", fold_affine.fold_affine),
    Pass("shrink-scales", shrink_scales.shrink_scales),
    Pass("merge-branches", merge_branches.merge_branches),
    Pass("merge-convolutions", merge_convolutions.merge_convolutions),
    Pass("move-activations", move_activations.move_activations),
    Pass("names", names.name_by_weights, required=True),
)
# What runs only where it is asked for, after all but the last of the above: it saves nothing, but some devices need it.
EXTRA_PASSES: tuple[Pass, ...] = (Pass("lower-depth-to-space", lower_depth_to_space.lower_depth_to_space),)


def select_passes(without: Collection[str], *, extra: Collection[str] = ()) -> tuple[Pass, ...]:
    """PASSES less those named in `without`, and those of EXTRA_PASSES named in `extra`, in the order they run.

    Raises:
        UnknownNameError: lists which can be left out, or asked for.
    """
    _check_names("pass to leave out", without, [step for step in PASSES if not step.required], option="--without")
    _check_names("pass to ask for", extra, EXTRA_PASSES, option="--with")
    asked = (step for step in EXTRA_PASSES if step.name in extra)
    return tuple(step for step in (*PASSES[:-1], *asked, PASSES[-1]) if step.name not in without)


def _check_names(kind: str, names: Collection[str], known: Sequence[Pass], *, option: str) -> None:
    valid = [step.name for step in known]
    for name in names:
        if name not in valid:
            raise UnknownNameError(kind, name, valid=valid, hint=f"for example {option} {valid[0]}")


def run_passes(
    model: ir.Model, *, passes: tuple[Pass, ...] = PASSES, side: int = SIDE, difference: Difference | None = None
) -> tuple[ir.Model, tuple[PassRecord, ...]]:
    """Run `passes` in order and check the graph after each; the first record is of the graph as it came.

    Raises:
        PipelineError: a pass left an invalid graph; names it.
    """
    measure = None if difference is None else lru_cache(maxsize=1)(difference)  # most passes leave most graphs as they were
    records = [_record("as traced", "", model, side, measure)]
    for step in passes:
        model, changes = step.rewrite(model)
        for tidy in (common.CommonSubexpressionEliminationPass(), common.RemoveUnusedNodesPass(), common.TopologicalSortPass()):
            tidy(model)
        try:
            onnx.checker.check_model(ir.to_proto(model), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise PipelineError(f"pass {step.name!r} left an invalid graph: {error}") from error
        records.append(_record(step.name, changes, model, side, measure))
    return model, tuple(records)


def _record(name: str, changes: str, model: ir.Model, side: int, difference: Difference | None) -> PassRecord:
    return PassRecord(
        name=name,
        changes=changes,
        nodes=len(list(model.graph)),
        macs=total_macs(ir.to_proto(depth_to_space.with_shuffles(model)), side=side),
        max_abs_difference=None if difference is None else difference(ir.to_proto(model).SerializeToString()),
    )
