"""python -m benchmarks [BUNDLE…]: bundles and pictures in, a table and a report of quality, latency, size and memory out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.table import Table

from benchmarks.compare import Request, check_overlap, compare, request_key
from benchmarks.latency import RUNS
from benchmarks.machine import count_cores
from benchmarks.protocols import PROTOCOLS, find_protocol
from benchmarks.report import RESULT_FILE, write_report
from benchmarks.report.table import COLUMNS, bicubic_lines, cells, notes, published_cells
from benchmarks.result import Result
from benchmarks.worker import Case
from calibration.datasets import DATA_HELP, SAMPLES, find_images
from calibration.pairs import hash_pair
from runtime.backends import BACKENDS
from runtime.bundle import BUILD, REPORTS, Bundle, resolve_bundle
from runtime.errors import BackendError, BundleError, UserError
from runtime.files.whole import check_writable, write_whole
from runtime.targets import PRECISIONS, TARGETS, Precision, find_precision, find_target
from runtime.terminal import console
from runtime.verify.pairs import AUTO, find_pairs

app = console.application("Compare fp32, fp16 and int8 in PSNR, SSIM and latency.")


@app.command()
def benchmarks(
    bundles: Annotated[
        list[Path] | None, typer.Argument(metavar="[BUNDLE]...", help="bundles [default: the only one under build/]")
    ] = None,
    data: Annotated[str, typer.Option(help=DATA_HELP)] = SAMPLES,
    protocol: Annotated[str, typer.Option(help=", ".join(known.name for known in PROTOCOLS))] = "paper-y",
    precision: Annotated[
        list[str] | None, typer.Option(help=f"the graph: {', '.join(PRECISIONS)}; repeat for several [default: all there are]")
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help=f"what runs the graph: auto, {', '.join(entry.name for entry in BACKENDS)}; repeat for several "
            "[default: all installed that need no engine]"
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help=f"the accelerator: {', '.join(known.name for known in TARGETS)}; repeat for several [default: all]"),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="timed runs of each case")] = RUNS,
    threads: Annotated[int | None, typer.Option(min=1, help="threads [default: one a physical core]")] = None,
    out: Annotated[
        Path | None, typer.Option(help="where the result goes: the folder of the report [default: BUNDLE/reports/DATA-PROTOCOL]")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="the result as JSON, in a file beside the report")
    ] = None,
    allow_calibration_images: Annotated[
        bool, typer.Option("--allow-calibration-images", help="evaluate on pictures that int8 was calibrated on")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="again even if nothing changed")] = False,
) -> None:
    """Compare a bundle's precisions on every backend, and write a report."""
    opened = [Bundle.open(path) for path in bundles or [resolve_bundle(None)]]
    chosen = find_protocol(protocol)
    threads = threads or count_cores()
    requests = []
    for bundle in opened:
        scale = bundle.manifest.scale
        images = find_images(data, scale=scale, use="evaluation")
        request = Request(
            bundle=bundle,
            cases=_cases(bundle, precision, backend, target, threads),
            images=images,
            hashes=tuple(hash_pair(pair, scale=scale) for pair in images.pairs),
            protocol=chosen,
            runs=runs,
            threads=threads,
            allow_calibration_images=allow_calibration_images,
            insists=backend is not None,
        )
        check_overlap(request)
        requests.append(request)
    name = f"{requests[0].images.name}-{chosen.name}"
    directory = out or (opened[0].directory / REPORTS if len(opened) == 1 else BUILD / REPORTS) / name
    _check_writable(directory, json_file)
    result = None if force else _measured_before(directory / RESULT_FILE, key=request_key(requests))
    if result is None:
        result = _measure(requests, directory)
    else:
        typer.echo("nothing changed since these figures were measured; --force measures again", err=True)
    if json_file is not None:
        _write_json(result, json_file)
    _print_result(result, directory)


def _check_writable(directory: Path, json_file: Path | None) -> None:
    """Raise UserError now rather than after minutes of measuring."""
    try:
        for path in (directory / RESULT_FILE, *([json_file] if json_file is not None else [])):
            check_writable(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}", hint="choose other places with --out and --json"
        ) from error


def _measure(requests: Sequence[Request], directory: Path) -> Result:
    with console.progress() as bar:
        task = bar.add_task("measuring", total=None)

        def on_step(doing: str, done: int, total: int) -> None:
            bar.update(task, description=doing, completed=done, total=total)

        result, panels = compare(requests, on_step=on_step)
    write_report(result, panels, directory)
    return result


def _cases(
    bundle: Bundle, precisions: Sequence[str] | None, backends: Sequence[str] | None, targets: Sequence[str] | None, threads: int
) -> tuple[Case, ...]:
    """Return every graph asked for on every backend that computes it faithfully; engines only on a backend asked for by name.

    Raises:
        BundleError: the bundle has no such graph.
        BackendError: no backend runs a precision, or a named one does not run one that was asked for by name.
    """
    insists = precisions is not None and backends is not None
    for name in targets or ():
        if all(variant.target != find_target(name).name for variant in bundle.manifest.variants):
            bundle.variant("int8", target=name)  # which says what there is
    cases: dict[Case, None] = {}
    for precision in _precisions(bundle, precisions):
        found: list[Case] = []
        unfit: list[BackendError | BundleError] = []
        for target, backend in itertools.product(targets or (None,), backends or (AUTO,)):
            try:
                pairs = find_pairs(bundle, precision=precision, io="float32", target=target, backend=backend)
            except (BackendError, BundleError) as error:  # vacc, for one, is given no fp32 graph
                if insists:
                    raise
                unfit.append(error)
                continue
            wanted = pairs[:1] if backends is not None and backend == AUTO else pairs
            found += [
                Case(bundle.directory, precision, entry.name, threads, variant.target)
                for variant, entry in wanted
                if backends is not None or not entry.prebuilt
            ]
        if not found and unfit and precisions is not None:
            raise unfit[0]
        cases.update(dict.fromkeys(found))
    if not cases:
        raise BackendError(f"no backend here runs a graph of {bundle.directory}", hint="pip install 'sredge[openvino]'")
    return tuple(cases)


def _precisions(bundle: Bundle, asked: Sequence[str] | None) -> list[Precision]:
    """Return those asked for, or all the bundle has."""
    if asked is not None:
        return list(dict.fromkeys(find_precision(name) for name in asked))
    present = {variant.precision for variant in bundle.manifest.variants if variant.io == "float32"}
    return [precision for precision in PRECISIONS if precision in present]


def _measured_before(path: Path, *, key: str) -> Result | None:
    try:
        result = Result.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return result if result.key == key else None


def _write_json(result: Result, path: Path) -> None:
    try:
        write_whole(path, result.model_dump_json(indent=1).encode() + b"\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _print_result(result: Result, directory: Path) -> None:
    table = Table(*COLUMNS, box=None, header_style="bold", pad_edge=False)
    for column in table.columns[4:]:
        column.justify = "right"
    for row in result.rows:
        table.add_row(*cells(row), style=None if row.precision_verified else "yellow")
    for published in published_cells(result):
        table.add_row(*published, style="dim")
    console.out.print(table)
    for line in (*bicubic_lines(result), *notes(result)):
        console.show(line)
    console.show(f"report: {directory / 'report.html'}")


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m benchmarks")
