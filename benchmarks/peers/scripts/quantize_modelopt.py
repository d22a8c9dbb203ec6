"""NVIDIA's Model Optimizer: QDQ with zero point 0 for activations too, as TensorRT wants it; what is left in float stays float32.

SETTING is its calibration method, `max` or `entropy`. https://nvidia.github.io/Model-Optimizer/guides/_onnx_quantization.html
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from modelopt.onnx.quantization import quantize


def main(graph: str, calibration: str, out: str, setting: str) -> None:
    quantize(
        graph,
        quantize_mode="int8",
        calibration_data=np.load(calibration)["crops"],
        calibration_method=setting,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(Path(out) / "int8.onnx"),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
