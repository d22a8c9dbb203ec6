"""What export needs to know of a network family: one `Network` a family, built in its own file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from runtime.bundle import Colour, Contract

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each tensor of a state dict."""


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
        build_like: the same, as deep and wide as a state dict of those shapes has it; None where there is only one depth and width.
        colour: the channels it takes and gives: three of RGB, or luma alone.
        pre_upscale: it takes a picture enlarged bicubically and gives one of that same size, so that any scale above 1 will do;
            `scales` are then those it is tested at.
        published: its authors' checkpoints by scale.
        shipped: sha256 by scale of the weights that come with sredge, `export/shipped/<name>_x<scale>.safetensors`.
        file_pattern: what its authors call the checkpoint of `{scale}`, looked for in a folder given as weights.
    """

    name: str
    paper: str
    scales: tuple[int, ...]
    build: Callable[[int], nn.Module]
    build_like: Callable[[int, Shapes], nn.Module] | None = None
    colour: Colour = "RGB"
    pre_upscale: bool = False
    published: Mapping[float, PublishedWeights] = field(default_factory=dict)
    shipped: Mapping[float, str] = field(default_factory=dict)
    file_pattern: str = ""

    @property
    def contract(self) -> Contract:
        """What its graph takes and gives, for pictures of any size."""
        return Contract(colour=self.colour, pre_upscale=self.pre_upscale)

    def has_scale(self, scale: float) -> bool:
        return (self.pre_upscale and 1 < scale < math.inf) or scale in self.scales

    def describe_scales(self) -> str:
        return "any above 1" if self.pre_upscale else ", ".join(str(scale) for scale in self.scales)

    def build_for(self, scale: float, shapes: Shapes) -> nn.Module:
        """The module that a checkpoint of those shapes is of, if it is this network's at all."""
        whole = round(scale)  # where it was not, the network is enlarged before and does not ask for it
        return self.build(whole) if self.build_like is None else self.build_like(whole, shapes)
