"""What explaining an int8 graph found, as data: `--json` prints it, and the table and the plot are made from it."""

from __future__ import annotations

from collections.abc import Sequence

from quantize.explain.sensitivity import LayerNoise
from runtime.bundle import Noun

_EXACT_DB = 100.0  # beyond it nothing is left but float32's own rounding
Shift = tuple[float, float, float]
"""Mean of int8 less fp32 in red, green and blue, in 8-bit steps."""


class ExplainedLayer(LayerNoise):
    """A layer's error, what it costs, and what it runs in."""

    macs: int
    """Multiply-accumulates for one 128×128 picture; 0 of an operator without weights."""
    asked: str
    """The precision that the graph has it in; "" of the picture."""
    ran: str
    """What the backend says it ran in: "unknown" where it does not name the layer, "" of an operator without weights."""
    output_psnr_db: float | None = None
    """PSNR of the output against fp32's with nothing but this layer in int8; None where it was not asked for."""


class ExplainedPicture(Noun):
    """One picture, as 8-bit RGB; a PSNR of None stands for equal pictures."""

    name: str
    psnr_vs_fp32_db: float | None
    drop_db: float | None
    """PSNR against the truth that int8 loses against fp32; None where there is no truth."""
    colour_shift: Shift


class Explanation(Noun):
    """All that was found, the pictures from the worst to the best."""

    model: str
    scale: float
    target: str
    backend: str
    dataset: str
    crops: int
    calibrated_on: int
    """How many of the pictures int8 was calibrated on."""
    merged_layers: tuple[str, ...]
    """Layers of the fp32 graph whose work another layer does."""
    layers: tuple[ExplainedLayer, ...]
    pictures: tuple[ExplainedPicture, ...]
    colour_shift: Shift
    """Mean over the pictures."""


def mean_shift(shifts: Sequence[Shift]) -> Shift:
    red, green, blue = (sum(channel) / len(shifts) for channel in zip(*shifts, strict=True))
    return red, green, blue


def is_exact(value_db: float | None) -> bool:
    """Return whether a ratio leaves no error worth a name."""
    return value_db is None or value_db > _EXACT_DB
