"""What `python -m quantize` prints: a quantized bundle in, lines on stdout out."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from quantize.graph.int8_only import ask_backend, check_int8_only
from quantize.half.stage import HalfGraphs, half_precisions_of
from runtime.backends import BACKENDS
from runtime.bundle import Bundle, Variant
from runtime.describe import describe_int8_layers
from runtime.targets import Target
from runtime.terminal import console
from runtime.terminal.figures import share_text
from runtime.verify.faithful import BackendCheck

_NAMED = 3  # operators in a line


def show_missing(half_graphs: HalfGraphs) -> None:
    """Say which half-precision graphs the bundle will lack, and on which backend one is not right."""
    for half, reason in half_graphs.missing.items():
        console.show(f"(!) no {half} graph, int8 alone: {reason}")
    for half in half_graphs.made:
        for check in half_graphs.checks[half]:
            if not check.passed:
                console.show(f"(!) {half} refused on {check.backend}: {check.found}")


def show_checks(checks: Sequence[BackendCheck]) -> None:
    """Say on which backends the int8 graph runs, and on which one it does not compute what it should."""
    for check in checks:
        console.show(f"  {'runs on' if check.passed else '(!) refused on'} {check.backend}: {check.found}")


def show_result(bundle: Bundle, target: Target, *, fp32_opset: int) -> None:
    int8 = bundle.variant("int8", target=target.name)
    pixels = [variant.file for variant in bundle.manifest.variants if variant.io == "uint8" and variant.precision != "fp32"]
    opset = str(int8.opset)
    if int8.opset != fp32_opset:
        opset += f" (raised from {fp32_opset}: the target takes {target.opset_range[0]} and above)"
    rows: dict[str, str] = {
        "int8": str(bundle.path(int8)),
        "MACs": f"{share_text(bundle.manifest.int8_mac_share(int8))} in int8, {describe_int8_layers(bundle.manifest, int8)}",
        "opset": opset,
        **({"pixels": ", ".join(pixels)} if pixels else {}),
    }
    found = {half: bundle.manifest.find_variant(half, target=target.name) for half in half_precisions_of(target)}
    rows |= {half: f"{bundle.path(variant)}{_kept_text(variant)}" for half, variant in found.items() if variant is not None}
    if int8.psnr_vs_fp32_db is not None:
        rows["output"] = f"{int8.psnr_vs_fp32_db:.1f} dB PSNR against fp32's, on calibration crops"
    console.show(f"{bundle.directory}: quantized for target {target.name}")
    for name, value in rows.items():
        console.show(f"  {name:<6} {value}")
    own = [variant for variant in bundle.manifest.variants if variant.target == target.name and target.int8_only_ops]
    for variant in own:
        console.show(f"  {_kept_in_int8(bundle, variant, target)}")


def _kept_text(variant: Variant) -> str:
    """Return which operators of a half-precision graph compute in fp32.

    The first few; the manifest has them all, with the reasons.
    """
    kept = variant.kept_in_fp32
    more = f" and {len(kept) - _NAMED} more" if len(kept) > _NAMED else ""
    return f", in fp32: {'; '.join(kept[:_NAMED])}{more}" if kept else ""


def _kept_in_int8(bundle: Bundle, variant: Variant, target: Target) -> str:
    """Say how many operators for int8 alone the graph has, and how many of them a backend here runs so."""
    model = bundle.read(variant)
    count = check_int8_only(onnx.load_model_from_string(model), target, precision=variant.precision)
    own = [entry for entry in BACKENDS if entry.name in target.backends and variant.precision in entry.precisions]
    backends = [entry.name for entry in own if entry.opens_graphs]
    accounts = [str(ask_backend(name, model, target, precision=variant.precision)) for name in backends]
    named = f"{variant.precision} graph: {', '.join(target.int8_only_ops)}"
    if not count:
        return f"{named}: none"
    return f"{named}: from int8 to int8 at one scale {count} of {count} as written; as optimised {', '.join(accounts)}"
