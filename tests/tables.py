"""Where a bundle's calibration table is: its name follows from its content."""

from pathlib import Path


def table_in(directory: Path) -> Path:
    """The one table in the bundle `directory`."""
    (table,) = directory.glob("calibration-*.json")
    return table
