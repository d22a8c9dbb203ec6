"""The table: architecture × exporter × target, each row what became of one network from somebody's exporter on one accelerator."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from benchmarks import onnxruntime_quantizer
from calibration.datasets import SAMPLES
from calibration.ranges import DEFAULT_PERCENTILE, Method
from calibration.steps import ignore_step
from export.foreign import read_foreign
from export.models import Network, find_network
from export.stage import export_foreign, export_network
from export.weights import find_weights
from quantize.options import Effort, Int8Options
from quantize.stage import quantize_bundle
from quantize.tables import FoundTable, TableRequest, find_table
from runtime.backends import open_backend
from runtime.bundle import Bundle
from runtime.errors import SredgeError
from runtime.targets import Target
from runtime.upscaler import Upscaler
from runtime.verify.pairs import find_pairs
from runtime.verify.precision import verify_precision
from runtime.verify.value_check import measure_values
from tests.architectures.exporters import SIDES, Exporter, write_onnx
from tests.architectures.measure import Scene, by_set, fp32_scores_db, load_scenes, scores_db
from tests.architectures.weights import scale_of

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What all rows share: `data` None takes the sample photographs, `crops` None as many as `python -m quantize` takes."""

    effort: Effort
    data: Path | None
    calib: str
    crops: int | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network from one exporter on one target; what was not got to is None, and `failed` says why.

    Attributes:
        halo, sizes: what the import found.
        int8_macs, int8_macs_ran: share of multiply-accumulates in int8 by the manifest, and as the backend says itself.
        backend: what `auto` runs the int8 graph on, and what computes it wrongly.
        fp32_db, loss_db, their_loss_db: by set: PSNR of fp32, what sredge's int8 loses of it, what quantize_static's loses.
        backend_psnr_db, expected_db: the backend's output held against the graph simulated, and what is expected of it.
        tiles: largest difference of tiles from the whole picture, of 255; None where the network is global.
        cpu_seconds: of calibration and quantization.
        cost: those per multiply-accumulate, LESRCNN x2 being 1; of a tiny network most is what every network takes.
    """

    architecture: str
    exporter: str
    target: str
    effort: str
    failed: str = ""
    halo: str = ""
    sizes: str = ""
    int8_macs: float | None = None
    int8_macs_ran: float | None = None
    backend: str = ""
    fp32_db: Mapping[str, float] = field(default_factory=dict)
    loss_db: Mapping[str, float] = field(default_factory=dict)
    their_loss_db: Mapping[str, float] = field(default_factory=dict)
    backend_psnr_db: float | None = None
    expected_db: float | None = None
    tiles: int | None = None
    cpu_seconds: float | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Imported:
    """A bundle, its pictures, and what it was calibrated on."""

    bundle: Bundle
    scenes: tuple[Scene, ...]
    fp32_db: tuple[float, ...]
    tiles: int | None


def rows(
    networks: Sequence[Network], exporters: Sequence[Exporter], targets: Sequence[Target], settings: Settings, *, tell: Tell
) -> Iterator[Row]:
    """Every row, as it is done; what fails is a row as well."""
    for network in networks:
        for exporter in exporters:
            for static in (None, SIDES):
                fitting = [target for target in targets if target.static_shapes == (static is not None)]
                if fitting:
                    yield from _rows_of(network, exporter, fitting, static, settings, tell)


def _rows_of(
    network: Network,
    exporter: Exporter,
    targets: Sequence[Target],
    static: tuple[int, int] | None,
    settings: Settings,
    tell: Tell,
) -> Iterator[Row]:
    empty = Row(architecture=network.name, exporter=exporter.name, target="", effort=settings.effort.value)
    with tempfile.TemporaryDirectory() as folder:
        tell(f"{network.name} from {exporter.name}")
        try:
            imported = _import(network, exporter, Path(folder), static, settings)
        except Exception as error:  # noqa: BLE001 # a failure is a row, whatever it is
            yield from (replace(empty, target=target.name, failed=_said(error)) for target in targets)
            return
        their_loss_db = cache(partial(_their_loss_db, imported, settings))  # both schemes once
        for target in targets:
            tell(f"{network.name} from {exporter.name} by quantize_static")
            theirs = their_loss_db(symmetric=target.activation_symmetric)
            row = replace(_described(empty, imported), target=target.name, their_loss_db=theirs)
            tell(f"{network.name} from {exporter.name} for {target.name}")
            try:
                yield _quantized(row, imported, target, settings)
            except Exception as error:  # noqa: BLE001 # likewise
                yield replace(row, failed=_said(error))


def _import(network: Network, exporter: Exporter, folder: Path, static: tuple[int, int] | None, settings: Settings) -> Imported:
    scale, path = scale_of(network), folder / f"{network.name}.onnx"
    write_onnx(network, exporter, path)
    foreign = read_foreign(path, scale=scale, order=None, value_range=None, static=static)
    bundle = export_foreign(foreign, path, directory=folder / "bundle")
    scenes = load_scenes(settings.data, scale=scale, static=bundle.manifest.contract.static_shape)
    return Imported(bundle, scenes, fp32_scores_db(bundle, scenes), _tiles(bundle))


def _tiles(bundle: Bundle) -> int | None:
    """How far tiles are from the whole picture, in levels of 255; None where one or the other cannot be run."""
    manifest = bundle.manifest
    if manifest.halo == "global" or manifest.contract.static_shape is not None:
        return None
    picture = np.random.default_rng(0).integers(0, 256, (75, 110, 3), np.uint8)
    outputs = []
    for tile in (None, 32):
        with Upscaler.open(bundle, precision="fp32", backend="onnxruntime", verify="never", tile=tile) as upscaler:
            outputs.append(upscaler(picture).astype(int))
    return int(np.abs(outputs[0] - outputs[1]).max())


def _described(row: Row, imported: Imported) -> Row:
    manifest, contract = imported.bundle.manifest, imported.bundle.manifest.contract
    sizes = f"{contract.static_shape[0]}x{contract.static_shape[1]}" if contract.static_shape else f"{contract.multiple_of}n"
    sizes += f", from {contract.least_side}" if contract.least_side > 1 else ""
    sizes += ", one at a time" if contract.one_at_a_time else ""
    return replace(
        row,
        halo=str(manifest.halo) if manifest.halo != "global" else f"global ({manifest.global_operator})",
        sizes=sizes,
        fp32_db=by_set(imported.fp32_db, imported.scenes),
        tiles=imported.tiles,
    )


def _quantized(row: Row, imported: Imported, target: Target, settings: Settings) -> Row:
    bundle, seconds = _quantize(imported.bundle, target, settings)
    variant = bundle.variant("int8", target=target.name)
    graph, fp32 = bundle.read(variant), bundle.read(bundle.variant("fp32"))
    passed_over = ""
    for pair in find_pairs(bundle, precision="int8", target=target.name):  # as `auto` does it
        with open_backend(pair.backend.name, graph, precision="int8") as backend:
            check = measure_values(backend, graph, fp32, bundle.manifest.contract, precision="int8")
            ran = verify_precision(bundle.manifest, variant, backend.precisions())
        if check.passed:
            break
        passed_over += f", not {pair.backend.name} ({check.psnr_db:.0f} dB)"
    made = scores_db(bundle.manifest, graph, pair.backend.name, "int8", imported.scenes)
    lost = [before - after for before, after in zip(imported.fp32_db, made, strict=True)]
    return replace(
        row,
        int8_macs=bundle.manifest.int8_mac_share(variant),
        int8_macs_ran=ran.mac_share.get("int8", 0.0),
        backend=pair.backend.name + passed_over,
        loss_db=by_set(lost, imported.scenes),
        backend_psnr_db=check.psnr_db,
        expected_db=check.expected_db,
        cpu_seconds=seconds,
        cost=seconds / bundle.manifest.macs / _lesrcnn_seconds_per_mac(settings, target),
    )


def _quantize(bundle: Bundle, target: Target, settings: Settings) -> tuple[Bundle, float]:
    """As `python -m quantize` does it; and the CPU seconds that took, calibration included."""
    began = time.process_time()
    found = _calibrate(bundle, settings)
    options = Int8Options(target=target, method=Method.PERCENTILE, effort=settings.effort)
    done = quantize_bundle(bundle, found.table, options, crops=found.crops)
    return done, time.process_time() - began


def _calibrate(bundle: Bundle, settings: Settings) -> FoundTable:
    equalize = None if settings.effort is Effort.BEST else False
    root = None if settings.calib == SAMPLES else settings.data
    request = TableRequest(settings.calib, root, DEFAULT_PERCENTILE, measure_again=True, crops=settings.crops, equalize=equalize)
    return find_table(bundle, request, on_step=ignore_step)


@cache
def _lesrcnn_seconds_per_mac(settings: Settings, target: Target) -> float:
    """The same of LESRCNN x2, which every other is held against."""
    network = find_network("lesrcnn", scale=2)
    static = SIDES if target.static_shapes else None
    with tempfile.TemporaryDirectory() as folder:
        weights = find_weights(network, scale=2, choice="shipped")
        bundle = export_network(network, scale=2, weights=weights, directory=Path(folder) / "lesrcnn", static_shape=static)
        _, seconds = _quantize(bundle, target, settings)
        return seconds / bundle.manifest.macs


def _their_loss_db(imported: Imported, settings: Settings, *, symmetric: bool) -> Mapping[str, float]:
    """quantize_static's, QDQ, per channel, percentile, of the same graph on the same crops; empty where it fails."""
    bundle = imported.bundle
    crops = _calibrate(bundle, settings).crops
    try:
        graph = onnxruntime_quantizer.quantize(bundle.path(bundle.variant("fp32")), crops, symmetric=symmetric)
        made = scores_db(bundle.manifest, graph, "onnxruntime", "int8", imported.scenes)
    except Exception:  # noqa: BLE001 # whatever happens in there, there is nothing to be held against
        return {}
    lost = [before - after for before, after in zip(imported.fp32_db, made, strict=True)]
    return by_set(lost, imported.scenes)


def _said(error: Exception) -> str:
    """A refusal's sentence, or what kind of bug it is."""
    text = " ".join(str(error).split())
    return text if isinstance(error, SredgeError) else f"BUG {type(error).__name__}: {text}"
