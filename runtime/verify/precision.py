"""Verify the precision of a run: a backend's account of its layers in, shares weighed by multiply-accumulates out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..backends import LayerPrecision, RanIn
from ..bundle import Manifest, Variant
from ..targets import Precision, find_target
from ..terminal.figures import share_text


@dataclass(frozen=True)
class PrecisionReport:
    """What was asked of a graph's layers and what they ran in.

    Attributes:
        asked: the precision of the variant.
        mac_share: share of the variant's multiply-accumulates by the precision they ran in; "unknown" where no such layer is named.
        not_as_asked: layers that ran in another precision than the variant has them in, as "name: precision".
        ran: what each layer ran in, by its name in the manifest; "unknown" of one that the backend does not name.
        layers: what the backend said of every operator, the ones without multiply-accumulates too.
    """

    asked: Precision
    mac_share: Mapping[str, float]
    not_as_asked: tuple[str, ...]
    ran: Mapping[str, str]
    layers: tuple[LayerPrecision, ...]

    @property
    def verified(self) -> bool:
        return not self.not_as_asked

    def __str__(self) -> str:
        ran = ", ".join(f"{name} {share_text(share, digits=0)}" for name, share in self.mac_share.items())
        return ran if self.verified else f"{ran} of MACs, not the {self.asked} asked for"


def verify_precision(manifest: Manifest, variant: Variant, ran: Iterable[LayerPrecision]) -> PrecisionReport:
    """Compare what `ran` with what `variant` asks for, layer by layer of the manifest."""
    ran = tuple(ran)
    by_name: dict[str, RanIn] = {layer.name: layer.precision for layer in ran}
    quantized = set(variant.int8_layers)
    halves = variant.target is not None and find_target(variant.target).float_dtype == "float16"
    outside: Precision = variant.precision if variant.precision != "int8" else "fp16" if halves else "fp32"
    macs: dict[str, int] = {}
    ran_in: dict[str, str] = {}
    wrong = []
    for layer in manifest.layers:
        if layer.name in variant.merged_layers:
            continue
        asked = "int8" if layer.name in quantized else outside
        got = next((by_name[name] for name in (layer.name, *layer.aliases) if name in by_name), "unknown")
        ran_in[layer.name] = got
        macs[got] = macs.get(got, 0) + layer.macs
        if got != asked:
            wrong.append(f"{layer.name}: {got}")
    share = {name: count / max(sum(macs.values()), 1) for name, count in sorted(macs.items(), key=lambda item: -item[1])}
    return PrecisionReport(variant.precision, share, tuple(wrong), ran_in, ran)
