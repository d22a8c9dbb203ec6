"""Writes what `runtime/targets/` holds as Markdown: a table of all targets, and each target's own page of rows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from runtime.targets import TARGETS, Target, find_target
from runtime.targets.operators import Part, Row

_DOCS = Path(__file__).resolve().parents[1]
_OWN = re.compile(r"^<!-- generated: target (\S+) -->$", re.MULTILINE)
_DOES = {
    Part.LAYER: "computes on int8, its constant weight stored as int8",
    Part.COMPUTE: "reads and writes int8, each tensor at its own scale",
    Part.MOVE: "moves data at the scale of what it reads",
    Part.FUSED: "is computed inside the operator before it",
    Part.BIAS: "adds a constant inside the MatMul before it",
    Part.INSIDE: "adds inside the layer that makes one of its inputs",
}


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(head)
    lines = [columns, ["---"] * len(columns), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _codes(target: Target) -> str:
    return f"{target.activation_dtype}, {'zero point 0' if target.activation_symmetric else 'any zero point'}"


def _pages() -> dict[str, str]:
    """Find the page that holds each target's table, as a link from the folder of this page's targets."""
    found = {}
    for path in sorted(_DOCS.rglob("*.md")):
        link = path.name if path.parent.name == "targets" else f"../{path.relative_to(_DOCS).as_posix()}"
        found |= dict.fromkeys(_OWN.findall(path.read_text(encoding="utf-8")), link)
    return found


def overview() -> str:
    """Give the table of all targets, in the order of `runtime/targets/__init__.py`."""
    head = ("target", "activations", "what has no row", "precisions", "backends that compute it faithfully")
    pages = _pages()
    rows = (
        (
            f"[`{target.name}`]({pages.get(target.name, f'#{target.name}')})",
            _codes(target),
            "is refused" if target.everything_int8 else f"runs in {target.float_dtype}",
            ", ".join(target.precisions),
            ", ".join(target.backends),
        )
        for target in TARGETS
    )
    return _table(head, rows)


def without_page() -> str:
    """Give the tables of targets that no page shows; empty where there are none."""
    pages = _pages()
    return "\n\n".join(f"## {one.name}\n\n{one.description}\n\n{target_text(one.name)}" for one in TARGETS if one.name not in pages)


def _facts(target: Target) -> Iterable[tuple[str, str]]:
    yield "activations", _codes(target)
    yield "scales", "powers of two" if target.power_of_two_scales else "any; one per tensor"
    each = "output channel" if target.weight_per_channel else "tensor"
    yield "weights", f"{target.weight_dtype}, zero point 0, one scale per {each}"
    yield "biases", "int32 at scale input × weight" if target.bias_dtype == "int32" else "float"
    yield "outside the quantizers", target.float_dtype
    yield "an operator without a row", "is refused, by its name" if target.everything_int8 else "runs in float"
    yield "operators that move data", "move the integers" if target.moves_integers else "stand between quantizers of their own"
    yield "a layer may write floats", "yes" if target.writes_floats else "no"
    yield "shapes", "one fixed shape (`--static HxW`)" if target.static_shapes else "any"
    yield "ONNX opsets", f"{target.opset_range[0]} to {target.opset_range[1]}"
    yield "precisions", ", ".join(target.precisions)
    yield "backends, its own first", ", ".join(target.backends)


def _only_where(row: Row) -> str:
    found = [f"`{name}` is {' or '.join(map(str, values))}" for name, values in row.attributes]
    if row.weight_dimensions:
        found.append(f"its weight has {' or '.join(map(str, row.weight_dimensions))} dimensions")
    if row.constants:
        found.append("one operand may be a constant")
    if not row.zero_points:
        found.append("its inputs have zero point 0")
    if row.joins:
        found.append("each input is brought to the one scale of the output")
    if row.int8_only:
        found.append("in a graph of any precision it runs on int8 alone")
    return "; ".join(found)


def target_text(name: str) -> str:
    """Give a target's facts and rows; UnknownNameError lists the targets there are."""
    target = find_target(name)
    rows = ((f"`{row.operator}`", _DOES[row.part], _only_where(row)) for row in target.operators)
    facts = _table(("", f"`{name}`"), _facts(target))
    return f"{facts}\n\nOperators in an int8 graph:\n\n{_table(('operator', 'in int8 it', 'where'), rows)}"
