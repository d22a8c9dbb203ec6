"""Choose activation ranges: a tensor's statistics (`table.py`) and a method in, (low, high) out.

A range is (low, high) of the values a quantizer must represent. `minmax` takes the extremes; `percentile` p leaves out (100 -
p) percent at either end, which costs those values and buys a finer step for all others; `mse` and `entropy` weigh the one against
the other (`calibration/optimal_ranges.py`).
"""

from __future__ import annotations

from enum import Enum

from calibration.observers import ChannelObserver, HistogramObserver
from calibration.optimal_ranges import Codes, entropy_range, mse_range
from calibration.table import CalibrationTable, TensorStatistics
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


def stored_percentiles(asked: float) -> tuple[float, ...]:
    """Return the percentiles that a table measured for `asked` holds."""
    return tuple(sorted({*_STORED, float(asked)}))


def holds_percentiles(table: CalibrationTable, asked: float) -> bool:
    """Return whether `table` holds just those that measuring for `asked` would give."""
    keys = {_key(percentile) for percentile in stored_percentiles(asked)}
    return all(statistics.percentiles.keys() == keys for statistics in table.tensors.values())


def summarise(observer: HistogramObserver, channels: ChannelObserver | None = None, *, percentile: float) -> TensorStatistics:
    """Return the statistics of one tensor, at the stored percentiles and the one asked for; six digits, more is noise."""
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
    """Raise UserError unless it is above 50 and at most 100."""
    if not 50 < percentile <= 100:
        raise UserError(f"percentile {percentile:g}: expected more than 50 and at most 100", hint="--percentile 99.999")


def _key(percentile: float) -> str:
    """Return all its digits: 99.99992 is not 99.9999."""
    return repr(float(percentile))


def _round_ends(ends: tuple[float, float]) -> tuple[float, float]:
    return _round(ends[0]), _round(ends[1])


def _round(value: float) -> float:
    return float(f"{value:.6g}")
