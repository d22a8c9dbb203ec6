"""Find the calibration table that comes with sredge: a graph's fingerprint in, its table out (`shipped/<model>_x<scale>.json`).

`make calibration-tables` renews them; a test fails where one no longer belongs to its graph.
"""

from __future__ import annotations

from pathlib import Path

from calibration.table import CalibrationTable, read_table

SHIPPED_TABLES = Path(__file__).parent / "shipped"


def find_shipped_table(*, fingerprint: str, dataset: str) -> CalibrationTable | None:
    """Return the shipped table of `dataset` that was measured on the graph with that fingerprint, if there is one."""
    for path in sorted(SHIPPED_TABLES.glob("*.json")):
        table = read_table(path)
        if table.graph_fingerprint == fingerprint and table.source.dataset == dataset:
            return table
    return None
