"""python -m quantize explain [BUNDLE]: an int8 graph in, where it loses what it loses out; a table, JSON, a plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from calibration.datasets import CALIB_HELP, DATA_HELP, SAMPLES, choose_pictures, find_images
from quantize.explain.plot import draw
from quantize.explain.result import ExplainedLayer, Explanation, Shift, is_exact
from quantize.explain.stage import ExplainRequest, explain
from quantize.reports import write_report
from runtime.backends import BACKENDS
from runtime.bundle import REPORTS, Bundle, resolve_bundle
from runtime.targets import TARGETS, find_target
from runtime.terminal import console
from runtime.terminal.figures import share_text
from runtime.verify.pairs import find_pairs

_WORST = 5  # pictures in the table; --json has all

app = console.application("Say where a bundle's int8 graph loses what it loses.")


@app.command()
def explain_bundle(
    bundle: Annotated[Path | None, typer.Argument(help="the bundle [default: the only one under build/]")] = None,
    calib: Annotated[
        str | None,
        typer.Option(help=f"{CALIB_HELP}; of a set its held-back part"),
    ] = None,
    data: Annotated[str | None, typer.Option(help=f"{DATA_HELP} [default: {SAMPLES}]")] = None,
    target: Annotated[str | None, typer.Option(help=f"the accelerator: {', '.join(known.name for known in TARGETS)}")] = None,
    backend: Annotated[
        str, typer.Option(help=f"what runs the graph, on whole pictures: auto, {', '.join(entry.name for entry in BACKENDS)}")
    ] = "auto",
    crops: Annotated[int, typer.Option(min=1, help="how many crops of the pictures, and pictures at most")] = 16,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="also what each layer alone does to the output: a run of the network a layer")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="the result as JSON: all pictures and figures, instead of the table")
    ] = False,
) -> None:
    """Compare int8 with fp32 layer by layer and picture by picture; a plot goes into the bundle's reports."""
    chosen = None if target is None else find_target(target).name
    opened = Bundle.open(resolve_bundle(bundle))
    pictures, root = choose_pictures(calib=calib, data=data, default=SAMPLES)
    images = find_images(pictures, scale=opened.manifest.scale, use="evaluation", root=root)
    variant = find_pairs(opened, precision="int8", target=chosen, backend=backend)[0].variant
    file = opened.path(variant).parent / REPORTS / f"explain-{variant.target}.png"
    request = ExplainRequest(images=images, target=variant.target, backend=backend, crops=crops, sensitivity=sensitivity)
    with console.progress() as bar:
        task = bar.add_task("reading", total=None)
        found = explain(
            opened, request, on_step=lambda doing, done, total: bar.update(task, description=doing, completed=done, total=total)
        )
    title = f"{opened.directory.name}, int8 for {found.target}, on {found.dataset}"
    write_report(file, draw(found, title=title))
    if as_json:
        console.show(found.model_dump_json(indent=1))
        return
    _print(found, title=title)
    console.show(f"plot: {file}")


def _print(found: Explanation, *, title: str) -> None:
    console.show(title)
    with_output = any(layer.output_psnr_db is not None for layer in found.layers)
    headings = ["layer", "operator", "GMAC", "asked", "ran in", "SQNR dB", "alone", "clipped", "codes", "range"]
    console.out.print(
        _table([*headings, *(["output dB"] if with_output else [])], (_cells(layer, with_output) for layer in found.layers))
    )
    strays = [layer.name for layer in found.layers if layer.ran not in ("", layer.asked)]
    if strays:
        console.show(
            f"(!) {found.backend} ran {len(strays)} of the layers in another precision than asked: {', '.join(strays[:3])}…"
        )
    if found.merged_layers:
        console.show(f"merged into the layers behind them: {', '.join(found.merged_layers)}")
    console.show("")
    console.out.print(
        _table(
            ["worst pictures", "dB from fp32", "dB lost", "R", "G", "B"],
            (
                (picture.name, _db(picture.psnr_vs_fp32_db), _number(picture.drop_db, ".3f"), *_shift(picture.colour_shift))
                for picture in found.pictures[:_WORST]
            ),
        )
    )
    shift = "  ".join(f"{name} {value}" for name, value in zip("RGB", _shift(found.colour_shift), strict=True))
    console.show(f"colour shift over {len(found.pictures)} pictures, 8-bit steps: {shift}")
    console.show(f"SQNR on {found.crops} crops; pictures as {found.backend} ran them")
    if found.calibrated_on:
        console.show(f"(!) int8 was calibrated on {found.calibrated_on} of these pictures")


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(*headings, box=None, header_style="bold", pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    return table


def _cells(layer: ExplainedLayer, with_output: bool) -> list[str]:
    ends = "" if layer.stored_range is None else "{:.3g} … {:.3g}".format(*layer.stored_range)
    return [
        layer.name,
        layer.op,
        f"{layer.macs / 1e9:.3f}" if layer.macs else "",
        layer.asked,
        layer.ran,
        _db(layer.sqnr_db),
        _db(layer.alone_sqnr_db),
        _share(layer.clipped_share, digits=2),
        _share(layer.codes_used_share, digits=0),
        ends,
        *([_number(layer.output_psnr_db, ".1f")] if with_output else []),
    ]


def _db(value: float | None) -> str:
    return "exact" if is_exact(value) else _number(value, ".1f")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _share(value: float | None, *, digits: int) -> str:
    return "" if value is None else share_text(value, digits=digits)


def _shift(shift: Shift) -> tuple[str, ...]:
    return tuple(f"{value:+.3f}" for value in shift)


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m quantize explain")
