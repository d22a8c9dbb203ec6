"""Quantize with ONNX Runtime's own calibrator and quantizer, as its documentation recommends: the rival of our int8."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.quant_utils import add_pre_process_metadata, load_model_with_shape_infer

_PERCENTILE = 99.999
Crops = Sequence[NDArray[np.float32]]


class CropReader(CalibrationDataReader):  # type: ignore[misc] # onnxruntime has no type information
    """Crops, (1, C, H, W) each, one after the other."""

    def __init__(self, crops: Crops, *, input_name: str = "input") -> None:
        self._crops, self._input_name = iter(crops), input_name

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        crop = next(self._crops, None)
        return None if crop is None else {self._input_name: crop}


def calibrate(graph: Path, crops: Crops) -> None:
    """Its percentile calibration of `graph`, thrown away."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):  # it prints as it goes
        calibrator = create_calibrator(
            str(graph),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"percentile": _PERCENTILE},
        )
        calibrator.collect_data(CropReader(crops))
        calibrator.compute_data()


def quantize(
    graph: Path, crops: Crops, *, method: CalibrationMethod = CalibrationMethod.Percentile, symmetric: bool = False
) -> bytes:
    """Return `graph` as QDQ: activations of uint8, or int8 with zero point 0 where `symmetric`; int8 weights per output channel."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):  # it prints as it goes
        path = Path(folder) / "int8.onnx"
        model = load_model_with_shape_infer(Path(shutil.copy(graph, folder)))
        add_pre_process_metadata(model)  # export has inferred shapes and folded operators: else it asks for that, on stderr
        quantize_static(
            model,
            str(path),
            CropReader(crops),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
            extra_options={"CalibPercentile": _PERCENTILE, "ActivationSymmetric": symmetric},
        )
        return path.read_bytes()
