"""Statistics to ranges, and the calibration table as a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.observers import HistogramObserver
from calibration.ranges import DEFAULT_PERCENTILE, Method, activation_range, check_percentile, summarise
from calibration.shipped_tables import SHIPPED_TABLES
from calibration.table import CalibrationImage, CalibrationSource, CalibrationTable, TensorStatistics, read_table, write_table
from runtime.errors import UserError

STATISTICS = TensorStatistics(minimum=-2.0, maximum=3.0, percentiles={"99.9": (-1.0, 1.5), "99.9999": (-1.75, 2.5)})
FINITE = st.floats(allow_nan=False, allow_infinity=False)
RANGES = st.tuples(FINITE, FINITE).map(lambda ends: (min(ends), max(ends)))
SHA256 = st.text("0123456789abcdef", min_size=64, max_size=64)
SIZE = st.integers(1, 4096)
IMAGES = st.builds(CalibrationImage, name=st.text(), low_sha256=SHA256, high_sha256=st.none() | SHA256)
TABLES = st.builds(
    CalibrationTable,
    graph_fingerprint=SHA256,
    source=st.builds(
        CalibrationSource,
        dataset=st.text(),
        seed=st.integers(0),
        crops=SIZE,
        crop_size=st.tuples(SIZE, SIZE),
        images=st.lists(IMAGES, max_size=4).map(tuple),
    ),
    tensors=st.dictionaries(
        st.text(),
        st.builds(
            lambda ends, percentiles: TensorStatistics(minimum=ends[0], maximum=ends[1], percentiles=percentiles),
            RANGES,
            st.dictionaries(st.text(), RANGES, max_size=4),
        ),
        min_size=1,
        max_size=4,
    ),
)


@pytest.fixture
def table() -> CalibrationTable:
    return read_table(SHIPPED_TABLES / "lesrcnn_x2.json")


@pytest.fixture
def observer() -> HistogramObserver:
    """A million values of a bell curve: enough for the percentiles to differ."""
    observer = HistogramObserver()
    observer.update(np.random.default_rng(0).normal(size=1_000_000).astype(np.float32))
    return observer


@pytest.mark.parametrize("ends", [(1.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_a_range_that_is_none_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"low end is above|finite"):
        TensorStatistics(minimum=ends[0], maximum=ends[1], percentiles={})


@given(table=TABLES)
def test_a_written_table_reads_back_the_same(tmp_path_factory: pytest.TempPathFactory, table: CalibrationTable) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.json"
    path.write_bytes(write_table(table))

    assert read_table(path) == table


def test_a_table_has_one_line_for_each_tensor_and_picture(table: CalibrationTable) -> None:
    lines = write_table(table).decode().splitlines()

    for name in (*table.tensors, *(image.name for image in table.source.images)):
        (line,) = [line for line in lines if json.dumps(name) in line]
        assert line.count("{") == line.count("}") >= 1


def test_changing_one_tensor_changes_one_line(table: CalibrationTable) -> None:
    changed = table.model_copy(update={"tensors": {**table.tensors, "input": STATISTICS}})

    before, after = (write_table(written).splitlines() for written in (table, changed))

    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


@pytest.mark.parametrize("percentile", [float(held) for held in STATISTICS.percentiles])
def test_percentile_takes_the_range_stored_for_it(percentile: float) -> None:
    chosen = activation_range(STATISTICS, method=Method.PERCENTILE, percentile=percentile)

    assert chosen == STATISTICS.percentiles[f"{percentile}"]


def test_minmax_takes_the_extremes() -> None:
    assert activation_range(STATISTICS, method=Method.MINMAX) == (-2.0, 3.0)


@pytest.mark.parametrize("method", Method)
def test_every_method_gives_a_range_inside_the_extremes(observer: HistogramObserver, method: Method) -> None:
    low, high = activation_range(summarise(observer, percentile=DEFAULT_PERCENTILE), method=method)

    assert observer.minimum - 1e-5 <= low < high <= observer.maximum + 1e-5


def test_a_percentile_the_table_lacks_lists_those_it_has() -> None:
    with pytest.raises(UserError, match=r"99\.5") as raised:
        activation_range(STATISTICS, method=Method.PERCENTILE, percentile=99.5)

    assert "99.9, 99.9999" in str(raised.value)
    assert "--calib" in raised.value.hint


@pytest.mark.parametrize("percentile", [80.0, 99.5, DEFAULT_PERCENTILE, 100.0])
def test_the_percentile_asked_for_is_among_those_summarised(observer: HistogramObserver, percentile: float) -> None:
    statistics = summarise(observer, percentile=percentile)

    low, high = activation_range(statistics, method=Method.PERCENTILE, percentile=percentile)

    assert low == pytest.approx(observer.quantile(1 - percentile / 100), rel=1e-5)
    assert high == pytest.approx(observer.quantile(percentile / 100), rel=1e-5)


def test_a_percentile_that_differs_in_the_seventh_digit_is_not_taken_for_another(observer: HistogramObserver) -> None:
    statistics = summarise(observer, percentile=99.99992)

    _, high = activation_range(statistics, method=Method.PERCENTILE, percentile=99.9999)

    assert high == pytest.approx(observer.quantile(0.999999), rel=1e-5)


@pytest.mark.parametrize("percentile", [50.1, 99.9, DEFAULT_PERCENTILE, 100.0])
def test_a_percentile_from_50_to_100_is_accepted(percentile: float) -> None:
    check_percentile(percentile)


@pytest.mark.parametrize("percentile", [-1.0, 0.0, 50.0, 100.001, float("inf"), float("nan")])
def test_any_other_percentile_is_refused(percentile: float) -> None:
    with pytest.raises(UserError, match=f"percentile {percentile:g}") as raised:
        check_percentile(percentile)

    assert "--percentile" in raised.value.hint


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000], ids=repr)
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(content)

    with pytest.raises(UserError, match=r"table\.json is not a calibration table"):
        read_table(path)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        pytest.param(lambda body: body.pop("graph_fingerprint"), "graph_fingerprint", id="a field is missing"),
        pytest.param(lambda body: body.update(graph_fingerprint="abc"), "graph_fingerprint", id="no sha256"),
        pytest.param(lambda body: body.update(schema_version=3), "schema_version", id="a newer schema"),
        pytest.param(lambda body: body.update(tensors={}), "tensors", id="no tensors"),
        pytest.param(lambda body: body.update(note="by hand"), "note", id="an unknown field"),
        pytest.param(lambda body: body["tensors"]["input"].update(maximum="much"), "maximum", id="no number"),
        pytest.param(lambda body: body["source"].update(crop_size=[96]), "crop_size", id="half a size"),
    ],
)
def test_a_table_that_breaks_the_schema_is_refused_with_the_place(
    tmp_path: Path, table: CalibrationTable, change: Callable[[dict[str, Any]], object], where: str
) -> None:
    body = json.loads(write_table(table))
    change(body)
    path = tmp_path / "table.json"
    path.write_text(json.dumps(body))

    with pytest.raises(UserError, match=rf"table\.json is not a calibration table.*{where}"):
        read_table(path)


@pytest.mark.parametrize("name", ["missing.json", "."], ids=["missing", "a folder"])
def test_a_table_that_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name

    with pytest.raises(UserError, match="cannot be read") as raised:
        read_table(path)

    assert str(path) in str(raised.value)
