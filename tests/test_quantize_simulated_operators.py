"""Every operator of the torch simulation against ONNX Runtime: values, and derivatives by small differences of its values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from quantize.reconstruct.operators import OPERATORS
from quantize.reconstruct.simulate import SimulatedNetwork
from tests.graphs import Array
from tests.operator_graphs import OPERATOR_CASES, SHAPE, Case

_DIFFERENCE = 3e-3
EACH_CASE = pytest.mark.parametrize("case", OPERATOR_CASES.values(), ids=OPERATOR_CASES.keys())


def _picture() -> Array:
    rng = np.random.default_rng(0)
    magnitude = rng.permutation(np.linspace(0.06, 2, int(np.prod(SHAPE)))) * rng.choice([-1, 1], int(np.prod(SHAPE)))
    picture: Array = magnitude.reshape(SHAPE).astype(np.float32)
    return picture


def _session(case: Case) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(case.model().SerializeToString(), options, providers=["CPUExecutionProvider"])


@EACH_CASE
def test_an_operator_computes_what_onnxruntime_does(case: Case) -> None:
    picture, session = _picture(), _session(case)
    network = SimulatedNetwork(ir.from_proto(case.model()).graph, {}, {})
    tensor = torch.from_numpy(picture).requires_grad_()

    made = network(tensor)

    (expected,) = session.run(None, {"input": picture})
    assert made.shape == expected.shape
    np.testing.assert_allclose(made.detach().numpy(), expected, rtol=1e-4, atol=2e-5 * max(np.abs(expected).max(), 1))
    if case.smooth:
        rng = np.random.default_rng(1)
        direction, weights = rng.normal(size=SHAPE).astype(np.float32), rng.normal(size=expected.shape).astype(np.float32)
        (made * torch.from_numpy(weights)).sum().backward()
        assert tensor.grad is not None
        slope = float((tensor.grad.numpy() * direction).sum())
        ends = [session.run(None, {"input": picture + sign * _DIFFERENCE * direction})[0] for sign in (-1, 1)]
        found = float(((ends[1] - ends[0]) * weights).sum(dtype=np.float64)) / (2 * _DIFFERENCE)
        size = float(np.abs(tensor.grad.numpy() * direction).sum())
        assert abs(slope - found) < 0.03 * size + 1e-3


def test_every_operator_has_a_case() -> None:
    shown = {case.operator for case in OPERATOR_CASES.values()} | {name for case in OPERATOR_CASES.values() for name in case.before}
    untried = {
        "And",
        "Constant",
        "CastLike",
        "Not",
        "Or",
        "Range",
        "ReduceLogSum",
        "RMSNormalization",
        "Swish",
        "Xor",
    }  # of rare or newer opsets
    assert OPERATORS.keys() - shown <= untried
