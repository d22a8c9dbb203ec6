"""The manifest: what a bundle says about its graphs, as frozen data."""

from __future__ import annotations

import math
from collections.abc import Collection
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..errors import UnknownNameError
from ..sizes import as_fraction, is_simple, round_up, upscaled_size
from ..targets import TARGETS, Precision

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
REPORTS = "reports"
ENGINES = "engines"
BUILD = Path("build")

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A plain name: no separator and no leading dot, so that no part can lie outside the bundle.
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=128)]
Colour = Literal["RGB", "Y"]
Io = Literal["float32", "uint8"]
IOS: tuple[Io, ...] = get_args(Io)


def find_io(name: str) -> Io:
    """Return `name` as a kind of graph input and output; UnknownNameError lists the valid ones."""
    for io in IOS:
        if io == name:
            return io
    raise UnknownNameError("--io", name, valid=IOS)


Side = Annotated[int, Field(ge=1, le=1 << 16)]
"""Pixels along one side of a picture."""
Count = Annotated[int, Field(ge=0, le=1 << 60)]
_MOST_LAYERS = 1 << 16  # as many as a graph may have operators
_MOST_VARIANTS = 256
Option = str | int | float | bool | None | tuple[str, ...]


class Noun(BaseModel):
    """Frozen data that crosses a file: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(Noun):
    """A file of the bundle and what its bytes must hash to."""

    file: FileName
    sha256: Sha256


class Checkpoint(Noun):
    """Where the weights came from."""

    source: Literal["shipped", "published", "file"]
    file: str
    sha256: Sha256


class Contract(Noun):
    """What a graph takes and gives: (N, C, H, W) float32 with values from 0 (black) to 1 (white); C is 3 of RGB, or 1 of luma (Y).

    That is for variants whose `io` is float32. Those of uint8 take and give the same as raw pixels: (N, H, W, C) uint8.
    """

    layout: Literal["NCHW"] = "NCHW"
    dtype: Literal["float32"] = "float32"
    colour: Colour = "RGB"
    """Y: full-range BT.601 luma, as JFIF; whoever runs the graph carries chroma over bicubically."""
    pre_upscale: bool = False
    """The graph takes the picture enlarged by `scale`, as runtime/pictures/bicubic.py does it, and gives one of that same size."""
    static_shape: tuple[Side, Side] | None = None
    """(H, W) of the input where the graph is fixed to one shape; None where height and width are free."""
    multiple_of: Annotated[int, Field(ge=1, le=1024)] = 1
    """Height and width of the input are multiples of it: whoever runs the graph fills a picture up, and crops the output."""
    least_side: Side = 1
    """The least height and width of the input."""
    one_at_a_time: bool = False
    """The graph takes a batch of 1 and no other."""

    @property
    def channels(self) -> int:
        return 3 if self.colour == "RGB" else 1

    def input_size(self, picture_size: tuple[int, int], *, scale: float) -> tuple[int, int]:
        """(H, W) of the graph's input for a picture of that (H, W)."""
        return upscaled_size(picture_size, scale) if self.pre_upscale else picture_size

    @property
    def sizes(self) -> str:
        """In words: which heights and widths the input may have."""
        if self.static_shape is not None:
            return "one size"
        multiples = "any size" if self.multiple_of == 1 else f"multiples of {self.multiple_of}"
        return multiples if self.least_side <= self.multiple_of else f"{multiples} from {self.least_side} pixels per side"

    def filled_size(self, size: tuple[int, int], *, multiple: int = 1) -> tuple[int, int]:
        """(H, W) to which an input of that size is filled up: the graph's multiples and least side, and those of `multiple`."""
        if self.static_shape is not None:
            return self.static_shape
        unit = math.lcm(self.multiple_of, multiple)
        height, width = (round_up(max(side, self.least_side), unit) for side in size)
        return height, width

    def static_picture_size(self, *, scale: float) -> tuple[int, int] | None:
        """(H, W) of the one picture that a fixed graph takes; None where it takes any."""
        if self.static_shape is None or not self.pre_upscale:
            return self.static_shape
        height, width = self.static_shape
        return round(height / scale), round(width / scale)


class Layer(Noun):
    """An operator with multiply-accumulates; `macs` for one 128×128 picture."""

    name: str
    op: str
    macs: Count
    aliases: tuple[str, ...] = ()
    """What a backend that fuses it with the additions and activations after it may call the result."""


class AddedMacs(Noun):
    """Multiply-accumulates that a variant has beside those of the layers, for one 128×128 picture."""

    int8: int = Field(default=0, ge=0, le=1 << 60)
    in_float: int = Field(default=0, ge=0, le=1 << 60)


class PassRecord(Noun):
    """A graph rewrite that ran, what it changed, and the graph after it."""

    name: str
    changes: str
    nodes: Count
    macs: Count
    """Multiply-accumulates for one 128×128 picture."""
    max_abs_difference: float | None = None
    """From the network's own output, on one random input."""


class Parity(Noun):
    """Largest difference between torch and ONNX Runtime on one random input of `shape` (N, C, H, W)."""

    shape: tuple[Count, Count, Count, Count]
    max_abs_difference: float
    tolerance: float


