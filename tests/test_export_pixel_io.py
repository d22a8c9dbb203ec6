"""Graphs that take and give raw pixels: to the bit what the runtime makes of the graph of floats."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
import pytest
from numpy.typing import NDArray

from export.pixel_io import with_pixel_io
from runtime.bundle import Bundle
from runtime.pixels import Picture
from runtime.targets import Precision
from runtime.upscaler import Upscaler


def _wrapped(bundle: Bundle, precision: Precision) -> bytes:
    wrapped: bytes = with_pixel_io(onnx.load_from_string(bundle.read(bundle.variant(precision)))).SerializeToString()
    return wrapped


def _by_onnxruntime(graph: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: pixels})
    result: NDArray[np.uint8] = output
    return result


def _by_openvino(graph: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    core = ov.Core()
    config = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
    result: NDArray[np.uint8] = core.compile_model(core.read_model(graph), "CPU", config)([pixels])[0]
    return result


@pytest.mark.parametrize("run", [_by_onnxruntime, _by_openvino])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_raw_pixels_through_the_graph_are_what_the_upscaler_gives(
    quantized: Bundle, picture: Picture, precision: Precision, run: object
) -> None:
    assert callable(run)
    backend = "onnxruntime" if run is _by_onnxruntime else "openvino"
    got = run(_wrapped(quantized, precision), np.stack([picture, picture[::-1]]))
    with Upscaler.open(quantized, precision=precision, backend=backend) as upscaler:
        expected = np.stack([upscaler(picture), upscaler(np.ascontiguousarray(picture[::-1]))])
    assert got.dtype == np.uint8
    assert got.shape == (2, 80, 112, 3)
    apart = np.abs(got.astype(int) - expected)
    if backend == "onnxruntime":
        assert not apart.any(), f"{np.count_nonzero(apart)} of {apart.size} samples differ, by at most {apart.max()}"
    else:  # it multiplies by 1/255 instead of dividing: an ulp, which moves what lies between two codes
        assert apart.max() <= 1
        assert np.count_nonzero(apart) < apart.size / 1000


def test_the_graph_declares_bytes_with_the_channels_last(quantized: Bundle) -> None:
    session = ort.InferenceSession(_wrapped(quantized, "int8"), providers=["CPUExecutionProvider"])
    for value in (*session.get_inputs(), *session.get_outputs()):
        assert value.type == "tensor(uint8)"
        assert value.shape[3] == 3
