"""python -m benchmarks.faithfulness [BUNDLE…]: does each backend compute what each graph says?

Every network is exported, quantized for every target and run on every backend that is installed, on one small picture. What comes
out is held against the same graph simulated, each operator as ONNX defines it. A backend that a target names must come near enough;
what the others give shows why they are not named. With bundles, their own graphs are run instead.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table
from safetensors.numpy import save_file

from benchmarks.machine import describe_machine
from calibration.ranges import Method
from export.graph.serialized import serialize
from export.models import NETWORKS, Network
from export.stage import export_network
from export.weights import find_weights
from quantize.half.cast import HALF_PRECISIONS, convert_to_half
from quantize.int8 import quantize_int8
from quantize.options import Effort, Int8Options
from quantize.stage import load_fp32
from quantize.tables import TableRequest, find_table
from runtime.backends import BACKENDS, open_backend
from runtime.bundle import Bundle
from runtime.errors import BackendError
from runtime.files.whole import write_whole
from runtime.targets import TARGETS, Precision, Target, find_target
from runtime.terminal import console
from runtime.verify.value_check import measure_values

_STATIC = (48, 64)
_CROPS, _CROP_SIZE = 4, (48, 48)
_STRAIGHT = "-"  # in the column of targets, of graphs for every target

app = console.application("Hold every backend against every graph simulated.")


@dataclass(frozen=True)
class Graph:
    """One graph: a network's in a precision, for a target or for every one, and the fp32 graph it was made from."""

    network: str
    bundle: Bundle
    precision: Precision
    target: str | None
    data: bytes
    fp32: bytes


@dataclass(frozen=True)
class Finding:
    """What one graph gave on one backend: dB from the simulation and what is expected of it, or why it did not run."""

    network: str
    precision: Precision
    target: str | None
    backend: str
    psnr_db: float | None
    expected_db: float | None
    error: str
    named: bool
    """Whether the target names the backend."""

    @property
    def passed(self) -> bool:
        return self.psnr_db is not None and self.expected_db is not None and self.psnr_db >= self.expected_db


@app.command()
def faithfulness(
    bundles: Annotated[list[Path] | None, typer.Argument(metavar="[BUNDLE]...", help="bundles [default: every network]")] = None,
    network: Annotated[list[str] | None, typer.Option(help="the network; repeat for several [default: all]")] = None,
    target: Annotated[list[str] | None, typer.Option(help="the accelerator; repeat for several [default: all]")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="trained weights: a folder of published ones [default: shipped, else random ones]")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="the result as JSON, in a file")] = None,
) -> None:
    """Run every graph on every backend here and hold it against the simulation."""
    targets = [find_target(name) for name in target] if target else list(TARGETS)
    found: list[Finding] = []
    with console.progress() as bar, ExitStack() as stack:
        task = bar.add_task("exporting", total=None)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        chosen = [one for one in NETWORKS if not network or one.name in network]
        graphs = _graphs_in(bundles, targets) if bundles else _graphs_of(chosen, targets, weights, folder)
        for graph in graphs:
            bar.update(task, description=f"{graph.network}: {graph.precision} for {graph.target or 'every target'}")
            found += _try_all(graph)
    _print_findings(found)
    if json_file is not None:
        body = {
            "machine": describe_machine().model_dump(),
            "findings": [asdict(one) for one in found],
        }
        write_whole(json_file, json.dumps(body, indent=1).encode() + b"\n")


def _graphs_in(bundles: Sequence[Path], targets: Sequence[Target]) -> Iterator[Graph]:
    """Yield the graphs of floats in those bundles."""
    names = {None, *(target.name for target in targets)}
    for path in bundles:
        bundle = Bundle.open(path)
        fp32 = bundle.read(bundle.variant("fp32"))
        for variant in bundle.manifest.variants:
            if variant.io == "float32" and variant.target in names:
                yield Graph(path.name, bundle, variant.precision, variant.target, bundle.read(variant), fp32)


