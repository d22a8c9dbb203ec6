"""Describe a network family to export: one frozen `Network` per family, made in the family's own file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import get_args

from torch import nn

from runtime.bundle import Colour, Contract
from runtime.errors import UserError

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
        paper: where it is described, with the year.
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

    def __post_init__(self) -> None:
        """Raise UserError where something is missing that export or its reports need."""
        wrong = self._find_mistake()
        if wrong:
            raise UserError(f"Network {self.name!r}: {wrong}", hint="deploy_docs/add-a-network.md shows one")

    def _find_mistake(self) -> str:
        """Return the first thing that is wrong with it, in words; empty where nothing is."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):  # it becomes the bundle's folder
            return f"name is {self.name!r}, expected letters, digits, dots and dashes"
        if not any(re.fullmatch(r"\d{4}", word) for word in re.split(r"[\s,;()]+", self.paper)):
            return (
                f"paper is {self.paper!r}, expected one with its year: 'Lim et al. 2017, arXiv 1707.02921', or 'unpublished, 2026'"
            )
        if not self.scales or any(type(scale) is not int or scale < 2 for scale in self.scales):
            return f"scales is {self.scales!r}, expected whole numbers from 2: (2,)"
        if self.colour not in get_args(Colour):
            return f"colour is {self.colour!r}, expected one of: {', '.join(get_args(Colour))}"
        if not callable(self.build) or isinstance(self.build, nn.Module):
            return f"build is {type(self.build).__name__}, expected what makes the torch module for a scale: build=MyNet"
        unknown = [scale for scale in (*self.published, *self.shipped) if not self.has_scale(scale)]
        return f"weights for scale {unknown[0]:g}, which it has not: {self.describe_scales()}" if unknown else ""

    @property
    def contract(self) -> Contract:
        """What its graph takes and gives, for pictures of any size."""
        return Contract(colour=self.colour, pre_upscale=self.pre_upscale)

    def has_scale(self, scale: float) -> bool:
        return (self.pre_upscale and 1 < scale < math.inf) or scale in self.scales

    def describe_scales(self) -> str:
        return "any above 1" if self.pre_upscale else ", ".join(str(scale) for scale in self.scales)

    def build_for(self, scale: float, shapes: Shapes) -> nn.Module:
        """Return the module that a checkpoint of those shapes is of, if it is this network's at all."""
        whole = round(scale)  # where it was not, the network is enlarged before and does not ask for it
        return self.build(whole) if self.build_like is None else self.build_like(whole, shapes)
