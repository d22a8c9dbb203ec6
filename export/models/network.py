"""What export needs to know of a network family: one `Network` a family, built in its own file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn


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
    """A network family: RGB in [0, 1], (N, 3, H, W) -> (N, 3, H·scale, W·scale).

    Attributes:
        name: what the command line calls it.
        paper: where it is described.
        scales: the factors it is built for.
        build: makes the module for a scale, its state dict keyed as the published checkpoints are.
        published: its authors' checkpoints by scale.
        shipped: sha256 by scale of the weights that come with sredge, `export/shipped/<name>_x<scale>.safetensors`.
    """

    name: str
    paper: str
    scales: tuple[int, ...]
    build: Callable[[int], nn.Module]
    published: Mapping[int, PublishedWeights] = field(default_factory=dict)
    shipped: Mapping[int, str] = field(default_factory=dict)
