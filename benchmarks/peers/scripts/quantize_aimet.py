"""Qualcomm's AIMET: int8 weights per output channel, 8-bit activations with a zero point; the result is its QDQ graph.

SETTING is `cle` (cross-layer equalization before the ranges), `adaround` (10,000 iterations per layer, its recommendation for 8-bit
weights) or `sequential mse` (20 candidates). https://quic.github.io/aimet-pages/releases/latest/
"""

from __future__ import annotations

import sys
from pathlib import Path

import aimet_onnx
import numpy as np
import onnx
import torch
from aimet_onnx.common.quantsim_config.config_utils import get_path_for_target_config
from aimet_onnx.cross_layer_equalization import equalize_model


def main(graph: str, calibration: str, out: str, setting: str) -> None:
    torch.set_num_threads(1)
    model = onnx.load(graph)
    name = model.graph.input[0].name
    inputs = [{name: crop[None]} for crop in np.load(calibration)["crops"]]
    if setting == "cle":
        equalize_model(model)
    simulated = aimet_onnx.QuantizationSimModel(
        model, dummy_input=inputs[0], config_file=get_path_for_target_config("default_config_per_channel")
    )
    if setting == "adaround":
        aimet_onnx.apply_adaround(simulated, inputs)
    elif setting == "sequential mse":
        aimet_onnx.apply_seq_mse(simulated, inputs)
    simulated.compute_encodings(inputs)
    onnx.save(simulated.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True), Path(out) / "int8.onnx")


if __name__ == "__main__":
    main(*sys.argv[1:])
