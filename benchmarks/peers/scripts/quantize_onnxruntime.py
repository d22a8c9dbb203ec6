"""ONNX Runtime's quantize_static: QDQ, int8 weights per output channel, uint8 activations.

SETTING is `percentile` (99.999, as its documentation suggests for convolutional networks) or `min-max`.
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

_METHODS = {"percentile": CalibrationMethod.Percentile, "min-max": CalibrationMethod.MinMax}


class Crops(CalibrationDataReader):  # type: ignore[misc] # onnxruntime has no type information
    """One crop at a time."""

    def __init__(self, crops: np.ndarray, input_name: str) -> None:
        self._crops, self._input_name = iter(crops), input_name

    def get_next(self) -> dict[str, np.ndarray] | None:
        crop = next(self._crops, None)
        return None if crop is None else {self._input_name: crop[None]}


def main(graph: str, calibration: str, out: str, setting: str) -> None:
    prepared = Path(out) / "prepared.onnx"
    quant_pre_process(graph, str(prepared), skip_symbolic_shape=True)
    name = ort.InferenceSession(graph, providers=["CPUExecutionProvider"]).get_inputs()[0].name
    quantize_static(
        str(prepared),
        str(Path(out) / "int8.onnx"),
        Crops(np.load(calibration)["crops"], name),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=_METHODS[setting],
        extra_options={"CalibPercentile": 99.999},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
