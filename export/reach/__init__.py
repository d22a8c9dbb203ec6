"""Find how far a network looks, and on which grid: a graph in, its receptive field out, followed operator by operator and measured.

`receptive_field` follows a graph at a few sizes along both axes: which rows and columns each element depends on, and whether it is
computed alike everywhere. What holds for every size it tries is taken to hold; what it cannot follow looks at the whole picture.
"""

from __future__ import annotations

from export.reach.field import ReceptiveField, receptive_field, receptive_halo
from export.reach.measured import measured_field

__all__ = ["ReceptiveField", "measured_field", "receptive_field", "receptive_halo"]
