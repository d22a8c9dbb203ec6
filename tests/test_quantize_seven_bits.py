"""Target cpu-avx2: weights of 7 bits, whose products never overflow 16 bits, at every effort."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.ranges import Method
from quantize.cli import main
from quantize.int8 import quantize_int8
from quantize.options import Effort, Int8Options
from runtime.backends import BACKENDS, open_backend
from runtime.backends.onnxruntime import run_as_written
from runtime.backends.processor import products_overflow
from runtime.bundle import Bundle
from runtime.describe import describe
from runtime.targets import find_target
from runtime.verify.pairs import find_pairs
from tests.small_int8 import small_network

SEVEN_BITS = find_target("cpu-avx2")
_FITS_16_BITS = 2**15 - 1


@pytest.mark.parametrize("effort", Effort)
def test_no_two_products_overflow_16_bits_and_every_backend_here_computes_the_graph(effort: Effort) -> None:
    model, crops, table = small_network()
    options = Int8Options(target=SEVEN_BITS, method=Method.MINMAX, effort=effort)
    graph = quantize_int8(model, table, options, crops=crops).model
    weights = [weight for weight in _weights(graph) if weight.ndim == 4]
    largest = max(int(np.abs(weight.astype(int)).max()) for weight in weights)
    assert 2 * 255 * largest <= _FITS_16_BITS
    assert largest > 32  # and no bit is given away
    simulated = run_as_written(graph.SerializeToString(), crops[0]).clip(0, 1)
    for entry in BACKENDS:
        if entry.opens_graphs and entry.name in SEVEN_BITS.backends:
            with open_backend(entry.name, graph.SerializeToString(), precision="int8") as backend:
                error = backend.run(crops[0]).clip(0, 1) - simulated
                assert np.abs(error).max() <= 2.01 / 255, entry.name


def _weights(model: onnx.ModelProto) -> list[NDArray[np.generic]]:
    return [numpy_helper.to_array(one) for one in model.graph.initializer if one.data_type == onnx.TensorProto.INT8]


def test_auto_takes_the_graph_that_does_not_overflow_where_the_other_would(small_copy: Bundle) -> None:
    for target in ("cpu", "cpu-avx2"):
        main([str(small_copy.directory), "--calib", "samples", "--target", target, "--effort", "fast", "--crops", "4"])
    wanted = "cpu-avx2" if products_overflow() else "cpu"
    assert find_pairs(Bundle.open(small_copy.directory))[0].variant.target == wanted
    described = "\n".join(describe(Bundle.open(small_copy.directory)))
    assert f"int8 for {wanted} on openvino" in described
    assert "(!) without VNNI" not in described
