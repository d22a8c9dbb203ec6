"""Read manifests of older schema versions as one of the current version.

Version 1 had one calibration table for all graphs, options as text joined by commas, and a value range that was always 0 to 1. A
graph whose table another quantization replaced is left without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .manifest import SCHEMA_VERSION

_JOINED = ("without", "with", "lifted")
_TABLE = "calibration_sha256"


def upgraded(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return `body`, what a manifest.json holds, in the current version; what is no manifest is left for its reader to refuse."""
    if body.get("schema_version") != 1:
        return {key: value for key, value in body.items() if (key, value) != ("calibration", None)}  # as version 1 wrote no table
    table = body.get("calibration")
    newer = {key: value for key, value in body.items() if key != "calibration"}
    if isinstance(contract := body.get("contract"), dict) and contract.get("value_range") in (None, [0.0, 1.0]):
        newer["contract"] = {key: value for key, value in contract.items() if key != "value_range"}
    if isinstance(variants := body.get("variants"), list):
        newer["variants"] = [_upgraded_variant(one, table) if isinstance(one, dict) else one for one in variants]
    return {**newer, "schema_version": SCHEMA_VERSION}


def _upgraded_variant(variant: dict[str, Any], table: object) -> dict[str, Any]:
    options = variant.get("options", {})
    if not isinstance(options, dict):
        return variant
    typed = {key: _split(value) if key in _JOINED else value for key, value in options.items() if key != _TABLE}
    made_of = options.get(_TABLE)
    is_own = isinstance(table, dict) and made_of is not None and table.get("sha256") == made_of
    return {**variant, "options": typed, "calibration": table if is_own else None}


def _split(joined: object) -> object:
    return [name for name in joined.split(", ") if name] if isinstance(joined, str) else joined or []
