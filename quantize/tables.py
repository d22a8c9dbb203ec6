"""Find a run's calibration table: an fp32 graph and a request in, a table out, read, reused, shipped or measured on pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.crops import CROP_SIZE, CROPS, read_crops
from calibration.datasets import MissingDatasetError, can_download, find_images
from calibration.fingerprint import graph_fingerprint
from calibration.measure import Rewritten, measure_activations, measure_channels
from calibration.pairs import ImageSet
from calibration.ranges import holds_percentiles
from calibration.shipped_tables import find_shipped_table
from calibration.steps import OnStep, ignore_step
from calibration.table import CalibrationSource, CalibrationTable, read_table
from quantize.exact.choose_mixing import choose_matrices
from quantize.exact.equalize import Scales, choose_scales, equalize
from quantize.exact.mix_channels import Matrices, mix_channels
from quantize.records import current_tools
from quantize.stage import load_fp32
from quantize.tensor_ranges import observed_tensors
from runtime.bundle import Bundle
from runtime.errors import DatasetError, UserError
from runtime.targets import TARGETS, Target

_MANY = 16  # pictures to mix channels; one of DIV2K showed too little, 64 of BSDS500 enough (deploy_docs/calibration.md)
_EQUALIZED_ON_EVERY = 4  # the largest magnitude of a channel needs fewer crops than the ends of a range
_MIXED_ON_EVERY = 4


@dataclass(frozen=True)
class TableRequest:
    """What calibration was asked for; the fields are the command line's options, None where one was not given.

    With `equalize` or `mix` None a table that is given is taken as it is. A new one is then measured without equalization, and with
    channels mixed if there are enough pictures for it: what few pictures do not show of a channel is clipped. With
    `choose_rewrites` it is then measured as `quantize/choose_rewrites.py` decides, if there are enough pictures for that.
    """

    calib: str
    root: Path | None
    percentile: float
    measure_again: bool = False
    crops: int | None = None
    crop_size: tuple[int, int] | None = None
    usual_crop_size: tuple[int, int] = CROP_SIZE
    seed: int | None = None
    equalize: bool | None = False
    mix: bool | None = False
    choose_rewrites: bool = False


@dataclass(frozen=True)
class FoundTable:
    """A calibration table, where it came from in words, and the crops that it was measured on where there are pictures."""

    table: CalibrationTable
    origin: str
    crops: Sequence[NDArray[np.float32]]


@dataclass(frozen=True)
class ToMeasure:
    """A table that does not exist yet: what it is to be measured on, and how.

    Of the request `mix` and `equalize` are None where what loses less is to be chosen.
    """

    images: ImageSet
    source: CalibrationSource
    crops: Sequence[NDArray[np.float32]]
    origin: str
    request: TableRequest


def find_table(bundle: Bundle, request: TableRequest, *, on_step: OnStep, model: onnx.ModelProto | None = None) -> FoundTable:
    """Return the table `request` stands for: read, reused from `bundle`, shipped, or measured now.

    Args:
        model: the bundle's fp32 graph, where the caller has parsed it.

    Raises:
        DatasetError: there are no such pictures; for a known set says the three ways to provide some.
        UserError: an option that a table measured before, or a fixed shape, cannot follow.
    """
    graph = ir.from_proto(load_fp32(bundle) if model is None else model)
    found = look_for_table(bundle, request, graph.graph, on_step=on_step)
    return measure_table(graph, found, on_step=on_step) if isinstance(found, ToMeasure) else found


def look_for_table(
    bundle: Bundle, request: TableRequest, graph: ir.Graph, *, target: Target | None = None, on_step: OnStep = ignore_step
) -> FoundTable | ToMeasure:
    """Return the table `request` stands for where it exists, else what it is to be measured on; `graph` is the fp32 one.

    Pictures that were hashed before are not decoded. With a `target` a table counts that holds what this target needs; else only
    one that holds what every target needs.

    Raises:
        DatasetError, UserError: as `find_table` does.
    """
    if request.calib.endswith(".json"):
        _refuse_sampling(request, "a calibration table")
        given = read_table(Path(request.calib))
        _check_equalized(given, request, request.calib)
        _check_mixed(given, request, request.calib)
        return FoundTable(given, f"read from {request.calib}", ())
    scale = bundle.manifest.scale
    try:
        images = find_images(request.calib, scale=scale, use="calibration", root=request.root)
    except MissingDatasetError as missing:
        if request.root is not None:
            raise  # whoever names a folder means the pictures in it
        return _shipped(request, graph_fingerprint(graph), scale, missing)
    contract = bundle.manifest.contract
    fixed = contract.static_picture_size(scale=scale)
    if fixed is not None and request.crop_size not in (None, fixed):
        raise UserError(f"this graph takes {fixed[0]}x{fixed[1]} pictures only, so crops have that size", hint="drop --crop-size")
    source, crops = read_crops(
        images,
        scale=scale,
        contract=contract,
        crops=request.crops or CROPS,
        crop_size=fixed or request.crop_size or request.usual_crop_size,
        seed=request.seed or 0,
        on_step=on_step,
    )
    enough = len(source.images) >= _MANY
    if not (enough and request.choose_rewrites):
        request = replace(request, equalize=bool(request.equalize), mix=enough if request.mix is None else request.mix)
    origin = f"{len(source.images)} pictures of {images.name}, {source.crops} crops{', equalized' if request.equalize else ''}"
    targets = TARGETS if target is None else (target,)
    table = None if request.measure_again else _reusable(bundle, graph, source, request, targets)
    return (
        ToMeasure(images, source, crops, origin, request)
        if table is None
        else FoundTable(table, f"{origin}, measured before", crops)
    )


def measure_table(model: ir.Model, missing: ToMeasure, *, on_step: OnStep) -> FoundTable:
    """Measure the table that `missing` describes; channels of `model`, the fp32 graph, are mixed and equalized in place."""
    table = _measure(model, missing.crops, missing.source, missing.request, on_step=on_step)
    return FoundTable(table, missing.origin, missing.crops)


def _measure(
    model: ir.Model,
    crops: Sequence[NDArray[np.float32]],
    source: CalibrationSource,
    request: TableRequest,
    *,
    on_step: OnStep,
) -> CalibrationTable:
    """Measure `model`, its channels first mixed and equalized in place where that was asked for, on some of the crops."""
    tensors = observed_tensors(model.graph)
    fingerprint = graph_fingerprint(model.graph)
    mixing: Matrices | None = None
    scales: Scales | None = None
    if request.mix:
        on_step("mixing", 0, 1)
        mixing = choose_matrices(model, crops[::_MIXED_ON_EVERY])
        mix_channels(model.graph, mixing)
    if request.equalize:
        few = crops[::_EQUALIZED_ON_EVERY]
        scales = choose_scales(model.graph, measure_channels(model, iter(few), tensors=tensors))
        equalize(model.graph, scales)
    rewritten = Rewritten(fingerprint, mixing, scales)
    return measure_activations(
        model, iter(crops), tensors=tensors, source=source, percentile=request.percentile, rewritten=rewritten, on_step=on_step
    )


def _reusable(
    bundle: Bundle, graph: ir.Graph, source: CalibrationSource, request: TableRequest, targets: Sequence[Target]
) -> CalibrationTable | None:
    """Return the bundle's table, if it has one, that measuring again would give; it holds what `targets` need."""
    current = [variant for variant in bundle.manifest.variants if variant.precision == "int8" and variant.tools == current_tools()]
    for part in dict.fromkeys(variant.calibration for variant in current if variant.calibration is not None):
        table = read_table(bundle.path(part))
        same = (
            table.source == source
            and table.graph_fingerprint == graph_fingerprint(graph)
            and holds_percentiles(table, request.percentile)
            and table.rewrites_chosen == (None in (request.mix, request.equalize))
            and request.mix in (None, table.mixing is not None)
            and request.equalize in (None, table.equalization is not None)
        )
        if same and table.tensors.keys() >= set(observed_tensors(graph, targets)):
            return table
    return None


