"""A ConvTranspose written as Conv and DepthToSpace is the same function, whatever its attributes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.ranges import Method
from quantize.exact.subpixel import write_subpixel
from quantize.int8 import quantize_int8
from quantize.options import Effort, Int8Options
from runtime.backends import choose_backend, open_backend
from runtime.targets import TARGETS, Target
from runtime.verify.overflow import overflows
from tests.graphs import Graph
from tests.small_int8 import measured_on, values_as_written


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_it_computes_what_the_transposed_convolution_computed(data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, 4))
    kernel = [data.draw(st.integers(max(1, stride - 1), 9)) for _ in "hw"]
    pads = [data.draw(st.integers(0, min(kernel[axis % 2] - 1, 4))) for axis in range(4)]
    more = [data.draw(st.integers(0, stride - 1)) for _ in "hw"]
    groups = data.draw(st.sampled_from([1, 2, 4]))
    graph = Graph(0)
    weight = graph.constant(graph.random(4, 2, *kernel))
    bias = [graph.constant(graph.random(2 * groups))] if data.draw(st.booleans()) else []
    before = graph.add("Relu", "input")
    made = graph.add(
        "ConvTranspose",
        before,
        weight,
        *bias,
        channels=2 * groups,
        strides=[stride, stride],
        pads=pads,
        output_padding=more,
        group=groups,
    )
    behind = data.draw(st.sampled_from(["", "Relu", "Sigmoid", "two readers"]))
    output = (
        graph.add("Add", made, graph.add("Relu", made)) if behind == "two readers" else graph.add(behind, made) if behind else made
    )
    model = graph.proto(output)
    rewritten = ir.from_proto(model)
    write_subpixel(rewritten.graph)
    written = ir.to_proto(rewritten)
    onnx.checker.check_model(written, full_check=True)
    crops = [np.random.default_rng(1).normal(size=(1, 4, *size)).astype(np.float32) for size in ((6, 7), (11, 6))]
    wanted, found = values_as_written(model, crops), values_as_written(written, crops)

    assert "ConvTranspose" not in {node.op_type for node in written.graph.node}
    assert [value.name for value in written.graph.output] == [output]
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_allclose(other[""], one[""], atol=2e-5)


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "more", "taps"),
    [(9, 2, 4, 1, 5), (9, 3, 4, 2, 3), (4, 2, 1, 0, 2), (8, 4, 2, 0, 2)],
    ids=["FSRCNN x2", "FSRCNN x3", "LapSRN", "x4 by a kernel of 8"],
)
def test_it_has_no_more_taps_than_phases_need(kernel: int, stride: int, pad: int, more: int, taps: int) -> None:
    graph = Graph(0)
    sides = {"strides": [stride] * 2, "pads": [pad] * 4, "output_padding": [more] * 2}
    made = graph.add("ConvTranspose", "input", graph.constant(graph.random(4, 1, kernel, kernel)), channels=1, **sides)
    model = graph.model(made)
    write_subpixel(model.graph)
    (convolution,) = (node for node in model.graph if node.op_type == "Conv")
    weight = convolution.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    assert list(weight.const_value.shape) == [stride**2, 4, taps, taps]


def test_a_computed_kernel_and_a_dilated_one_are_left_alone() -> None:
    graph = Graph(0)
    dilated = graph.add("ConvTranspose", "input", graph.constant(graph.random(4, 4, 3, 3)), dilations=[2, 2])
    kernel = graph.add("Relu", graph.constant(graph.random(4, 4, 3, 3)), channels=4)
    model = graph.model(graph.add("ConvTranspose", dilated, kernel))
    write_subpixel(model.graph)
    assert [node.op_type for node in model.graph].count("ConvTranspose") == 2


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target.name))
def test_every_backend_says_that_it_ran_in_int8(target: Target) -> None:
    """Its input has a zero point: as openvino's own ConvTranspose has no int8 for."""
    graph = Graph(0, channels=3)
    features = graph.conv("input", 8, 3)
    kernel = graph.constant(graph.random(8, 3, 6, 6) / 8)
    larger = graph.add("Relu", graph.add("ConvTranspose", features, kernel, channels=3, strides=[2, 2], pads=[2] * 4))
    model = graph.proto(graph.conv(larger, 3, 3))
    crops = [np.random.default_rng(1).uniform(size=(1, 3, 16, 20)).astype(np.float32)]
    options = Int8Options(target=target, method=Method.MINMAX, effort=Effort.FAST)
    made = quantize_int8(model, measured_on(model, crops), options)
    written = made.model.SerializeToString()

    assert [name for name in made.int8_layers if name.startswith("convtranspose")] == ["convtranspose1"]
    for name in {"openvino", "onnxruntime"}.intersection(target.backends) if target.float_dtype == "float32" else ():
        with open_backend(name, written, precision="int8") as backend:
            accounts = {layer.name: layer.precision for layer in backend.precisions()}
            found = backend.run(crops[0])
        # Graphs of accelerators are simulated here in whatever precision; onnxruntime has no int8 layer that writes floats.
        if target.backends[0] == "openvino" and (name == "openvino" or not target.writes_floats):
            assert accounts["convtranspose1"] == "int8"
        simulated = values_as_written(made.model, crops)[0][""]
        if overflows(choose_backend(name), target, "int8"):
            continue
        assert np.abs(found - simulated).max() <= 2.01 / 255
