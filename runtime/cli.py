"""python -m runtime upscale|info, and the `sredge` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from runtime import console
from runtime.backends import BACKENDS
from runtime.bundle import Bundle, resolve_bundle
from runtime.errors import UnknownNameError, UserError
from runtime.images import read_picture, write_picture
from runtime.targets import PRECISIONS, find_precision
from runtime.upscaler import Upscaler

_COMMANDS = "sredge.commands"

app = console.application("Run a bundle's network.")

BundleArgument = Annotated[Path | None, typer.Option("--bundle", help="the bundle [default: the only one under build/]")]


@app.command()
def upscale(
    picture: Annotated[Path, typer.Argument(help="an 8-bit grey or RGB picture")],
    out: Annotated[Path, typer.Option("-o", "--out", help="where the larger picture goes; its suffix is the format")],
    bundle: BundleArgument = None,
    precision: Annotated[
        str | None, typer.Option(help=", ".join(PRECISIONS) + " [default: int8 where the bundle has it, else fp32]")
    ] = None,
    backend: Annotated[str, typer.Option(help=f"auto, {', '.join(entry.name for entry in BACKENDS)}")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="threads [default: the backend's own choice]")] = None,
) -> None:
    """Upscale one picture."""
    opened = Bundle.open(resolve_bundle(bundle))
    chosen = None if precision is None else find_precision(precision)
    with Upscaler.open(opened, precision=chosen, backend=backend, threads=threads) as upscaler:
        source = read_picture(picture)
        larger = upscaler(source)
        write_picture(out, larger)
        sizes = f"{source.shape[1]}×{source.shape[0]} -> {larger.shape[1]}×{larger.shape[0]}"
        console.show(f"{out}: {sizes}, {upscaler.variant.precision} on {upscaler.backend_name}")
        if not upscaler.precision_report.verified:
            console.show(f"(!) it ran in {upscaler.precision_report}")


@app.command()
def info(
    bundle: Annotated[Path | None, typer.Argument(help="the bundle [default: the only one under build/]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the manifest itself")] = False,
) -> None:
    """Say what a bundle holds, after verifying it."""
    opened = Bundle.open(resolve_bundle(bundle))
    manifest = opened.manifest
    if as_json:
        console.show(manifest.model_dump_json(indent=1))
        return
    contract = manifest.contract
    shape, (low, high) = contract.static_shape, contract.value_range
    size = "1×{}×{}×{}" if shape else "N×{}×H×W"
    console.show(f"{opened.directory}: {manifest.model} x{manifest.scale:g}, {manifest.checkpoint.source} weights")
    console.show(f"  input   {size.format(contract.channels, *(shape or ()))} float32 {contract.colour}, {low:g} to {high:g}")
    console.show(f"  halo    {manifest.halo}")
    console.show(f"  cost    {manifest.macs / 1e9:.1f} GMAC for one 128×128 picture")
    for variant in manifest.variants:
        share = f", {manifest.int8_mac_share(variant):.1%} of MACs int8" if variant.precision == "int8" else ""
        target = f" for {variant.target}" if variant.target else ""
        console.show(f"  {variant.precision:<7} {variant.file}{target}, opset {variant.opset}{share}, {variant.sha256[:12]}…")


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m runtime")


def sredge() -> None:
    """`sredge COMMAND …` is `python -m COMMAND …`; upscale and info are the runtime's own."""
    others = {entry.name: entry for entry in entry_points(group=_COMMANDS)}
    own = {command.callback.__name__ for command in app.registered_commands if command.callback}
    known = sorted({*others, *own})
    name, *rest = sys.argv[1:] or ["--help"]
    if name in others:
        try:
            command = others[name].load()
        except ModuleNotFoundError as error:
            console.fail(UserError(f"`sredge {name}` needs {error.name}", hint=f"pip install 'sredge[{name}]'"))
        command(rest)
    elif name in own:
        main([name, *rest])
    elif name in ("-h", "--help"):
        console.show(f"sredge COMMAND …: {', '.join(known)}\nsredge COMMAND --help tells each one's options")
    else:
        console.fail(UnknownNameError("command", name, valid=known, hint="sredge export --help"))