class Variant(Part):
    """One graph of the bundle: the network in one precision, for one target where that matters."""

    precision: Precision
    target: str | None = None
    parent_sha256: Sha256
    """The graph it was made from; of fp32, the checkpoint."""
    io: Io = "float32"
    """What the graph takes and gives: what the contract says; or raw pixels, (N, H, W, C) uint8, its output clipped and rounded."""
    opset: Annotated[int, Field(ge=1, le=1 << 16)]
    options: dict[str, Option] = {}
    calibration: Part | None = None
    """The calibration table that its quantizers were made of, named by its content; None where it has no quantizers."""
    tools: dict[str, str] = {}
    passes: tuple[PassRecord, ...] = ()
    parity: Parity | None = None
    psnr_vs_fp32_db: float | None = None
    """PSNR of this variant's output against the fp32 output on calibration crops, all channels, peak 1."""
    merged_layers: tuple[str, ...] = ()
    """Layers of the fp32 graph whose work another layer does in this one."""
    int8_layers: tuple[str, ...] = ()
    kept_in_fp32: tuple[str, ...] = ()
    """In half precision: the operators that compute in fp32, each with the reason."""
    added_macs: AddedMacs = AddedMacs()
    """Those of layers that read their input's rounding error too."""

    def __str__(self) -> str:
        """In words: its precision, its target, its ends where they are not floats."""
        target = "" if self.target is None else f" for {self.target}"
        return f"{self.precision}{target}{' of raw pixels' if self.io == 'uint8' else ''}"


class Manifest(Noun):
    """Everything a reader of the bundle needs to know; the same inputs give the same bytes."""

    schema_version: Literal[2] = 2
    model: str
    scale: float = Field(gt=1, le=64, allow_inf_nan=False)
    checkpoint: Checkpoint
    contract: Contract
    halo: Annotated[int, Field(ge=0, le=1 << 16)] | Literal["global"]
    """Pixels of the graph's input around a tile, on each side, that its output depends on."""
    alignment: Annotated[int, Field(ge=1, le=1024)] = 1
    """Tiles start at multiples of it, beside those of the contract: the period in which strides and shuffles repeat, in pixels of
    the graph's input."""
    global_operator: str = ""
    """Where that is "global": the operator that looks at the whole picture."""
    layers: Annotated[tuple[Layer, ...], Field(max_length=_MOST_LAYERS)]
    variants: Annotated[tuple[Variant, ...], Field(max_length=_MOST_VARIANTS)]

    @property
    def factor(self) -> Fraction:
        """Pixels a side of the graph's output per pixel of its input."""
        return Fraction(1) if self.contract.pre_upscale else as_fraction(self.scale)

    @property
    def fill_multiple(self) -> int:
        """Height and width of the graph's input are filled up to multiples of it; those of its output are then whole numbers."""
        return math.lcm(self.contract.multiple_of, self.factor.denominator) if is_simple(self.factor) else self.contract.multiple_of

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one 128×128 picture."""
        return sum(layer.macs for layer in self.layers)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The graphs, and the calibration tables, each once."""
        return (*self.variants, *dict.fromkeys(one.calibration for one in self.variants if one.calibration is not None))

    def find_variant(self, precision: Precision, *, target: str | None = None, io: Io = "float32") -> Variant | None:
        """Return the target's own variant of that precision, else the one for every target; None where there is neither.

        A target that runs some operators on int8 alone is given its own graphs and no others: another could crash it. With None for
        `target`, the one for every target, else the only one.
        """
        fitting = [one for one in self.variants if (one.precision, one.io) == (precision, io)]
        own = [one for one in fitting if one.target == target]
        if own:
            return own[0]
        if target is None:
            return fitting[0] if len(fitting) == 1 else None
        own_alone = any(known.int8_only_ops for known in TARGETS if known.name == target)
        return next((one for one in fitting if one.target is None and not own_alone), None)

    def int8_mac_share(self, variant: Variant) -> float:
        """Share of the multiply-accumulates that `variant` asks for in int8, merged ones and those it adds too, 0 to 1."""
        return self.share_in_int8({*variant.int8_layers, *variant.merged_layers}, added=variant.added_macs)

    def share_in_int8(self, layers: Collection[str], *, added: AddedMacs) -> float:
        """Return the same for those of `layers`."""
        in_int8 = sum(layer.macs for layer in self.layers if layer.name in layers) + added.int8
        return in_int8 / max(self.macs + added.int8 + added.in_float, 1)

    def without_files(self, files: Collection[str]) -> Manifest:
        """This manifest without the variants of those files, and without what was made from them."""
        gone = {variant.sha256 for variant in self.variants if variant.file in files}
        kept = tuple(one for one in self.variants if one.file not in files and one.parent_sha256 not in gone)
        return self.model_copy(update={"variants": kept})

    def with_variant(self, variant: Variant) -> Manifest:
        """This manifest with `variant` in the place of the one of the same file, or added; what was made from that one goes."""
        replaced = {other.sha256 for other in self.variants if other.file == variant.file} - {variant.sha256}
        others = tuple(other for other in self.variants if other.file != variant.file and other.parent_sha256 not in replaced)
        return self.model_copy(update={"variants": (*others, variant)})
