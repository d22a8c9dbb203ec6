"""What export needs to know of a network family: one `Network` a family, built in its own file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from runtime.bundle import Colour


@dataclass(frozen=True)
class PublishedWeights:
    """A checkpoint its authors published, and the sha256 it must have."""

    url: str
    sha256: str

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network family: (N, C, H, W) in [0, 1] -> (N, C, H·scale, W·scale).

    Attributes:
        name: what the command line calls it.
        paper: where it is described.
        scales: the factors it is built for.
        build: makes the module for a scale, its state dict keyed as the published checkpoints are.
        colour: the channels it takes and gives: three of RGB, or luma alone.
        published: its authors' checkpoints by scale.
        shipped: sha256 by scale of the weights that come with sredge, `export/shipped/<name>_x<scale>.safetensors`.
    """

    name: str
    paper: str
    scales: tuple[int, ...]
    build: Callable[[int], nn.Module]
    colour: Colour = "RGB"
    published: Mapping[int, PublishedWeights] = field(default_factory=dict)
    shipped: Mapping[int, str] = field(default_factory=dict)
