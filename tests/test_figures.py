"""What is printed of a figure claims no more than is known: shares, timings, percentiles, layers, means over equal pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from benchmarks import calibration_cost
from benchmarks.compare import _drop_db
from benchmarks.latency import ENOUGH_RUNS, RUNS, summarise
from benchmarks.metrics import Score
from quantize.search.cli import _conditions
from quantize.search.result import HeldBack, SearchState, Timing
from runtime.backends.processor import count_cores, processor_name
from runtime.bundle import Bundle, Layer
from runtime.cli import main as runtime
from runtime.describe import describe_int8_layers
from runtime.terminal.figures import measured_text, share_text


@given(st.floats(0, 1), st.integers(0, 3))
def test_a_share_is_called_all_or_nothing_only_where_it_is(share: float, digits: int) -> None:
    text = share_text(share, digits=digits)
    said = float(text.strip("<%"))
    assert abs(said - 100 * share) <= 10.0**-digits
    if 1e-9 < share < 1 - 1e-9:
        assert said < 100
        assert text.startswith("<") or said > 0
    assert share_text(1.0, digits=digits) == f"{100:.{digits}f}%"
    assert share_text(0.0, digits=digits) == f"{0:.{digits}f}%"


@given(st.floats(1e-6, 1e6))
def test_what_was_timed_has_three_digits_and_no_exponent(value: float) -> None:
    text = measured_text(value)
    assert re.fullmatch(r"\d+(\.\d+)?", text)
    assert float(text) == pytest.approx(value, rel=0.0051)
    assert len(text.replace(".", "").strip("0")) <= 3


@pytest.mark.parametrize("percentile", ENOUGH_RUNS)
def test_a_percentile_needs_the_runs_of_mlperfs_early_stopping(percentile: int) -> None:
    """The least n of which one run at most is beyond it by luck with a probability of 1% or less, by scipy's binomial."""
    runs = np.arange(2, 2000)
    assert ENOUGH_RUNS[percentile] == runs[binom.cdf(1, runs, 1 - percentile / 100) <= 0.01][0]


@pytest.mark.parametrize("runs", [1, RUNS, 63, 64, 661, 662, 1000])
def test_a_percentile_is_told_only_where_there_are_runs_enough(runs: int) -> None:
    taken = np.random.default_rng(runs).random(runs) + 1
    latency = summarise(list(taken), shape=(1, 3, 8, 8), threads=1)
    told = {50: latency.p50_ms, 90: latency.p90_ms, 99: latency.p99_ms}
    assert {percentile for percentile, value in told.items() if value is None} == {p for p, n in ENOUGH_RUNS.items() if runs < n}
    for percentile, value in told.items():
        assert value is None or value == pytest.approx(np.percentile(taken, percentile), abs=1e-3)


@given(st.lists(st.sampled_from(["int8", "merged", "float"]), min_size=1, max_size=12))
def test_every_layer_is_accounted_for(quantized: Bundle, made: list[str]) -> None:
    layers = tuple(Layer(name=f"layer{index}", op="Conv", macs=1) for index in range(len(made)))
    manifest = quantized.manifest.model_copy(update={"layers": layers})
    named = {kind: tuple(f"layer{index}" for index, other in enumerate(made) if other == kind) for kind in ("int8", "merged")}
    variant = quantized.variant("int8").model_copy(update={"int8_layers": named["int8"], "merged_layers": named["merged"]})
    said = describe_int8_layers(manifest, variant)
    in_int8, of_all, *rest = (int(number) for number in re.findall(r"(?<!layer)\b\d+", said))
    assert of_all == len(made)
    assert in_int8 + sum(rest) == len(made)
    assert all(name in said for name in named["merged"])


def test_info_says_which_layer_is_merged(quantized: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    runtime(["info", str(quantized.directory)])
    (merged,) = quantized.variant("int8").merged_layers
    said = f"100.0% of MACs int8, 23 of 24 layers, 1 merged into the layer behind it ({merged})"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fp32", "int8", "lost"),
    [
        pytest.param([30, 40], [29, 38], 1.5, id="none equal"),
        pytest.param([30, math.inf], [29, 60], 1.0, id="fp32 is the truth itself"),
        pytest.param([30, 40], [29, math.inf], 1.0, id="int8 is the truth itself"),
        pytest.param([30, math.inf], [29, math.inf], 1.0, id="both are"),
        pytest.param([math.inf], [math.inf], None, id="no other picture"),
    ],
)
def test_what_is_lost_is_a_mean_over_the_same_pictures(fp32: list[float], int8: list[float], lost: float | None) -> None:
    """One more picture, which fp32 gets exactly, is no gain of int8's."""
    before, after = ([("", Score(value, 1.0)) for value in values] for values in (fp32, int8))
    assert _drop_db(before, after) == lost


def test_a_search_says_what_its_latency_was_measured_on() -> None:
    held_back = HeldBack(dataset="set5", images=(), are_other_pictures=True, crops=1, crop_size=(8, 8), seed=0)
    timing = Timing(shape=(1, 3, 128, 128), warm_up=2, n=15)
    said = _conditions(SearchState(key="0" * 64, target="cpu", backend="openvino", held_back=held_back, timing=timing), tried_now=0)
    for told in (processor_name(), f"{count_cores()} cores", "median of 15", "1×3×128×128", "openvino"):
        assert told in said


def test_calibration_cost_tells_the_crops_that_there_were(
    small_copy: Bundle, picture_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = picture_folder((24, 40))
    calibration_cost.main([str(small_copy.directory), "--data", str(folder), "--crops=2", "--turns=1", "--no-onnxruntime"])
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("2 crops of 48×80")  # enlarged before, as the network is given them
    assert "1 turns (seconds: their median" in said
