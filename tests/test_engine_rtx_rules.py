"""Every rule for Q/DQ against the real parser and builder of TensorRT for RTX."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.engine.tensorrt.qdq_rules import RULES, Rule, broken_rules
from runtime.targets import TARGETS, Target
from tests.broken_rules import BROKEN, Edit, qdq_model
from tests.rtx import needs_rtx, refusals
from tests.small_int8 import small_int8

pytestmark = needs_rtx
GUIDE = Path(__file__).resolve().parents[1] / "deploy_docs" / "tensorrt-rtx.md"


def _refused(edit: Edit, opset: int) -> bool:
    model = qdq_model(opset)
    edit(model)
    return bool(refusals(model))


def test_the_graph_that_breaks_no_rule_is_built() -> None:
    assert refusals(qdq_model()) == ""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_what_a_rule_refuses_is_refused_here_or_the_rule_says_why_it_is_kept(rule: Rule) -> None:
    refused = {edit.__name__: _refused(edit, opset) for name, edit, opset in BROKEN if name == rule.name}
    assert all(refused.values()) == (not rule.kept_because), refused


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_what_is_refused_here_breaks_a_rule_and_the_other_way_round(target: Target) -> None:
    """A small graph of everything, as each target has it: those for other accelerators hold what this parser does not take."""
    int8 = small_int8(target).int8
    for dimension, side in zip(int8.graph.input[0].type.tensor_type.shape.dim, (1, 3, 16, 16), strict=True):
        dimension.dim_value = side
    reasons = refusals(int8)
    assert bool(reasons) == bool(broken_rules(int8)), (reasons, broken_rules(int8))


def test_the_guides_table_is_what_is_found_here() -> None:
    rows = [line for line in GUIDE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for rule in RULES:
        refused = [_refused(edit, opset) for name, edit, opset in BROKEN if name == rule.name]
        kept = f" {rule.kept_because}" if rule.kept_because else ""
        assert f"| {rule.name} | {sum(refused)} of {len(refused)} |{kept} |" in rows
