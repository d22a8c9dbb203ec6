"""`auto` runs fp32 where it was measured fastest, by what the graph is made of, and goes on where that does not open."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import runtime.verify.pairs
from export.arithmetic import count_macs
from runtime import Upscaler, upscaler
from runtime.backends import BACKENDS, Backend, open_backend
from runtime.bundle import Bundle, Variant
from runtime.bundle.graph_content import read_graph_content
from runtime.errors import BackendError
from runtime.images import Picture
from runtime.verify.fastest import fastest_backend, winograd_share
from runtime.verify.pairs import find_pairs
from tests.graphs import Graph

needs_ncnn = pytest.mark.skipif(
    not any(entry.name == "ncnn" and entry.installed for entry in BACKENDS),
    reason="ncnn is not installed: pip install 'sredge[ncnn]'",
)
SAME: dict[str, Any] = {"pads": [1, 1, 1, 1], "strides": [1, 1], "dilations": [1, 1], "group": 1}


def _share(channels: int, kernel: int, **attributes: Any) -> float:  # noqa: ANN401 # as onnx has it
    graph = Graph(0, channels=channels, sides=(16, 16))
    weight = graph.constant(graph.random(channels, channels // attributes.get("group", 1), kernel, kernel))
    proto = ir.to_proto(graph.model(graph.add("Conv", "input", weight, channels=channels, **attributes)))
    return winograd_share(read_graph_content(proto.SerializeToString()), count_macs(proto))


@pytest.mark.parametrize(
    ("channels", "kernel", "attributes", "share"),
    [
        (64, 3, {}, 1),
        (64, 3, SAME, 1),
        (32, 3, SAME, 0),
        (64, 5, {}, 0),
        (64, 1, {}, 0),
        (64, 3, SAME | {"strides": [2, 2]}, 0),
        (64, 3, SAME | {"dilations": [2, 2]}, 0),
        (64, 3, SAME | {"group": 2}, 0),
    ],
    ids=str,
)
def test_only_wide_3x3_convolutions_in_steps_of_1_and_one_group_count(
    channels: int, kernel: int, attributes: dict[str, Any], share: float
) -> None:
    assert _share(channels, kernel, **attributes) == share


def test_lesrcnn_is_for_ncnn_and_srcnn_is_not(exported: Bundle, enlarged_before: Bundle) -> None:
    assert fastest_backend(exported, exported.variant("fp32")) == "ncnn"
    assert fastest_backend(enlarged_before, enlarged_before.variant("fp32")) is None


@pytest.mark.parametrize("changed", [{"precision": "fp16"}, {"io": "uint8"}, {"target": "cpu"}], ids=str)
def test_what_was_not_measured_keeps_its_order(exported: Bundle, changed: dict[str, str]) -> None:
    assert fastest_backend(exported, exported.variant("fp32").model_copy(update=changed)) is None


def test_a_graph_that_cannot_be_read_keeps_its_order(exported: Bundle) -> None:
    gone: Variant = exported.variant("fp32").model_copy(update={"file": "gone.onnx"})
    assert fastest_backend(exported, gone) is None


@needs_ncnn
def test_auto_takes_ncnn_first_for_lesrcnn_and_last_for_srcnn(exported: Bundle, enlarged_before: Bundle) -> None:
    assert find_pairs(exported, precision="fp32")[0].backend.name == "ncnn"
    assert find_pairs(enlarged_before, precision="fp32")[-1].backend.name == "ncnn"
    assert find_pairs(exported, precision="fp32", backend="onnxruntime")[0].backend.name == "onnxruntime"


def test_without_ncnn_auto_takes_what_is_there(exported: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    without = [replace(entry, packages=("no_such_package",)) if entry.name == "ncnn" else entry for entry in BACKENDS]
    monkeypatch.setattr(runtime.verify.pairs, "BACKENDS", tuple(without))
    expected = [entry.name for entry in without if entry.opens_graphs]
    assert [pair.backend.name for pair in find_pairs(exported, precision="fp32")] == expected


@needs_ncnn
def test_auto_goes_on_where_ncnn_cannot_run_the_graph_and_says_so(
    exported_small: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, picture: Picture
) -> None:
    def without_ncnn(name: str, *arguments: object, **options: object) -> Backend:
        if name == "ncnn":
            raise BackendError("ncnn cannot run Trilu (node 'trilu')")
        return open_backend(name, *arguments, **options)  # type: ignore[arg-type] # passed on as they come

    monkeypatch.setattr(runtime.verify.pairs, "fastest_backend", lambda *_: "ncnn")
    monkeypatch.setattr(upscaler, "open_backend", without_ncnn)
    with caplog.at_level(logging.WARNING), Upscaler.open(exported_small, precision="fp32") as opened:
        assert opened.backend_name != "ncnn"
        assert np.any(opened(picture))
    assert "fp32 on ncnn: ncnn cannot run Trilu (node 'trilu'); next: fp32 on" in caplog.text