def _shipped(request: TableRequest, fingerprint: str, scale: float, missing: MissingDatasetError) -> FoundTable:
    table = find_shipped_table(fingerprint=fingerprint, dataset=request.calib.lower())
    if table is None:
        count, fetch = ("three", "--download to fetch it; ") if can_download(request.calib, scale=scale) else ("two", "")
        raise DatasetError(
            f"{missing}; and no table of it ships for these weights",
            hint=(
                f"{count} ways to provide pictures: --data FOLDER (or SREDGE_DATA=FOLDER) holding the data set; "
                f"{fetch}--calib FOLDER with pictures of your own (--calib samples for scikit-image's)"
            ),
        ) from missing
    _refuse_sampling(request, "the table that ships with these weights")
    _check_equalized(table, request, "the table that ships with these weights")
    origin = (
        f"the table that ships with these weights, measured on {len(table.source.images)} pictures of {table.source.dataset} "
        "(the pictures are not on this machine)"
    )
    return FoundTable(table, origin, ())


def _check_mixed(table: CalibrationTable, request: TableRequest, what: str) -> None:
    if request.mix is False and table.mixing:
        raise UserError(f"{what} was measured on a graph whose channels were mixed", hint="drop --without mix-channels")


def _check_equalized(table: CalibrationTable, request: TableRequest, what: str) -> None:
    if request.equalize is not None and (table.equalization is not None) != request.equalize:
        was, hint = ("not ", "drop") if request.equalize else ("", "add")
        raise UserError(f"{what} was measured on a graph that was {was}equalized", hint=f"{hint} --equalize")


def _refuse_sampling(request: TableRequest, what: str) -> None:
    options = {"--crops": request.crops, "--crop-size": request.crop_size, "--seed": request.seed}
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UserError(f"{given[0]} has no effect on {what}, which is measured already", hint=f"drop {given[0]}")
