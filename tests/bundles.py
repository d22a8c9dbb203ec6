"""Bundles with other graphs in them, as if they had been exported or quantized so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from runtime.bundle import Bundle, sha256_bytes, write_bundle
from runtime.targets import Precision


def rewrite(bundle: Path, precision: Precision, edit: Callable[[onnx.ModelProto], object]) -> None:
    """The bundle's graph for TensorRT, edited."""
    opened = Bundle.open(bundle)
    variant = opened.variant(precision, target="tensorrt")
    model = onnx.load_model_from_string(opened.read(variant))
    edit(model)
    data = model.SerializeToString(deterministic=True)
    changed = variant.model_copy(update={"sha256": sha256_bytes(data)})
    write_bundle(bundle, opened.manifest.with_variant(changed), files={variant.file: data})


def reweigh(bundle: Path, precision: Precision, factor: float) -> None:
    """Other weights and scales: the last layer's, by `factor`."""

    def scale(model: onnx.ModelProto) -> None:
        last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
        quantizer = next((node for node in model.graph.node if last.input[1] in node.output), None)
        name = last.input[1] if quantizer is None else quantizer.input[1]
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array((array * factor).astype(array.dtype), name))

    rewrite(bundle, precision, scale)
