"""Describe a bundle in words: an opened bundle in, the lines of `info` out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from .backends.compiled_engines import CompiledRecord, read_compiled
from .backends.engines import EngineRecord, read_engine
from .bundle import ENGINES, Bundle, Contract, Manifest, Variant
from .errors import BackendError, BundleError
from .targets import find_target
from .terminal.figures import share_text
from .verify.overflow import OVERFLOW, overflows
from .verify.pairs import find_pairs

Record = TypeVar("Record", EngineRecord, CompiledRecord)


def describe(bundle: Bundle) -> Iterator[str]:
    """Lines for a person: the contract, what it costs, and every graph with its hash."""
    manifest = bundle.manifest
    contract, checkpoint = manifest.contract, manifest.checkpoint
    values = f"{contract.dtype} {contract.colour}, 0 to 1"
    yield f"{bundle.directory}: {manifest.model} x{manifest.scale:g}, {checkpoint.source} weights, sha256 {checkpoint.sha256}"
    yield f"  input   {_shape(contract, factor=1)} {contract.layout}, {values}"
    factor = 1 if contract.pre_upscale else manifest.scale
    yield f"  output  {_shape(contract, factor=factor)} {contract.layout}, {values}, not clipped"
    if contract.pre_upscale:
        yield f"          of a picture enlarged bicubically by {manifest.scale:g} before"
    if contract.colour == "Y":
        yield "          luma alone (full-range BT.601); chroma is enlarged bicubically beside it"
    if any(variant.io == "uint8" for variant in manifest.variants):
        raw_in, raw_out = _raw_shape(contract, factor=1), _raw_shape(contract, factor=factor)
        yield f"  raw     {raw_in} in, {raw_out} out, NHWC, uint8 {contract.colour}, 0 to 255"
    yield f"  sizes   {_sizes(manifest)}"
    yield f"  halo    {_halo(manifest)}"
    yield f"  cost    {manifest.macs / 1e9:.1f} GMAC for one 128×128 picture"
    for variant in manifest.variants:
        yield f"  {variant.precision:<7} {_describe_variant(manifest, variant)}"
    for part in dict.fromkeys(variant.calibration for variant in manifest.variants if variant.calibration is not None):
        made = ", ".join(variant.file for variant in manifest.variants if variant.calibration == part)
        yield f"  ranges  {part.file}, of {made}, sha256 {part.sha256}"
    yield f"  runs    {_describe_choice(bundle)}"
    if bundle.packed is None:
        yield from (f"  engine  {line}" for line in _describe_engines(bundle, bundle.directory / ENGINES))


def _describe_choice(bundle: Bundle) -> str:
    """Return what `--backend auto` would open first."""
    try:
        pair = find_pairs(bundle)[0]
        target = None if pair.variant.target is None else find_target(pair.variant.target)
        note = f"; {OVERFLOW}" if overflows(pair.backend, target, pair.variant.precision) else ""
        return f"{pair}, where no other is asked for{note}"
    except (BackendError, BundleError) as error:
        return f"nothing here: {error}"


def _describe_engines(bundle: Bundle, engines: Path) -> Iterator[str]:
    for path in sorted(engines.glob("*.json")):
        yield _describe_engine(bundle, path, read_engine, _built_here)
    for path in sorted(engines.glob("*/*.json")):
        yield _describe_engine(bundle, path, read_compiled, _compiled_ahead)


def _describe_engine(bundle: Bundle, path: Path, read: Callable[[Path], Record | None], made: Callable[[Record], str]) -> str:
    try:
        record = read(path)
    except BackendError as error:
        return str(error)
    if record is None:
        return f"{path.name} has just gone"
    key = record.key
    current = any(variant.sha256 == key.graph_sha256 for variant in bundle.manifest.variants)
    stale = "" if current else ", of a graph that this bundle no longer has"
    pixels = ", raw pixels," if key.io == "uint8" else ""
    return f"{key.precision}{pixels} {made(record)}{stale}"


def _built_here(record: EngineRecord) -> str:
    return f"for {record.key.gpu}, TensorRT {record.key.tensorrt}, {record.key.profile}"


def _compiled_ahead(record: CompiledRecord) -> str:
    key = record.key
    devices = f" for {', '.join(key.architectures)}" if key.architectures else ""
    sizes = f", {key.profile}" if key.profile is not None else ""
    return f"by {key.compiler} {key.version}{devices}{sizes}"


def _shape(contract: Contract, *, factor: float) -> str:
    if contract.static_shape is None:
        side = "" if factor == 1 else f"·{factor:g}"
        return f"N×{contract.channels}×H{side}×W{side}"
    height, width = (round(side * factor) for side in contract.static_shape)
    return f"1×{contract.channels}×{height}×{width}"


def _raw_shape(contract: Contract, *, factor: float) -> str:
    batch, channels, height, width = _shape(contract, factor=factor).split("×")
    return "×".join((batch, height, width, channels))


def _sizes(manifest: Manifest) -> str:
    contract = manifest.contract
    if contract.static_shape is not None:
        return "this one; pictures are cut into tiles of it, smaller ones filled up"
    filled = (
        "" if contract.sizes == "any size" else "; pictures are filled up at the bottom and on the right, the output is cropped"
    )
    return f"{contract.sizes}{', one picture at a time' if contract.one_at_a_time else ''}{filled}"


def _halo(manifest: Manifest) -> str:
    if manifest.halo == "global":
        return f"global: it looks at the whole picture ({manifest.global_operator})"
    aligned = "" if manifest.alignment == 1 else f"; tiles start at multiples of {manifest.alignment}"
    return f"{manifest.halo} pixels of its input on each side{aligned}"


def _describe_variant(manifest: Manifest, variant: Variant) -> str:
    target = f" for {variant.target}" if variant.target else ""
    pixels = ", raw pixels" if variant.io == "uint8" else ""
    share = ""
    if variant.precision == "int8":
        share = f", {share_text(manifest.int8_mac_share(variant))} of MACs int8, {describe_int8_layers(manifest, variant)}"
    psnr = "" if variant.psnr_vs_fp32_db is None else f", {variant.psnr_vs_fp32_db:.1f} dB from fp32"
    return f"{variant.file}{target}{pixels}, opset {variant.opset}{share}{psnr}, sha256 {variant.sha256}"


def describe_int8_layers(manifest: Manifest, variant: Variant) -> str:
    """Return every layer of the manifest accounted for: in int8, merged into another, in float."""
    names = {layer.name for layer in manifest.layers}
    in_int8, merged = names & {*variant.int8_layers}, [name for name in variant.merged_layers if name in names]
    in_float = len(names) - len(in_int8) - len(merged)
    said = [f"{len(in_int8)} of {len(names)} layers"]
    if merged:
        said.append(f"{len(merged)} merged into the layer behind it ({', '.join(merged)})")
    if in_float:
        said.append(f"{in_float} in float")
    return ", ".join(said)
