"""NNCF's post-training quantization of the graph as openvino reads it; the result is an openvino IR.

SETTING is
- `default`: nncf.quantize as it comes;
- `min-max`: the mixed preset, min-max ranges, and bias correction layer by layer in place of the fast one, which is what its guide
  says to try where the default loses too much;
- `accuracy control`: the same by nncf.quantize_with_accuracy_control, which returns layers to float until the mean PSNR on the
  calibration pictures has dropped by 0.01 dB or less.

https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/quantizing-models-post-training.html
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
from nncf.quantization.range_estimator import RangeEstimatorParametersSet

_MAX_DROP_DB = 0.01
_MIN_MAX = AdvancedQuantizationParameters(
    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
    weights_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
)


def main(graph: str, calibration: str, out: str, setting: str) -> None:
    arrays = np.load(calibration)
    crops = [crop[None] for crop in arrays["crops"]]
    model = ov.convert_model(graph)  # as read_model leaves it, NNCF finds no biases to correct and says nothing
    name = model.inputs[0].get_any_name()
    dataset = nncf.Dataset(crops, lambda crop: {name: crop})
    quantized = _SETTINGS[setting](model, dataset, arrays)
    ov.save_model(quantized, Path(out) / "int8.xml", compress_to_fp16=False)


def _default(model: ov.Model, dataset: nncf.Dataset, arrays: Any) -> ov.Model:  # noqa: ANN401
    return nncf.quantize(model, dataset, subset_size=len(arrays["crops"]))


def _min_max(model: ov.Model, dataset: nncf.Dataset, arrays: Any) -> ov.Model:  # noqa: ANN401
    return nncf.quantize(
        model,
        dataset,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(arrays["crops"]),
        fast_bias_correction=False,
        advanced_parameters=_MIN_MAX,
    )


def _accuracy_control(model: ov.Model, dataset: nncf.Dataset, arrays: Any) -> ov.Model:  # noqa: ANN401
    if "truth" not in arrays:
        sys.exit("accuracy control needs calibration pictures in high resolution: these are of low resolution alone")
    pairs = list(zip(arrays["crops"], arrays["truth"], strict=True))

    def mean_psnr(compiled: ov.CompiledModel, items: Iterable[Any]) -> tuple[float, list[float]]:
        scores = []
        for crop, truth in items:
            made = compiled(crop[None])[0][0].clip(0, 1)
            scores.append(-10 * float(np.log10(np.mean(np.square(made - truth)))))
        return float(np.mean(scores)), scores

    return nncf.quantize_with_accuracy_control(
        model,
        calibration_dataset=dataset,
        validation_dataset=nncf.Dataset(pairs),
        validation_fn=mean_psnr,
        max_drop=_MAX_DROP_DB,
        drop_type=nncf.DropType.ABSOLUTE,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(pairs),
        fast_bias_correction=False,
        advanced_quantization_parameters=_MIN_MAX,
    )


_SETTINGS: dict[str, Callable[..., ov.Model]] = {
    "default": _default,
    "min-max": _min_max,
    "accuracy control": _accuracy_control,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
