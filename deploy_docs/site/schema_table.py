"""Writes a JSON Schema as Markdown: a heading for each object, its description, and a table of its fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Schema = dict[str, Any]


def schema_text(path: Path) -> str:
    """Give the whole of a schema file, its root object first, then each definition by name."""
    schema = json.loads(path.read_text(encoding="utf-8"))
    parts = [_object_text(str(schema["title"]), schema)]
    parts += [_object_text(name, one) for name, one in sorted(schema.get("$defs", {}).items())]
    return "\n\n".join(parts)


def _object_text(name: str, schema: Schema) -> str:
    required = schema.get("required", ())
    lines = ["| field | type | default |", "|---|---|---|"]
    for field, one in schema.get("properties", {}).items():
        default = "required" if field in required else f"`{json.dumps(one.get('default'))}`"
        about = f"<br>{one['description']}" if "description" in one else ""
        lines.append(f"| `{field}` | {_type(one)}{about} | {default} |".replace("\n", " "))
    described = schema.get("description", "")
    return "\n".join([f"### {name}", "", described, "", *lines])


def _type(one: Schema) -> str:
    """Say what values a field may have."""
    if "$ref" in one:
        name = one["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in one:
        return " or ".join(dict.fromkeys(_type(each) for each in one["anyOf"]))
    if "const" in one or "enum" in one:
        return ", ".join(f"`{json.dumps(value)}`" for value in one.get("enum", [one.get("const")]))
    kind = one.get("type", "anything")
    if kind == "array":
        return _array(one)
    if kind == "object":
        inner = one.get("additionalProperties")
        return f"object of {_type(inner)}" if isinstance(inner, dict) else "object"
    return f"{kind}{_limits(one)}"


def _array(one: Schema) -> str:
    if "prefixItems" in one:
        return f"[{', '.join(_type(each) for each in one['prefixItems'])}]"
    most = f", {one['maxItems']} at most" if "maxItems" in one else ""
    return f"list of {_type(one['items']) if one.get('items') else 'anything'}{most}"


def _limits(one: Schema) -> str:
    found = [
        f"{sign} {_number(one[name])}"
        for name, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if name in one
    ]
    if "pattern" in one:
        found.append(f"matching `{one['pattern']}`")
    if "maxLength" in one:
        found.append(f"{one['maxLength']} characters at most")
    return f" ({', '.join(found)})" if found else ""


def _number(value: float) -> str:
    """Write large powers of two as such."""
    large = isinstance(value, int) and value > 1 << 20 and value & (value - 1) == 0
    return f"2^{int(value).bit_length() - 1}" if large else str(value)
