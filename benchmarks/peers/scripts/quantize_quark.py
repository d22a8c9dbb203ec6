"""AMD Quark's ONNX quantizer: int8 weights per output channel, uint8 activations, cross-layer equalization as it comes.

SETTING is `bias correction`, `adaround` or `adaquant`. Ranges and what is fine-tuned how long are its published
INT8_CNN_ACCURATE_CONFIG and U8S8_AAWS_ADAQUANT_CONFIG; weights per channel, which those have per tensor, lose less.
https://quark.docs.amd.com/latest/onnx/basic_usage_onnx.html
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from onnxruntime.quantization import CalibrationDataReader
from quark.onnx import ModelQuantizer
from quark.onnx.quantization.config.config import Config
from quark.onnx.quantization.config.custom_config import (
    DEFAULT_ADAQUANT_PARAMS,
    DEFAULT_ADAROUND_PARAMS,
    INT8_CNN_ACCURATE_CONFIG,
)

_RANGES = {"Percentile": 99.9999, "ForceQuantizeNoInputCheck": True}
_SETTINGS = {
    "bias correction": replace(
        INT8_CNN_ACCURATE_CONFIG, per_channel=True, include_fast_ft=False, extra_options={**_RANGES, "BiasCorrection": True}
    ),
    "adaround": replace(
        INT8_CNN_ACCURATE_CONFIG, per_channel=True, extra_options={**_RANGES, "FastFinetune": DEFAULT_ADAROUND_PARAMS}
    ),
    "adaquant": replace(
        INT8_CNN_ACCURATE_CONFIG, per_channel=True, extra_options={**_RANGES, "FastFinetune": DEFAULT_ADAQUANT_PARAMS}
    ),
}


class Crops(CalibrationDataReader):  # type: ignore[misc] # onnxruntime has no type information
    """One crop at a time, as often as it is asked to begin again."""

    def __init__(self, crops: np.ndarray, input_name: str) -> None:
        self._all, self._input_name = crops, input_name
        self.reset_iter()

    def __len__(self) -> int:
        return len(self._all)

    def reset_iter(self) -> None:
        self._crops = iter(self._all)

    def get_next(self) -> dict[str, np.ndarray] | None:
        crop = next(self._crops, None)
        return None if crop is None else {self._input_name: crop[None]}


def main(graph: str, calibration: str, out: str, setting: str) -> None:
    torch.set_num_threads(1)
    name = ort.InferenceSession(graph, providers=["CPUExecutionProvider"]).get_inputs()[0].name
    crops = Crops(np.load(calibration)["crops"], name)
    quantizer = ModelQuantizer(Config(global_quant_config=_SETTINGS[setting]))
    quantizer.quantize_model(graph, str(Path(out) / "int8.onnx"), crops)


if __name__ == "__main__":
    main(*sys.argv[1:])
