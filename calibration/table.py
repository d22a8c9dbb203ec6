"""The calibration table: activation statistics by tensor name, bound to one graph, and the JSON file that holds them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, FiniteFloat, ValidationError, model_validator
from typing_extensions import Self

from runtime.bundle import Noun, Sha256
from runtime.errors import UserError


class CalibrationImage(Noun):
    """A picture that was used; hashes are over pixels (`pairs.picture_sha256`)."""

    name: str
    low_sha256: Sha256
    high_sha256: Sha256 | None

    @property
    def hashes(self) -> frozenset[str]:
        """Those there are, as `pairs.PairHashes` has them."""
        return frozenset(digest for digest in (self.low_sha256, self.high_sha256) if digest is not None)


class CalibrationSource(Noun):
    """Everything the statistics follow from besides the graph: the same source and graph give the same table."""

    dataset: str
    seed: int
    crops: int
    crop_size: tuple[int, int]
    images: tuple[CalibrationImage, ...]


Ends = tuple[FiniteFloat, FiniteFloat]


class TensorStatistics(Noun):
    """What one tensor's values were: extremes, (low, high) at each stored percentile, those of least error, and its channels.

    `mse` and `entropy` hold a range for each kind of codes, "asymmetric" and "symmetric"; `channel_means` and `channel_largest`
    a value for each channel, the mean and the largest magnitude.
    """

    minimum: FiniteFloat
    maximum: FiniteFloat
    percentiles: dict[str, Ends]
    mse: dict[str, Ends] = Field(default_factory=dict)
    entropy: dict[str, Ends] = Field(default_factory=dict)
    channel_means: tuple[FiniteFloat, ...] = ()
    channel_largest: tuple[FiniteFloat, ...] = ()

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        named = (*self.percentiles.values(), *self.mse.values(), *self.entropy.values())
        if any(low > high for low, high in ((self.minimum, self.maximum), *named)):
            raise ValueError("a range's low end is above its high end")
        return self


class CalibrationTable(Noun):
    """Statistics by tensor name, bound to one graph; readable, reusable, diffable.

    Where `mixing` is there, they were measured on the graph with its channels mixed so (`quantize/exact/mix_channels.py`); likewise
    `equalization`, with its channels then scaled (`quantize/exact/equalize.py`). `rewrites_chosen`: which of them lost less was
    decided on pictures that were held back.
    """

    schema_version: Literal[2] = 2
    graph_fingerprint: Sha256
    source: CalibrationSource
    mixing: dict[str, tuple[tuple[FiniteFloat, ...], ...]] | None = None
    equalization: dict[str, tuple[FiniteFloat, ...]] | None = None
    rewrites_chosen: bool = False
    tensors: dict[str, TensorStatistics] = Field(min_length=1)


def used_hashes(images: Iterable[CalibrationImage]) -> frozenset[str]:
    """Return the hashes of all low and high pictures: they tell whether another picture is one of them."""
    return frozenset(digest for image in images for digest in image.hashes)


def write_table(table: CalibrationTable) -> bytes:
    """JSON with one line per tensor and a picture, so that a diff shows what changed."""
    body = table.model_dump(mode="json")
    source = body["source"]
    images = ",\n".join(f"   {json.dumps(image)}" for image in source.pop("images"))
    tensors = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in body["tensors"].items())
    head = json.dumps(source, indent=2)[2:-2].replace("\n", "\n ")
    mixing = "" if body["mixing"] is None else f' "mixing": {_lines(body["mixing"])},\n'  # tables without keep their hash
    chosen = ' "rewrites_chosen": true,\n' if body["rewrites_chosen"] else ""
    scales = _lines(body["equalization"])
    opening = f'{{\n "schema_version": {body["schema_version"]},\n "graph_fingerprint": "{body["graph_fingerprint"]}",\n'
    pictures = f' "source": {{\n {head},\n  "images": [\n{images}\n  ]\n }},\n'
    return f'{opening}{pictures}{mixing} "equalization": {scales},\n{chosen} "tensors": {{\n{tensors}\n }}\n}}\n'.encode()


def _lines(of_groups: Mapping[str, object] | None) -> str:
    """JSON with a line for each group of tensors."""
    if of_groups is None:
        return "null"
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in of_groups.items())
    return f"{{\n{lines}\n }}" if lines else "{}"


def read_table(path: Path) -> CalibrationTable:
    """Return the table in `path`; UserError says what is wrong with it."""
    try:
        return CalibrationTable.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise UserError(f"{path} is not a calibration table: {where} {first['msg']}") from error
