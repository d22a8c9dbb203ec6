"""Exact graph rewrites, in the order they run: one file each, and this list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from export.passes import names, simplify
from runtime.bundle import PassRecord
from runtime.errors import PipelineError

__all__ = ["PASSES", "Pass", "run_passes"]

Rewrite = Callable[[ir.Model], tuple[ir.Model, str]]


@dataclass(frozen=True)
class Pass:
    """A rewrite that keeps what the graph computes, up to floating-point rounding; it returns what it changed, in words."""

    name: str
    rewrite: Rewrite


PASSES: tuple[Pass, ...] = (
    Pass("simplify", simplify.simplify),
    Pass("names", names.name_by_weights),
)


def run_passes(model: ir.Model, *, passes: tuple[Pass, ...] = PASSES) -> tuple[ir.Model, tuple[PassRecord, ...]]:
    """Runs `passes` in order and checks the graph after each.

    Raises:
        PipelineError: a pass left an invalid graph; names it.
    """
    records = []
    for step in passes:
        model, changes = step.rewrite(model)
        try:
            onnx.checker.check_model(ir.to_proto(model), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise PipelineError(f"pass {step.name!r} left an invalid graph: {error}") from error
        records.append(PassRecord(name=step.name, changes=changes))
    return model, tuple(records)
