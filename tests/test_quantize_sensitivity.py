"""Each layer's error, held against ONNX Runtime's own figures, torch and the graphs as they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization.qdq_loss_debug import compute_signal_to_quantization_noice_ratio

from quantize.explain.sensitivity import LayerNoise, layer_sensitivity, measure_layers
from quantize.graph.switches import SwitchedGraph
from runtime.errors import PipelineError
from runtime.targets.operators import computed, fused
from tests.graphs import Array
from tests.small_int8 import CPU, LAYERS, SCHEMES, SYMMETRIC, SmallInt8, small_int8, values_as_written

HALF_DB = 0.2  # what float16 arithmetic outside the integers may move a figure by
EACH_SCHEME = pytest.mark.parametrize("scheme", SCHEMES)


def ignore_step(done: int, total: int) -> None:
    """Shows nothing."""


def sqnr_db(exact: Sequence[Array], kept: Sequence[Array]) -> float:
    """ONNX Runtime's figure, over all crops."""
    flat = [np.concatenate([array.ravel() for array in arrays]) for arrays in (exact, kept)]
    return float(compute_signal_to_quantization_noice_ratio(*flat))


def measured(small: SmallInt8) -> dict[str, LayerNoise]:
    found = measure_layers(small.reference, small.int8, small.crops, layers=LAYERS, target=small.target, on_step=ignore_step)
    return {layer.name: layer for layer in found}


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    return {weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer}


def written(small: SmallInt8, tensor: str) -> list[Array]:
    return [values[tensor].astype(np.float32) for values in values_as_written(small.int8, small.crops, tensor)]


def stored(small: SmallInt8, tensor: str) -> list[Array]:
    """What the integers stand for that the int8 graph keeps of a tensor."""
    numbers = constants(small.int8)
    zero_point, scale = int(numbers[f"{tensor}.zero_point"]), np.float32(numbers[f"{tensor}.scale"])
    return [(codes - zero_point) * scale for codes in written(small, f"{tensor}.quantized")]


@EACH_SCHEME
def test_every_layer_has_one_line_and_what_is_only_moved_has_none(scheme: str) -> None:
    found = measured(small_int8(SCHEMES[scheme]))

    assert [name for name in found if name in LAYERS] == list(LAYERS)
    moved = {"depthtospace7", "input.and_one", "relu2"}
    assert not [name for name in found if name in moved or name.endswith(".padded.1")]


@EACH_SCHEME
def test_the_accumulated_error_is_what_onnxruntimes_debugger_makes_of_it(scheme: str) -> None:
    small = small_int8(SCHEMES[scheme])

    for layer in ("conv1", "conv3", "add4"):
        found = measured(small)[layer]
        exact = [values[found.tensor] for values in values_as_written(small.reference, small.crops, found.tensor)]
        kept = stored(small, found.tensor) if found.stored_range is not None else written(small, found.tensor)
        assert found.sqnr_db == pytest.approx(sqnr_db(exact, kept), abs=0.01), layer


@EACH_SCHEME
@pytest.mark.parametrize("brightness", [0.5, 1.5], ids=["within a picture's range", "most of it beyond white"])
def test_at_the_output_only_what_a_picture_can_hold_counts(scheme: str, brightness: float) -> None:
    small = small_int8(SCHEMES[scheme], brightness=brightness)

    exact, kept = (
        [values[""].clip(0, 1) for values in values_as_written(model, small.crops)] for model in (small.reference, small.int8)
    )
    found = measured(small)["conv6"]
    assert found.sqnr_db == pytest.approx(sqnr_db(exact, kept), abs=0.01)
    assert found.clipped_share == 0.0


def test_the_error_of_a_layer_alone_is_that_of_its_weights_and_its_quantizer_on_exact_inputs() -> None:
    small = small_int8(CPU)
    found, numbers = measured(small)["conv3"], constants(small.int8)
    assert found.stored_range is not None

    weight = numbers["conv3.weight.quantized"] * numbers["conv3.weight.scale"].reshape(-1, 1, 1, 1)
    bias = numbers["conv3.bias.quantized"] * numbers["conv3.bias.scale"]
    exact, kept = [], []
    for values in values_as_written(small.reference, small.crops, "relu2", "conv3"):
        given, weights, biases = (torch.from_numpy(array.astype(np.float32)) for array in (values["relu2"], weight, bias))
        made = torch.nn.functional.conv2d(given, weights, biases, padding=1)
        step, zero_point = float(numbers["conv3.scale"]), int(numbers["conv3.zero_point"])
        exact.append(values["conv3"])
        kept.append(torch.fake_quantize_per_tensor_affine(made, step, zero_point, 0, 255).numpy())
    assert found.alone_sqnr_db == pytest.approx(sqnr_db(exact, kept), abs=0.02)