def _graphs_of(networks: Sequence[Network], targets: Sequence[Target], weights: Path | None, folder: Path) -> Iterator[Graph]:
    """Yield every network at its first scale: in fp32 and halves, and quantized for each target."""
    for network in networks:
        scale = network.scales[0]
        checkpoint = _weights(network, scale, weights, folder)
        found = find_weights(network, scale=scale, choice=checkpoint)
        name = f"{network.name}_x{scale}"
        for static in (None, _STATIC):
            fitting = [target for target in targets if target.static_shapes == (static is not None)]
            if not fitting:
                continue
            directory = folder / f"{name}{'' if static is None else '-static'}"
            bundle = export_network(network, scale=scale, weights=found, directory=directory, static_shape=static)
            model = load_fp32(bundle)
            fp32 = serialize(model)
            if static is None:
                yield Graph(name, bundle, "fp32", None, fp32, fp32)
                for half in HALF_PRECISIONS:
                    yield Graph(name, bundle, half, None, serialize(convert_to_half(model, half)), fp32)
            crop_size = None if static else _CROP_SIZE
            request = TableRequest(calib="samples", root=None, percentile=99.99, crops=_CROPS, crop_size=crop_size)
            table = find_table(bundle, request, on_step=lambda *_: None).table
            for target in fitting:
                options = Int8Options(target=target, method=Method.PERCENTILE, effort=Effort.FAST)
                yield Graph(name, bundle, "int8", target.name, serialize(quantize_int8(model, table, options).model), fp32)


def _weights(network: Network, scale: int, weights: Path | None, folder: Path) -> str:
    """Published ones in that folder, else shipped ones, else random ones: normal, divided by the square root of the fan-in."""
    published = network.file_pattern.format(scale=scale)
    if weights is not None and published and (weights / published).is_file():
        return str(weights / published)
    if scale in network.shipped:
        return "shipped"
    rng, state = np.random.default_rng(0), {}
    for key, value in network.build(scale).state_dict().items():
        drawn = rng.standard_normal(tuple(value.shape)).astype(np.float32)
        drawn = drawn / np.sqrt(drawn[0].size, dtype=np.float32) if drawn.ndim > 1 else drawn * np.float32(0.05)
        drawn = np.abs(drawn) + np.float32(0.5) if key.endswith("running_var") else drawn
        state[key] = drawn if value.is_floating_point() else np.zeros(drawn.shape, np.int64)
    path = folder / f"{network.name}_x{scale}.safetensors"
    save_file(state, path)
    return str(path)


def _try_all(graph: Graph) -> Iterator[Finding]:
    for entry in BACKENDS:
        if not entry.opens_graphs or graph.precision not in entry.precisions:
            continue
        check, error = None, ""
        try:
            with open_backend(entry.name, graph.data, precision=graph.precision) as backend:
                contract = graph.bundle.manifest.contract
                check = measure_values(backend, graph.data, graph.fp32, contract, precision=graph.precision)
        except BackendError as caught:
            error = str(caught)
        named = graph.target is None or entry.name in find_target(graph.target).backends
        psnr_db, expected_db = (None, None) if check is None else (check.psnr_db, check.expected_db)
        yield Finding(graph.network, graph.precision, graph.target, entry.name, psnr_db, expected_db, error, named)


def _print_findings(found: Sequence[Finding]) -> None:
    backends = list(dict.fromkeys(finding.backend for finding in found))
    table = Table("network", "precision", "target", "expected", *backends, box=None, header_style="bold", pad_edge=False)
    rows: dict[tuple[str, str, str], dict[str, Finding]] = {}
    for finding in found:
        rows.setdefault((finding.network, finding.precision, finding.target or _STRAIGHT), {})[finding.backend] = finding
    for key, cells in rows.items():
        expected = [cell.expected_db for cell in cells.values() if cell.expected_db is not None]
        table.add_row(*key, *(f"{one:.1f}" for one in expected[:1]), *(_cell(cells.get(backend)) for backend in backends))
    console.out.print(table)
    wrong = [finding for finding in found if finding.named and not finding.passed]
    for finding in wrong:
        graph = f"{finding.network} {finding.precision} for {finding.target or 'every target'}"
        console.show(f"(!) refused: {graph} on {finding.backend}: {finding.error or f'{finding.psnr_db:.1f} dB'}")
    machine = describe_machine()
    console.show(
        "dB between backend and simulation (200: equal), one picture of 48×64, in brackets of backends that the target does not "
        f"name; {machine.processor}, {', '.join(f'{name} {metadata.version(name)}' for name in backends)}"
    )


def _cell(finding: Finding | None) -> str:
    if finding is None:
        return ""
    text = "does not run" if finding.psnr_db is None else f"{finding.psnr_db:.1f}"
    return f"{text}{'' if finding.passed else ' (!)'}" if finding.named else f"({text})"


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m benchmarks.faithfulness")


if __name__ == "__main__":
    main()
