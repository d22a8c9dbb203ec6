"""Distillation: what the simulated network computes, what it learns, and that it goes on where it was cut off."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from calibration.crops import hold_back
from calibration.ranges import Method
from calibration.table import CalibrationImage, CalibrationSource
from export.cli import main as export
from quantize import records
from quantize.cli import main as quantize
from quantize.graph.placement import place_quantizers
from quantize.graph.qdq import QuantizationParameters, RoundedWeight, activation_parameters, fake_quantize, write_qdq
from quantize.int8 import quantize_int8
from quantize.options import Effort, Int8Options
from quantize.reconstruct.distil import distil
from quantize.reconstruct.simulate import SimulatedNetwork
from quantize.stage import load_fp32, quantize_bundle
from quantize.weights.unfitted import round_unfitted
from runtime.bundle import Bundle
from runtime.errors import UserError
from runtime.targets import TARGETS, Target, find_target
from tests.graphs import Graph
from tests.small_int8 import measured_on, output_error, small_network

EACH_TARGET = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
CROPS = [np.random.default_rng(seed).random((1, 3, 12, 10), np.float32) for seed in range(4)]


def _network() -> ir.Model:
    graph = Graph(0, channels=3)
    features = graph.add("Relu", graph.conv("input", 8, 3))
    residual = graph.add("Relu", graph.add("Add", features, graph.conv(graph.add("Relu", graph.conv(features, 8, 3)), 8, 1)))
    return graph.model(graph.conv(residual, 3, 3))


def _quantized(model: ir.Model, target: Target) -> tuple[dict[str, QuantizationParameters], dict[str, RoundedWeight]]:
    placement = place_quantizers(model.graph, target)
    parameters = {name: activation_parameters((-4.0, 4.0), target) for name in placement.quantizers}
    layers = [node for node in model.graph if node.name in placement.int8_layers]
    inputs = {str(node.name): str(node.inputs[0].name) for node in layers if node.inputs[0] is not None}
    rounded = {
        str(node.name): round_unfitted(node, target, input_scale=parameters[inputs[str(node.name)]].scale) for node in layers
    }
    return parameters, rounded


def _run(model: ir.Model, crop: NDArray[np.float32]) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    made: NDArray[np.float32] = session.run(None, {"input": crop})[0]
    return made


@EACH_TARGET
def test_the_simulation_computes_what_the_written_graph_does_but_for_the_last_rounding(target: Target) -> None:
    model = _network()
    model.graph.opset_imports[""] = max(model.graph.opset_imports[""], target.opset_range[0])
    parameters, rounded = _quantized(model, target)
    end = str(model.graph.outputs[0].name)
    with torch.no_grad():
        simulated = SimulatedNetwork(model.graph, parameters, rounded)(torch.from_numpy(CROPS[0])).numpy()

    write_qdq(model, parameters=parameters, rounded=rounded, target=target)

    output = parameters[end]
    difference = np.abs(_run(model, CROPS[0]) - fake_quantize(simulated, output))
    # The graph rounds biases too, so that a value on the edge between two codes may fall to either side; these layers' random
    # weights carry a step of one value into a third of a step of many.
    assert difference.mean() <= output.scale / 2
    assert np.mean(difference <= 0.01 * output.scale) > 0.75


def _error(model: ir.Model, parameters: Mapping[str, QuantizationParameters], rounded: Mapping[str, RoundedWeight]) -> float:
    with torch.no_grad():
        exact, network = SimulatedNetwork(model.graph, {}, {}), SimulatedNetwork(model.graph, parameters, rounded)
        errors = [(network(x).clamp(0, 1) - exact(x).clamp(0, 1)).square().mean() for x in map(torch.from_numpy, CROPS)]
    return float(torch.stack(errors).mean())


def test_what_was_distilled_is_closer_to_fp32() -> None:
    model = _network()
    parameters, rounded = _quantized(model, find_target("cpu"))

    learned = distil(model.graph, parameters, rounded, CROPS, steps=60, on_step=lambda *_: None)

    assert _error(model, parameters, learned) < 0.9 * _error(model, parameters, rounded)
    for name, layer in learned.items():
        assert layer.weight.dtype == np.int8
        np.testing.assert_array_equal(layer.scale, rounded[name].scale)


def test_what_held_back_crops_do_not_confirm_is_not_learned() -> None:
    """Black crops alone say nothing of pictures, and pull the weights away from what those need."""
    model = _network()
    parameters, rounded = _quantized(model, find_target("cpu"))
    black = [np.zeros_like(crop) for crop in CROPS]

    learned = distil(model.graph, parameters, rounded, black, held_back=CROPS, steps=60, on_step=lambda *_: None)
    unjudged = distil(model.graph, parameters, rounded, black, steps=60, on_step=lambda *_: None)

    start = _error(model, parameters, rounded)
    assert _error(model, parameters, unjudged) > start
    assert _error(model, parameters, learned) <= start


@pytest.mark.parametrize(("pictures", "crops", "judged"), [(8, 16, [6, 7, 14, 15]), (4, 6, [5]), (3, 8, [3, 7]), (1, 3, [])])
def test_crops_are_held_back_by_picture(pictures: int, crops: int, judged: list[int]) -> None:
    images = tuple(CalibrationImage(name=str(index), low_sha256="0" * 64, high_sha256=None) for index in range(pictures))
    source = CalibrationSource(dataset="set", seed=0, crops=crops, crop_size=(1, 1), images=images)
    numbered = [np.full((1, 1, 1, 1), index, np.float32) for index in range(crops)]

    split = hold_back(numbered, source)

    assert [int(crop.item()) for crop in split.held_back] == judged
    assert [int(crop.item()) for crop in split.learned_on] == [index for index in range(crops) if index not in judged]


def test_cut_off_and_called_again_it_gives_the_same(tmp_path: Path) -> None:
    model = _network()
    parameters, rounded = _quantized(model, find_target("cpu"))
    progress = tmp_path / "progress"

    def stop(done: int, total: int) -> None:
        if done == 33:
            raise KeyboardInterrupt

    whole = distil(model.graph, parameters, rounded, CROPS, steps=50, on_step=lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        distil(model.graph, parameters, rounded, CROPS, steps=50, on_step=stop, progress=progress)
    assert progress.exists()
    seen: list[int] = []
    resumed = distil(
        model.graph, parameters, rounded, CROPS, steps=50, on_step=lambda done, _: seen.append(done), progress=progress
    )

    assert min(seen) == 20
    assert not progress.exists()
    for name, layer in whole.items():
        np.testing.assert_array_equal(resumed[name].weight, layer.weight)
        np.testing.assert_array_equal(resumed[name].bias, layer.bias)


@pytest.mark.parametrize(("tools", "first"), [(("onnx",), 20), (("onnx", "numpy"), 0)], ids=["the same", "others"])
def test_what_was_learned_with_other_tools_is_not_gone_on_from(
    enlarged_before: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: tuple[str, ...], first: int
) -> None:
    bundle = Bundle.open(Path(shutil.copytree(enlarged_before.directory, tmp_path / "bundle")))
    table = measured_on(load_fp32(bundle), CROPS)
    options = Int8Options(target=find_target("cpu"), method=Method.MINMAX, effort=Effort.BEST)
    seen: list[int] = []

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "distilling":
            seen.append(done)
            if len(seen) in (22, 23):
                raise KeyboardInterrupt

    for versions in (("onnx",), tools):
        monkeypatch.setattr(records, "_TOOLS", versions)
        with pytest.raises(KeyboardInterrupt):
            quantize_bundle(bundle, table, options, crops=CROPS, on_step=stop)

    assert seen == [*range(22), first]


def test_a_damaged_file_of_progress_counts_for_nothing(tmp_path: Path) -> None:
    model = _network()
    parameters, rounded = _quantized(model, find_target("cpu"))
    (tmp_path / "progress").write_bytes(b"not a checkpoint")
    seen: list[int] = []

    distil(
        model.graph, parameters, rounded, CROPS, steps=3, on_step=lambda done, _: seen.append(done), progress=tmp_path / "progress"
    )

    assert seen == [0, 1, 2]


def test_what_is_lifted_is_lifted_while_weights_are_learned() -> None:
    """They make up for less; weights that are given stay as they are."""
    model, crops, table = small_network()
    options = Int8Options(target=find_target("cpu"), method=Method.MINMAX, effort=Effort.BEST)
    lifted = replace(options, lifted=frozenset(["conv3"]))

    balanced, plain, fresh = (
        quantize_int8(model, table, asked, crops=crops) for asked in (replace(options, effort=Effort.BALANCED), options, lifted)
    )
    from_plain = quantize_int8(model, table, lifted, crops=crops, rounded=plain.rounded)

    assert any((plain.rounded[name].weight != layer.weight).any() for name, layer in balanced.rounded.items())  # it learned
    assert set(plain.int8_layers) - set(fresh.int8_layers) == {"conv3"} == plain.rounded.keys() - fresh.rounded.keys()
    assert from_plain.rounded == {name: plain.rounded[name] for name in fresh.int8_layers}
    assert fresh.model != from_plain.model
    assert output_error(model, fresh.model, crops) < 1.05 * output_error(model, from_plain.model, crops)


def test_an_operator_that_is_not_simulated_is_named() -> None:
    graph = Graph(0, channels=3)
    name = graph.add("Hardmax", graph.conv("input", 3, 3))
    with pytest.raises(UserError, match=rf"distillation does not support Hardmax \(node {name}\)"):
        SimulatedNetwork(graph.model(name).graph, {}, {})


def test_before_the_calibration_it_is_said_what_cannot_be_distilled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = Graph(0, channels=3)
    onnx.save(graph.proto(graph.shuffle(graph.conv(graph.add("Hardmax", "input", axis=1), 12, 3))), tmp_path / "hardmax.onnx")
    export([str(tmp_path / "hardmax.onnx"), "--scale", "2", "--out", str(tmp_path / "bundle")])
    capsys.readouterr()
    request = [str(tmp_path / "bundle"), "--calib", str(tmp_path / "no pictures"), "--effort", "best"]

    with pytest.raises(SystemExit) as refused:
        quantize(request)

    told = capsys.readouterr().err
    assert refused.value.code == 2
    assert "distillation does not support Hardmax" in told
    assert "--without distil" in told
    with pytest.raises(SystemExit):
        quantize([*request, "--without", "distil"])
    assert "no pictures" in capsys.readouterr().err
