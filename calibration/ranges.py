"""Statistics -> ranges, and the calibration table: the file that holds the statistics and says what they were measured on.

A range is (low, high) of the values a quantizer must represent. `minmax` takes the extremes; `percentile` p leaves out (100 -
p) percent at either end, which costs those values and buys a finer step for all others; `mse` and `entropy` weigh the one against
the other (`calibration/optimal_ranges.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Literal

from pydantic import Field, FiniteFloat, ValidationError, model_validator
from typing_extensions import Self

from calibration.observers import ChannelObserver, HistogramObserver
from calibration.optimal_ranges import Codes, entropy_range, mse_range
from runtime.bundle import Noun, Sha256
from runtime.errors import UserError

# One value in a million at either end. Of 99.9 to 99.9999 and min-max it lost least for LESRCNN x2 on sixteen BSDS500 test
# pictures, calibrated on DIV2K and on BSDS500 train; 99.99 and less clip the strong edges that make up the error.
DEFAULT_PERCENTILE = 99.9999
_STORED = (99.9, 99.99, 99.999, 99.9999)


class Method(Enum):
    """How a range follows from statistics."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"
    ENTROPY = "entropy"


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

    Where `mixing` is there, they were measured on the graph with its channels mixed so (`quantize/mix_channels.py`); likewise
    `equalization`, with its channels then scaled (`quantize/equalize.py`).
    """

    schema_version: Literal[2] = 2
    graph_fingerprint: Sha256
    source: CalibrationSource
    mixing: dict[str, tuple[tuple[FiniteFloat, ...], ...]] | None = None
    equalization: dict[str, tuple[FiniteFloat, ...]] | None = None
    tensors: dict[str, TensorStatistics] = Field(min_length=1)


def used_hashes(images: Iterable[CalibrationImage]) -> frozenset[str]:
    """Of the low and the high pictures of them all: what says whether another picture is one of them."""
    return frozenset(digest for image in images for digest in image.hashes)


def stored_percentiles(asked: float) -> tuple[float, ...]:
    """The percentiles that a table measured for `asked` holds."""
    return tuple(sorted({*_STORED, float(asked)}))


def holds_percentiles(table: CalibrationTable, asked: float) -> bool:
    """Whether `table` holds just those that measuring for `asked` would give."""
    keys = {_key(percentile) for percentile in stored_percentiles(asked)}
    return all(statistics.percentiles.keys() == keys for statistics in table.tensors.values())


def summarise(observer: HistogramObserver, channels: ChannelObserver | None = None, *, percentile: float) -> TensorStatistics:
    """The statistics of one tensor, at the stored percentiles and the one asked for; six digits, more is noise."""
    kinds = {"asymmetric": Codes(symmetric=False), "symmetric": Codes(symmetric=True)}
    return TensorStatistics(
        minimum=_round(observer.minimum),
        maximum=_round(observer.maximum),
        percentiles={
            _key(stored): (_round(observer.quantile(1 - stored / 100)), _round(observer.quantile(stored / 100)))
            for stored in stored_percentiles(percentile)
        },
        mse={name: _round_ends(mse_range(observer, codes)) for name, codes in kinds.items()},
        entropy={name: _round_ends(entropy_range(observer, codes)) for name, codes in kinds.items()},
        channel_means=() if channels is None else tuple(_round(float(mean)) for mean in channels.mean),
        channel_largest=() if channels is None else tuple(_round(float(largest)) for largest in channels.largest),
    )


def activation_range(
    statistics: TensorStatistics, *, method: Method, symmetric: bool = False, percentile: float = DEFAULT_PERCENTILE
) -> tuple[float, float]:
    """(low, high) by `method`, for codes that are `symmetric` about zero or not.

    Raises:
        UserError: the table does not hold that percentile; lists those it holds.
    """
    if method is Method.MINMAX:
        return statistics.minimum, statistics.maximum
    if method in (Method.MSE, Method.ENTROPY):
        by_kind = statistics.mse if method is Method.MSE else statistics.entropy
        return by_kind["symmetric" if symmetric else "asymmetric"]
    key = _key(percentile)
    if key not in statistics.percentiles:
        held = ", ".join(statistics.percentiles)
        raise UserError(
            f"the calibration table does not hold percentile {key}; it holds: {held}",
            hint="calibrate on pictures (--calib with a folder or a data set that is here) for any other",
        )
    return statistics.percentiles[key]


def check_percentile(percentile: float) -> None:
    """UserError unless it is above 50 and at most 100."""
    if not 50 < percentile <= 100:
        raise UserError(f"percentile {percentile:g}: expected more than 50 and at most 100", hint="--percentile 99.999")


def write_table(table: CalibrationTable) -> bytes:
    """JSON with one line a tensor and a picture, so that a diff shows what changed."""
    body = table.model_dump(mode="json")
    source = body["source"]
    images = ",\n".join(f"   {json.dumps(image)}" for image in source.pop("images"))
    tensors = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in body["tensors"].items())
    head = json.dumps(source, indent=2)[2:-2].replace("\n", "\n ")
    mixing = "" if body["mixing"] is None else f' "mixing": {_lines(body["mixing"])},\n'  # tables without keep their hash
    scales = _lines(body["equalization"])
    opening = f'{{\n "schema_version": {body["schema_version"]},\n "graph_fingerprint": "{body["graph_fingerprint"]}",\n'
    pictures = f' "source": {{\n {head},\n  "images": [\n{images}\n  ]\n }},\n'
    return f'{opening}{pictures}{mixing} "equalization": {scales},\n "tensors": {{\n{tensors}\n }}\n}}\n'.encode()


def _lines(of_groups: Mapping[str, object] | None) -> str:
    """JSON with a line for each group of tensors."""
    if of_groups is None:
        return "null"
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in of_groups.items())
    return f"{{\n{lines}\n }}" if lines else "{}"


def read_table(path: Path) -> CalibrationTable:
    """The table in `path`; UserError says what is wrong with it."""
    try:
        return CalibrationTable.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise UserError(f"{path} is not a calibration table: {where} {first['msg']}") from error


def _key(percentile: float) -> str:
    """All its digits: 99.99992 is not 99.9999."""
    return repr(float(percentile))


def _round_ends(ends: tuple[float, float]) -> tuple[float, float]:
    return _round(ends[0]), _round(ends[1])


def _round(value: float) -> float:
    return float(f"{value:.6g}")
