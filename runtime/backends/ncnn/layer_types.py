"""Say which type each layer of ncnn computed in: a model and the values of one small run in, one line per ONNX node out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ...targets import Precision
from ..backend import LayerPrecision, RanIn
from .library import ncnn
from .model import NcnnModel

Floats = NDArray[np.float32]


def layer_types(
    model: NcnnModel, values: Mapping[str, Floats], net: ncnn.Net, *, precision: Precision, on_gpu: bool
) -> tuple[LayerPrecision, ...]:
    """Return what each layer multiplied and wrote.

    Args:
        values: every blob of the run, by name.
        net: the loaded network: which half precision its layers have, and whether ncnn left it turned on for this machine.
    """
    told = {layer.name: layer for layer in net.layers()}
    found = []
    for index, layer in enumerate(model.layers):
        if not layer.nodes:
            continue
        own = told[str(index)]
        able = own.support_vulkan if on_gpu else own.support_fp16_storage if precision == "fp16" else own.support_bf16_storage
        half: RanIn = "bf16" if precision == "bf16" else "fp16"
        written = all(_fits(values[name], half) for name in layer.outputs)
        asked = precision in ("fp16", "bf16") and able and (precision == "bf16" or not on_gpu or net.opt.use_fp16_arithmetic)
        # ncnn turns what such a layer reads, and its weights, into the type before it (Net::convert_layout).
        ran: RanIn = half if asked and written else "fp32"
        found += [LayerPrecision(name, operator, ran, ran) for name, operator in layer.nodes]
    return tuple(found)


def _fits(array: Floats, kind: RanIn) -> bool:
    """Whether every value is a number of that 16-bit type."""
    if kind == "fp16":
        return bool(np.array_equal(array.astype(np.float16).astype(np.float32), array))
    return not bool((np.ascontiguousarray(array).view(np.uint32) & 0xFFFF).any())
