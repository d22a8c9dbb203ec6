"""The export stage: a checkpoint in, a bundle with its fp32 graph out."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import partial
from pathlib import Path

import onnx_ir as ir

from export.arithmetic import SIDE, count_macs
from export.foreign import Foreign
from export.models import NETWORKS, Network
from export.onnx_export import NATIVE_OPSET, check_opset, convert_opset, export_graph
from export.parity import Reference, make_reference, run_torch
from export.passes import EXTRA_PASSES, PASSES, Pass, run_passes
from export.passes.depth_to_space import with_shuffles
from export.reach import measured_field, receptive_field
from export.weights import Weights, load_module
from runtime.bundle import (
    Bundle,
    Checkpoint,
    Contract,
    Manifest,
    Option,
    Variant,
    check_graph_bytes,
    check_writable,
    sha256_bytes,
    sha256_file,
    tool_versions,
    update_bundle,
)
from runtime.errors import BundleError
from runtime.sizes import as_fraction

FP32_FILE = "model.fp32.onnx"
_TOOLS = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxsim")


def export_network(
    network: Network,
    *,
    scale: float,
    weights: Weights,
    directory: Path,
    opset: int = NATIVE_OPSET,
    static_shape: tuple[int, int] | None = None,
    passes: tuple[Pass, ...] = PASSES,
) -> Bundle:
    """Export `network` with `weights` into the bundle `directory`.

    What was made from that bundle's fp32 graph stays where the graph comes out the same, and goes where it does not.

    Raises:
        UserError: an opset out of range, a checkpoint that does not fit, a folder that cannot be written.
        PipelineError: an invalid graph, or torch and ONNX differ.
    """
    check_opset(opset)
    check_writable(directory)
    module = load_module(network, scale=scale, weights=weights)
    contract = network.contract.model_copy(update={"static_shape": static_shape})
    return _write(
        export_graph(module, channels=contract.channels, static_shape=static_shape),
        name=network.name,
        scale=scale,
        checkpoint=weights.checkpoint,
        contract=contract,
        references=(make_reference(partial(run_torch, module), contract),),
        directory=directory,
        opset=opset,
        passes=passes,
    )


def export_foreign(
    foreign: Foreign,
    path: Path,
    *,
    directory: Path,
    opset: int = NATIVE_OPSET,
    passes: tuple[Pass, ...] = PASSES,
) -> Bundle:
    """Export somebody's ONNX file, read from `path`, into the bundle `directory`.

    Raises:
        UserError: an opset out of range, an operator that bundles do not take, a folder that cannot be written.
        PipelineError: an invalid graph, or one that gives something else than the file.
    """
    check_opset(opset)
    check_writable(directory)
    exact = make_reference(foreign.run_exact, foreign.contract, size=foreign.shape)
    original = make_reference(foreign.run_original, foreign.contract, size=foreign.shape, tolerance=foreign.tolerance)
    return _write(
        foreign.model,
        name=file_stem(path),
        scale=foreign.scale,
        checkpoint=Checkpoint(source="file", file=path.name, sha256=sha256_file(path)),
        contract=foreign.contract,
        references=(exact, original),
        directory=directory,
        opset=opset,
        passes=passes,
    )


def file_stem(path: Path) -> str:
    """Return the file's name as a model's: letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).strip(".-") or "model"


def _write(
    traced: ir.Model,
    *,
    name: str,
    scale: float,
    checkpoint: Checkpoint,
    contract: Contract,
    references: tuple[Reference, ...],
    directory: Path,
    opset: int,
    passes: tuple[Pass, ...],
) -> Bundle:
    """Rewrite the graph, compares it with each of `references`, the last of which is recorded, and write the bundle."""
    side = _measured_side(contract, scale)
    model, records = run_passes(traced, passes=passes, side=side, difference=references[0].difference)
    data = convert_opset(ir.to_proto(model), opset).SerializeToString(deterministic=True)
    check_graph_bytes(data, what=f"the graph of {name}")
    variant = Variant(
        file=FP32_FILE,
        sha256=sha256_bytes(data),
        precision="fp32",
        parent_sha256=checkpoint.sha256,
        opset=opset,
        options=_options(passes),
        tools=_tools(),
        passes=records,
        parity=[reference.check(data) for reference in references][-1],
    )
    plain = with_shuffles(model)
    layers = count_macs(ir.to_proto(plain), side=side)
    field = measured_field(
        receptive_field(plain.graph, multiple_of=contract.multiple_of),
        data,
        contract,
        factor=Fraction(1) if contract.pre_upscale else as_fraction(scale),
        macs_per_pixel=sum(layer.macs for layer in layers) / side**2,
    )
    exported = Manifest(
        model=name,
        scale=scale,
        checkpoint=checkpoint,
        contract=contract,
        halo=field.halo,
        alignment=field.alignment,
        global_operator=field.operator,
        layers=layers,
        variants=(variant,),
    )

    def keep_what_was_made_from_it(now: Bundle | None) -> Manifest:
        previous = None if now is None else now.manifest.find_variant("fp32")
        if now is None or previous is None or variant.sha256 != previous.sha256:
            return exported
        made_from_it = tuple(other for other in now.manifest.variants if other.file != FP32_FILE)
        return exported.model_copy(update={"variants": (variant, *made_from_it)})

    return update_bundle(directory, keep_what_was_made_from_it, files={FP32_FILE: data})


def _measured_side(contract: Contract, scale: float) -> int:
    """Return the side of the picture that costs are stated for.

    SIDE, enlarged where the network wants that, and as large as it takes.
    """
    side = max(round(SIDE * scale) if contract.pre_upscale else SIDE, contract.least_side)
    return -(-side // contract.multiple_of) * contract.multiple_of


def exported_already(
    network: Network,
    *,
    scale: float,
    weights: Weights,
    directory: Path,
    opset: int,
    static_shape: tuple[int, int] | None,
    passes: tuple[Pass, ...] = PASSES,
) -> Bundle | None:
    """Return the bundle in `directory` where it is what this export would make, with the tools at hand; else None.

    None for a network from outside this package: nothing says whether its code has changed.
    """
    bundle = _open_if_valid(directory)
    if bundle is None or network not in NETWORKS:
        return None
    manifest = bundle.manifest
    fp32 = manifest.find_variant("fp32")
    same = (
        fp32 is not None
        and (manifest.model, manifest.scale, manifest.checkpoint) == (network.name, scale, weights.checkpoint)
        and (fp32.opset, manifest.contract.static_shape, fp32.tools) == (opset, static_shape, _tools())
        and fp32.options == _options(passes)
    )
    return bundle if same else None


def _options(passes: tuple[Pass, ...]) -> dict[str, Option]:
    return {
        "without": tuple(step.name for step in PASSES if step not in passes),
        "with": tuple(step.name for step in EXTRA_PASSES if step in passes),
    }


def _open_if_valid(directory: Path) -> Bundle | None:
    try:
        return Bundle.open(directory)
    except BundleError:
        return None


def _tools() -> dict[str, str]:
    return tool_versions(_TOOLS, sources=[Path(__file__).parent])
