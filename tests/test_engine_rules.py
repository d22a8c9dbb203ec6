"""Each rule for Q/DQ finds what it is there for, and nothing in a graph as it should be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from export.engine.tensorrt.qdq_rules import RULES, broken_rules, check_graph
from export.graph.pixel_io import with_pixel_io
from runtime.bundle import Bundle
from runtime.errors import PipelineError
from runtime.images import Picture, to_network
from runtime.targets import Precision, find_target
from tests.broken_rules import BROKEN, CHANNELS, Edit, bytes_transposed, find_node, qdq_model, replace_constant
from tests.small_int8 import small_int8
from tests.stand_ins.libraries import ROOT, modelopt

MODELOPT = """
import sys
import numpy as np
from modelopt.onnx.quantization import quantize

calibration = np.random.default_rng(0).random((2, 3, 24, 24), np.float32)
given = dict(calibration_data={"input": calibration}, calibration_method="max", calibration_eps=["cpu"])
quantize(sys.argv[1], quantize_mode="int8", high_precision_dtype=sys.argv[3], output_path=sys.argv[2], **given)
"""


def test_a_graph_as_it_should_be_breaks_no_rule() -> None:
    assert broken_rules(qdq_model()) == ()


def test_an_axis_may_be_counted_from_the_end() -> None:
    model = qdq_model()
    find_node(model, "weights").attribute[0].i = -4
    assert broken_rules(model) == ()


def test_weights_that_are_quantized_in_the_graph_break_none() -> None:
    model = qdq_model()
    replace_constant(model, "weight", np.random.default_rng(1).standard_normal((CHANNELS, 3, 3, 3)).astype(np.float32))
    quantizer = helper.make_node(
        "QuantizeLinear", ["weight", "weight_scale", "weight_zero"], ["wq"], name="quantize_weights", axis=0
    )
    model.graph.node.insert(0, quantizer)
    find_node(model, "weights").input[0] = "wq"
    assert broken_rules(model) == ()
    find_node(model, "quantize_weights").attribute[0].i = 1
    assert [line.partition(":")[0] for line in broken_rules(model)] == ["scale-count"]


@pytest.mark.parametrize(("rule", "edit", "opset"), BROKEN, ids=[f"{rule}{edit.__name__}" for rule, edit, _ in BROKEN])
def test_a_rule_finds_what_breaks_it(rule: str, edit: Edit, opset: int) -> None:
    model = qdq_model(opset)
    edit(model)
    found = [line.partition(":")[0] for line in broken_rules(model)]
    assert rule in found, found


def test_there_is_a_test_for_every_rule() -> None:
    assert {rule.name for rule in RULES} == {rule for rule, _, _ in BROKEN}


def test_the_cpus_graph_is_refused_with_the_rules_it_breaks(quantized: Bundle) -> None:
    int8 = quantized.variant("int8")
    with pytest.raises(PipelineError, match="symmetric: zero points are 0") as caught:
        check_graph(quantized.read(int8), what=int8.file)
    assert "int8: what is quantized is int8" in str(caught.value)
    assert "--target tensorrt" in caught.value.hint


def test_the_graph_for_tensorrt_breaks_none(for_tensorrt: Bundle) -> None:
    int8 = for_tensorrt.variant("int8", target="tensorrt")
    model = onnx.load_model_from_string(for_tensorrt.read(int8))
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) > len(int8.int8_layers)
    assert broken_rules(model) == ()


def test_the_graph_for_tensorrt_gives_the_fp32_picture_with_the_tables_that_ship(for_tensorrt: Bundle, picture: Picture) -> None:
    array = to_network(picture, for_tensorrt.manifest.contract, scale=2)
    variants = (for_tensorrt.variant("fp32"), for_tensorrt.variant("int8", target="tensorrt"))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # the graph as it is written
    fp32, int8 = (
        ort.InferenceSession(for_tensorrt.read(variant), options, providers=["CPUExecutionProvider"]).run(None, {"input": array})[0]
        for variant in variants
    )
    assert -10 * np.log10(np.square(int8 - fp32).mean()) > 35  # with another target's biases it is 13


@pytest.mark.parametrize("outside", ["fp32", "fp16"])
def test_what_modelopt_writes_for_tensorrt_breaks_none(exported: Bundle, tmp_path: Path, outside: str) -> None:
    written = tmp_path / "modelopt.onnx"
    done = subprocess.run(
        [sys.executable, "-c", MODELOPT, str(exported.path(exported.variant("fp32"))), str(written), outside],
        env={**os.environ, **modelopt()},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    model = onnx.load(written)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) > len(exported.manifest.layers)
    assert broken_rules(model) == ()


def test_a_small_graph_of_everything_for_tensorrt_breaks_none() -> None:
    assert broken_rules(small_int8(find_target("tensorrt")).int8) == ()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_graph_of_raw_pixels_breaks_none(for_tensorrt: Bundle, precision: Precision) -> None:
    variant = for_tensorrt.variant(precision, target="tensorrt")
    model = with_pixel_io(onnx.load_model_from_string(for_tensorrt.read(variant)))
    check_graph(model.SerializeToString(), what=variant.file)


def test_bytes_that_are_not_cast_first_say_how_to_write_that_graph_anew() -> None:
    model = qdq_model()
    bytes_transposed(model)
    with pytest.raises(PipelineError, match=r"pixels-are-cast: .*Transpose reads pixels_in") as caught:
        check_graph(model.SerializeToString(), what="a graph")
    assert "--io uint8" in caught.value.hint


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_graph_without_quantizers_breaks_none(quantized: Bundle, precision: str) -> None:
    variant = next(variant for variant in quantized.manifest.variants if variant.precision == precision)
    check_graph(quantized.read(variant), what=variant.file)