@EACH_SCHEME
def test_the_first_layer_has_no_error_but_its_own(scheme: str) -> None:
    first = measured(small_int8(SCHEMES[scheme]))["conv1"]

    assert first.sqnr_db == pytest.approx(first.alone_sqnr_db, abs=HALF_DB)


@pytest.mark.parametrize("scheme", [name for name, target in SCHEMES.items() if not target.has_wide_codes])  # they have room
def test_values_are_clipped_that_are_further_than_half_a_step_from_what_is_stored(scheme: str) -> None:
    small = small_int8(SCHEMES[scheme], narrowed={"relu5": 0.4})
    found = measured(small)["add4"]
    assert found.tensor in ("relu5", "relu5.centred")
    assert found.stored_range is not None

    (quantizer,) = [node for node in small.int8.graph.node if node.name == f"{found.tensor}.quantize"]
    step = float(constants(small.int8)[f"{found.tensor}.scale"])
    made = np.concatenate([values.ravel() for values in written(small, quantizer.input[0])])
    if found.tensor == "relu5.centred":  # whose quantizer is the ReLU
        made = made.clip(found.stored_range[0])
    missed = np.abs(made - np.concatenate([values.ravel() for values in stored(small, found.tensor)]))
    codes = np.concatenate([values.ravel() for values in written(small, f"{found.tensor}.quantized")])
    assert found.clipped_share == pytest.approx(float((missed > 0.501 * step).mean()), abs=5e-3)  # float16 halves of a step
    assert (missed > step).mean() > 0.01
    assert found.codes_used_share == len(np.unique(codes)) / 256


def test_a_layer_that_is_left_in_float_has_an_error_and_no_range() -> None:
    found = measured(small_int8(replace(CPU, operators=(*computed("Add"), *fused("Relu")))))["conv6"]

    assert (found.clipped_share, found.codes_used_share, found.stored_range, found.alone_sqnr_db) == (None, None, None, None)
    assert found.sqnr_db is not None  # additions before it are in int8


def test_a_graph_of_other_tensors_is_no_reference() -> None:
    small = small_int8(SYMMETRIC)

    with pytest.raises(PipelineError, match="input"):
        measured(replace(small, reference=small_int8(CPU).reference))


# Any part of it in int8


def switched(small: SmallInt8) -> SwitchedGraph:
    return SwitchedGraph(small.reference, small.int8, small.crops, target=small.target)


@EACH_SCHEME
def test_with_every_switch_on_the_output_is_that_of_the_int8_graph_as_written(scheme: str) -> None:
    small = small_int8(SCHEMES[scheme])
    exact, kept = (
        np.concatenate([values[""].clip(0, 1).ravel() for values in values_as_written(model, small.crops)])
        for model in (small.reference, small.int8)
    )

    graph = switched(small)

    assert graph.layers == LAYERS
    assert graph.psnr_db(graph.operators) == pytest.approx(-10 * np.log10(np.square(exact - kept).mean()), abs=HALF_DB)


@EACH_SCHEME
def test_with_every_switch_off_the_output_is_fp32s(scheme: str) -> None:
    assert switched(small_int8(SCHEMES[scheme])).psnr_db(()) is None


def test_a_layer_is_rounded_with_the_tensors_it_touches_and_no_others() -> None:
    small = small_int8(CPU)
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(small.int8)
    (scale,) = [weight for weight in spoilt.graph.initializer if weight.name == "conv3.scale"]
    scale.CopyFrom(onnx.numpy_helper.from_array(np.array(1, np.float32), "conv3.scale"))  # what conv3 writes and add4 reads
    before, after = switched(small), switched(replace(small, int8=spoilt))

    for name in ("conv1", "conv6"):
        assert after.psnr_db({name}) == before.psnr_db({name})
    for name in ("conv3", "add4"):
        worse, better = after.psnr_db({name}), before.psnr_db({name})
        assert worse is not None
        assert better is not None
        assert worse < better - 10


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_whose_weights_are_lost_is_the_most_sensitive(layer: str) -> None:
    small = small_int8(CPU)
    (weight,) = [weight for weight in small.int8.graph.initializer if weight.name == f"{layer}.weight.quantized"]
    weight.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(onnx.numpy_helper.to_array(weight)), weight.name))
    graph = switched(small)

    alone = layer_sensitivity(graph, on_step=ignore_step)
    lifted = {name: graph.psnr_db(graph.operators - {name}) for name in graph.layers}

    assert min(alone, key=lambda name: alone[name] or np.inf) == layer
    assert max(lifted, key=lambda name: lifted[name] or np.inf) == layer
