"""Every row of every target's table, on a tiny graph around its operator: quantized, right on the backends, run as the row says."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibration.ranges import Method
from calibration.table import CalibrationTable
from quantize.graph.operators import part_of
from quantize.int8 import Int8Graph, quantize_int8
from quantize.options import Effort, Int8Options
from runtime.backends import BACKENDS, BackendEntry, choose_backend, open_backend
from runtime.backends.onnxruntime import run_as_written
from runtime.backends.processor import products_overflow
from runtime.errors import UserError
from runtime.targets import TARGETS, Target
from runtime.targets.operators import Part, Row
from runtime.verify.value_check import psnr_db
from tests.graphs import Array
from tests.row_graphs import COLOURS, GRAPHS, SIDE, operator_graph
from tests.small_int8 import measured_on

_DISTINCT = tuple(target for target in TARGETS if target.name not in ("vacc", "npu-pow2"))  # those have npu's table
_LEAST_DB = 40.0  # of backend against simulation; where a code is rounded otherwise here and there it is 60 and more
_LEAST_OVERFLOWN_DB = 25.0  # 34 and more were seen
_KEPT_DB = 45.0  # of int8 against fp32, both as a picture: 8 bits cost these graphs 53 to 60


@pytest.mark.parametrize("target", _DISTINCT, ids=lambda target: target.name)
@pytest.mark.parametrize("name", GRAPHS)
def test_what_a_table_has_is_right_in_int8_and_what_it_has_not_is_in_float_or_refused(target: Target, name: str) -> None:
    model, crops, table = measured(name)
    options = Int8Options(target=target, method=Method.MINMAX, effort=Effort.FAST)
    strange = [node for node in ir.from_proto(model).graph if part_of(node, target) is None]
    if strange and target.everything_int8:
        with pytest.raises(UserError, match=rf"{target.name} .* has no {strange[0].op_type} \({strange[0].name}\)"):
            quantize_int8(model, table, options)
        return
    found = quantize_int8(model, table, options)
    check_claims(model, found, target)
    graph, (crop, *_) = found.model.SerializeToString(), crops
    simulated = run_as_written(graph, crop).astype(np.float64)
    exact = run_as_written(model.SerializeToString(), crop).astype(np.float64)
    assert psnr_db(simulated.clip(0, 1), exact.clip(0, 1)) >= _KEPT_DB
    for backend in [name for name in target.backends if choose_entry(name).opens_graphs]:
        with open_backend(backend, graph, precision="int8") as opened:
            kept = psnr_db(opened.run(crop).astype(np.float64), simulated)
            overflows = choose_backend(backend).sums_in_16_bits and products_overflow() and target.largest_weight > 64
            assert kept >= (_LEAST_OVERFLOWN_DB if overflows else _LEAST_DB), backend
            if backend == "openvino" and not target.everything_int8:
                check_precisions(model, found, {layer.name: layer.precision for layer in opened.precisions()})


def choose_entry(name: str) -> BackendEntry:
    """Whether it is installed or not."""
    return next(entry for entry in BACKENDS if entry.name == name)


def check_claims(model: onnx.ModelProto, found: Int8Graph, target: Target) -> None:
    """Every layer of a tiny graph is in int8, and a target of int8 alone reads and writes nothing else in between."""
    layers = [node.name for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    assert sorted(found.int8_layers) == sorted(layers)
    for node in ir.from_proto(found.model).graph:
        row = next((row for row in target.operators if row.operator == node.op_type and row.part is Part.COMPUTE), None)
        if row is not None and target.everything_int8 and not row.constants and node.op_type not in ("Conv", "MatMul"):
            readers = [value.producer() for value in node.inputs if value is not None and value.const_value is None]
            assert {reader.op_type for reader in readers if reader is not None} <= {"DequantizeLinear"}, node.name


def check_precisions(model: onnx.ModelProto, found: Int8Graph, ran: dict[str, str]) -> None:
    """openvino ran in int8 what is written so; a MatMul's bias names both."""
    after = {node.input[0]: node.name for node in model.graph.node if node.op_type in ("Add", "Mul")}
    for name in found.int8_layers:
        assert ran.get(name, ran.get(after.get(name, ""))) == "int8", name


@cache
def measured(name: str) -> tuple[onnx.ModelProto, list[Array], CalibrationTable]:
    model = operator_graph(GRAPHS[name])
    rng = np.random.default_rng(5)
    crops = [rng.random((1, COLOURS, SIDE, SIDE), np.float32) for _ in range(2)]
    return model, crops, measured_on(model, crops)


def rows() -> Iterator[Row]:
    return iter(dict.fromkeys(row for target in TARGETS for row in target.operators))


def test_every_row_of_a_table_is_some_graph_s() -> None:
    graphs = [measured(name)[0] for name in GRAPHS]
    tried = {node.op_type for model in graphs for node in model.graph.node}
    assert {row.operator for row in rows()} <= tried
