"""Find how far a network looks: a graph in; its receptive field, and the multiple of pixels that a tile must start at, out.

Tiles need both: a margin that wide, and an alignment at which strides and windows fall as in the whole picture. `receptive_field`
follows a graph operator by operator at a few sizes: which rows and columns each element depends on, and whether it is computed
alike everywhere. What holds for every size tried is taken to hold for all; an operator that cannot be followed counts as looking at
the whole picture, and then there are no tiles. `measured_field` checks the result on the network's own outputs.
"""

from __future__ import annotations

from export.reach.field import ReceptiveField, receptive_field, receptive_halo
from export.reach.measured import measured_field

__all__ = ["ReceptiveField", "measured_field", "receptive_field", "receptive_halo"]
