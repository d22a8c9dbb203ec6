"""python -m export MODEL|FILE --scale S: a network or a file in, a bundle with its fp32 graph out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from export.any_checkpoint import SUFFIXES, find_own, read_checkpoint
from export.foreign import ORDERS, Foreign, Order, read_foreign
from export.graph.pixel_io import add_pixel_io
from export.models import NETWORKS, find_network
from export.onnx_export import NATIVE_OPSET, OPSET_RANGE, check_opset
from export.passes import EXTRA_PASSES, select_passes
from export.stage import export_foreign, export_network, exported_already, file_stem
from export.weights import find_weights
from runtime.bundle import BUILD, Bundle, Contract, Io, find_io
from runtime.errors import UnknownNameError, UserError
from runtime.terminal import console
from runtime.terminal.commands import Command, beside
from runtime.verify.faithful import check_backends

_LIST = Command("list", "export.listing", "list the networks, their scales, and the weights there are")

app = console.application("Export a super-resolution network to ONNX, as a bundle.")


@app.command(cls=beside(_LIST))
def export(
    model: Annotated[
        str,
        typer.Argument(
            help=f"the network: {', '.join(network.name for network in NETWORKS)}; your own, my_package.my_net:NETWORK; "
            "an .onnx, .pth or .safetensors file"
        ),
    ],
    scale: Annotated[float | None, typer.Option(help="how many times larger the picture becomes")] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="trained weights: shipped (with sredge; the default), published (by the authors), or a file or folder of yours"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="where the result goes: the bundle's folder [default: build/MODEL_xSCALE]")
    ] = None,
    opset: Annotated[int, typer.Option(help=f"ONNX opset, {OPSET_RANGE[0]} to {OPSET_RANGE[1]}")] = NATIVE_OPSET,
    static: Annotated[
        str | None, typer.Option(metavar="HxW", help="fix the input to one picture of this size; free otherwise")
    ] = None,
    colour: Annotated[
        str | None, typer.Option(help=f"channels of an .onnx file: {', '.join(ORDERS)} [default: RGB of three, Y of one]")
    ] = None,
    value_range: Annotated[
        str | None, typer.Option("--range", metavar="LOW,HIGH", help="black and white of an .onnx file [default: 0,1]")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="PASS", help="what to leave out: a rewrite of the graph; repeat for several")
    ] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="PASS", help=f"rewrite more: {', '.join(step.name for step in EXTRA_PASSES)}"),
    ] = None,
    io: Annotated[
        str, typer.Option(help="what graphs take and give: uint8 also writes one of raw pixels, NHWC, clipped and rounded")
    ] = "float32",
    explain: Annotated[bool, typer.Option("--explain", help="show what each rewrite of the graph changed")] = False,
    force: Annotated[bool, typer.Option("--force", help="again even if nothing changed")] = False,
) -> None:
    """Export a network to ONNX: dynamic shape, simplified, compared with torch."""
    ends = find_io(io)
    check_opset(opset)
    passes = select_passes(without or [], extra=extra or [])
    picture_size = None if static is None else console.parse_size(static, option="--static")
    if model.endswith((".onnx", *SUFFIXES)) and weights is not None:
        raise UserError(f"--weights has no effect on {model}, which has its own", hint="drop it")
    if model.endswith(SUFFIXES):
        own = find_own(Path(model), scale=scale)
        if own is not None:
            console.show(f"{Path(model).name}: {own[0].name} x{own[1]:g}")
            weights, model, scale = model, own[0].name, own[1]
    if model.endswith((".onnx", *SUFFIXES)):
        file = Path(model)
        foreign = _read_file(file, scale=scale, colour=colour, value_range=value_range, static=picture_size)
        for note in foreign.notes:
            console.show(f"{file.name}: {note}")
        directory = out if out is not None else BUILD / f"{file_stem(file)}_x{foreign.scale:g}"
        bundle = export_foreign(foreign, file, directory=directory, opset=opset, passes=passes)
        _print_result(_with_ends(bundle, ends), explain=explain)
        return
    if scale is None:
        raise UserError("--scale is missing", hint="python -m export list: shows each network's scales")
    _check_no_ends(colour, value_range)
    network = find_network(model, scale=scale)
    static_shape = None if picture_size is None else network.contract.input_size(picture_size, scale=scale)
    directory = out if out is not None else BUILD / f"{network.name}_x{scale:g}"
    found = find_weights(network, scale=scale, choice=weights)
    if not force:
        existing = exported_already(
            network, scale=scale, weights=found, directory=directory, opset=opset, static_shape=static_shape, passes=passes
        )
        if existing is not None:
            done = _with_ends(existing, ends)
            console.show(f"{directory}: up to date" if done == existing else f"{directory}: a graph of raw pixels added")
            if explain:
                _print_passes(existing)
            return
    console.say(f"exporting {network.name} x{scale:g} from {found.path} …")
    bundle = export_network(
        network, scale=scale, weights=found, directory=directory, opset=opset, static_shape=static_shape, passes=passes
    )
    _print_result(_with_ends(bundle, ends), explain=explain)


def _read_file(
    file: Path, *, scale: float | None, colour: str | None, value_range: str | None, static: tuple[int, int] | None
) -> Foreign:
    if file.suffix == ".onnx":
        return read_foreign(file, scale=scale, order=_find_order(colour), value_range=_parse_range(value_range), static=static)
    _check_no_ends(colour, value_range)
    return read_checkpoint(file, scale=scale, static=static)


def _check_no_ends(colour: str | None, value_range: str | None) -> None:
    if colour is not None or value_range is not None:
        raise UserError("--colour and --range are for .onnx files; other networks have their own", hint="drop them")


def _with_ends(bundle: Bundle, io: Io) -> Bundle:
    """Return `bundle`, with the fp32 graph of raw pixels where those are asked for."""
    return bundle if io == "float32" else add_pixel_io(bundle, bundle.variant("fp32"))


def _find_order(name: str | None) -> Order | None:
    if name is None:
        return None
    for order in ORDERS:
        if order == name.upper():
            return order
    raise UnknownNameError("colour", name, valid=ORDERS)


def _parse_range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(number) for number in text.split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"--range {text}: expected two numbers, black and white", hint="--range 0,255")
    return low, high


def _print_result(bundle: Bundle, *, explain: bool) -> None:
    manifest, fp32 = bundle.manifest, bundle.variant("fp32")
    contract = manifest.contract
    shape, channels = contract.static_shape, f"{contract.channels} ({contract.colour})"
    assert fp32.parity is not None
    rows = {
        "weights": f"{manifest.checkpoint.source}, sha256 {manifest.checkpoint.sha256[:12]}…",
        "input": "1×{}×{}×{}".format(channels, *shape) if shape else _describe_input(contract, channels),
        "opset": str(fp32.opset),
        "cost": f"{manifest.macs / 1e9:.1f} GMAC for one 128×128 picture, {fp32.passes[0].macs / 1e9:.1f} as traced",
        "halo": f"{manifest.halo} pixels" if manifest.halo != "global" else f"global: {manifest.global_operator}",
        "parity": f"{fp32.parity.max_abs_difference:.1e} from the network at most (limit {fp32.parity.tolerance:.0e})",
        "graph": str(bundle.path(fp32)),
    }
    pixels = manifest.find_variant("fp32", io="uint8")
    if pixels is not None:
        rows["pixels"] = f"{bundle.path(pixels)}, NHWC uint8 in and out"
    console.show(f"{bundle.directory}: exported {manifest.model} x{manifest.scale:g}")
    for name, value in rows.items():
        console.show(f"  {name:<8} {value}")
    graph = bundle.read(fp32)
    for check in check_backends(graph, graph, None, contract, precision="fp32"):
        if not check.passed:
            console.show(f"  (!) refused on {check.backend}: {check.found}")
    if explain:
        _print_passes(bundle)


def _describe_input(contract: Contract, channels: str) -> str:
    sizes = "any size" if contract.multiple_of == 1 else f"sides of multiples of {contract.multiple_of}"
    least = f", {contract.least_side} or more" if contract.least_side > contract.multiple_of else ""
    return f"{'1' if contract.one_at_a_time else 'N'}×{channels}×H×W, {sizes}{least}"


def _print_passes(bundle: Bundle) -> None:
    table = Table("pass", "changes", "nodes", "GMAC", "from the network", box=None, header_style="bold", pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for record in bundle.variant("fp32").passes:
        difference = "" if record.max_abs_difference is None else f"{record.max_abs_difference:.1e}"
        table.add_row(record.name, record.changes, str(record.nodes), f"{record.macs / 1e9:.3f}", difference)
    console.out.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m export")
