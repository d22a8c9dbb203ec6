"""One small picture file of a known layout, as data, and the pixels that it should be read as."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True, kw_only=True)
class PictureFile:
    """A file, and what is right.

    Attributes:
        format: "TIFF" for instance.
        kind: what its pixels are; a row of the table.
        stored: how they are stored: a column, or a variant within it.
        data: the file.
        pixels: what it should be read as; None where it should be refused by name.
        tolerance: levels by which decoders of lossy formats may differ.
    """

    format: str
    kind: str
    stored: str
    data: bytes
    pixels: Pixels | None
    tolerance: int = 0

    @property
    def label(self) -> str:
        return f"{self.format}, {self.kind}, {self.stored}"


def noise(shape: tuple[int, ...], bits: int = 8) -> Pixels:
    """Samples of that many bits, the same every time."""
    dtype = np.uint16 if bits > 8 else np.uint8
    return np.random.default_rng(0).integers(0, (1 << bits) - 1, shape, dtype, endpoint=True)
