"""The quantize stage: a bundle and a calibration table in, the bundle with its int8, fp16 and bf16 graphs out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

import calibration
from calibration.calibrate import OnStep, ignore_step
from calibration.ranges import CalibrationTable, Method, write_table
from quantize.half import Half, convert_to_half
from quantize.int8 import Int8Options, quantize_int8
from quantize.qdq import RoundedWeight
from quantize.shipped_rounding import find_shipped_rounding
from runtime.backends import open_backend
from runtime.bundle import CALIBRATION, Bundle, Option, Part, Variant, sha256_bytes, tool_versions, write_bundle
from runtime.targets import Target

HALVES: tuple[Half, ...] = ("fp16", "bf16")
_TOOLS = ("onnx", "onnx-ir", "onnxruntime")


def int8_file(target: Target) -> str:
    return f"model.int8-{target.name}.onnx"


def half_file(precision: Half) -> str:
    return f"model.{precision}.onnx"


def load_fp32(bundle: Bundle) -> onnx.ModelProto:
    return onnx.load_model_from_string(bundle.read(bundle.variant("fp32")))


def quantize_bundle(
    bundle: Bundle,
    table: CalibrationTable,
    options: Int8Options,
    *,
    crops: Sequence[NDArray[np.float32]] = (),
    on_step: OnStep = ignore_step,
    rounded: Mapping[str, RoundedWeight] | None = None,
) -> Bundle:
    """Adds the int8 graph for the target, the fp16 and bf16 graphs and the calibration table to `bundle`.

    `crops`, (1, C, H, W) float32 in [0, 1], are what layers are rounded on, and int8 is compared with fp32 on; without any, that
    figure is left out, and weights are those that ship for this table, or rounded to the nearest. `rounded` weights were rounded
    on these crops already.

    Raises:
        UserError: the table is not this graph's.
        PipelineError: an invalid graph.
    """
    fp32 = bundle.variant("fp32")
    model = load_fp32(bundle)
    target = options.target
    recorded = recorded_options(table, options)
    if rounded is None and not crops:
        rounded = find_shipped_rounding(made_of(recorded_options(table, replace(options, lifted=frozenset()))))
    graph = quantize_int8(
        model,
        table,
        options,
        value_range=bundle.manifest.contract.value_range,
        crops=crops,
        on_step=on_step,
        rounded=rounded,
    )
    int8 = graph.model
    halves = {half: convert_to_half(model, half) for half in HALVES}
    files = {
        int8_file(target): int8.SerializeToString(deterministic=True),
        **{half_file(half): graph.SerializeToString(deterministic=True) for half, graph in halves.items()},
        CALIBRATION: write_table(table),
    }
    variants = (
        *(
            Variant(
                file=half_file(half),
                sha256=sha256_bytes(files[half_file(half)]),
                precision=half,
                parent_sha256=fp32.sha256,
                opset=_opset(graph),
                tools=current_tools(),
            )
            for half, graph in halves.items()
        ),
        Variant(
            file=int8_file(target),
            sha256=sha256_bytes(files[int8_file(target)]),
            precision="int8",
            target=target.name,
            parent_sha256=fp32.sha256,
            opset=_opset(int8),
            options=recorded,
            tools=current_tools(),
            psnr_vs_fp32_db=_psnr_on(crops, fp32=bundle.read(fp32), int8=files[int8_file(target)]),
            int8_layers=graph.int8_layers,
            merged_layers=graph.merged_layers,
        ),
    )
    manifest = bundle.manifest.model_copy(update={"calibration": Part(file=CALIBRATION, sha256=sha256_bytes(files[CALIBRATION]))})
    for variant in variants:
        manifest = manifest.with_variant(variant)
    return write_bundle(bundle.directory, manifest, files=files)


def quantized_already(bundle: Bundle, table: CalibrationTable, options: Int8Options, *, compared: bool) -> bool:
    """Whether `bundle` holds what this quantization would make, with the tools at hand; `compared`: with crops to compare on."""
    manifest = bundle.manifest
    int8 = manifest.find_variant("int8", target=options.target.name)
    return (
        int8 is not None
        and all(manifest.find_variant(half) is not None for half in HALVES)
        and int8.parent_sha256 == bundle.variant("fp32").sha256
        and int8.options == recorded_options(table, options)
        and int8.tools == current_tools()
        and (int8.psnr_vs_fp32_db is not None) == compared
    )


def made_of(recorded: Mapping[str, Option]) -> str:
    """What rounded weights depend on, in a line; `recorded`, the options in the manifest."""
    return ", ".join(f"{key}={value}" for key, value in sorted(recorded.items()))


def recorded_options(table: CalibrationTable, options: Int8Options) -> dict[str, Option]:
    """What the manifest says of how an int8 graph was made."""
    return {
        "method": options.method.value,
        "percentile": options.percentile if options.method is Method.PERCENTILE else None,
        "without": ", ".join(sorted(options.without)),
        "calibration_sha256": sha256_bytes(write_table(table)),
        **({"lifted": ", ".join(sorted(options.lifted))} if options.lifted else {}),
    }


def _psnr_on(crops: Sequence[NDArray[np.float32]], *, fp32: bytes, int8: bytes) -> float | None:
    """10 log10(1 / MSE) of the two graphs' outputs, clipped to [0, 1], the MSE taken over all crops; two decimals."""
    if not crops:
        return None
    squares, count = 0.0, 0
    with (
        open_backend("onnxruntime", fp32, precision="fp32") as reference,
        open_backend("onnxruntime", int8, precision="int8") as quantized,
    ):
        for crop in crops:
            error = reference.run(crop).clip(0, 1) - quantized.run(crop).clip(0, 1)
            squares += float(np.square(error, dtype=np.float64).sum())
            count += error.size
    return round(-10 * math.log10(max(squares / count, 1e-12)), 2)


def _opset(model: onnx.ModelProto) -> int:
    return int(next(entry.version for entry in model.opset_import if entry.domain == ""))


def current_tools() -> dict[str, str]:
    """What a quantization made now would record."""
    return tool_versions(_TOOLS, sources=[Path(__file__).parent, Path(str(calibration.__file__)).parent])
