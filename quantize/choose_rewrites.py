"""Choose the exact rewrites of a network that int8 errs least with: an fp32 graph, crops and pictures in, a calibration table out.

Mixing channels and scaling them alike leave what the network computes in float as it is, and change what int8 makes of it, for
better or worse. So the network is quantized with each combination of them, on the crops of three quarters of the pictures (layers
rounded one by one, nothing distilled), and runs on the others. With g the gain of a combination on each of n held-back pictures,
in dB of PSNR against fp32's output, over what is done where nothing is chosen, a combination counts as better where

    mean(g) > std(g) / sqrt(n)

and the table is measured on all crops, with the best one that counts, else with what is done where nothing is chosen. Against the
truth nothing could be told: where fp32 itself is 27 dB from it, int8's part is a thousandth of a dB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.crops import hold_back, without_held_back
from calibration.steps import OnStep, ignore_step
from calibration.table import CalibrationTable
from export.graph.serialized import serialize
from quantize.int8 import quantize_int8
from quantize.options import Effort, Int8Options
from quantize.search.held_back import hold_back as hold_back_pictures
from quantize.tables import FoundTable, ToMeasure, measure_table
from runtime.backends import Backend, open_backend
from runtime.bundle import Manifest
from runtime.quality import psnr_of
from runtime.targets import Precision

Rewrites = tuple[bool, bool]
"""Whether channels are mixed, and whether they are then scaled alike."""
Picture = Sequence[NDArray[np.float32]]
"""Crops of one picture, (1, C, H, W) float32 in [0, 1] each."""
_LEAST_ERROR = 1e-12  # stands for none


def measure_rewritten(
    model: onnx.ModelProto, missing: ToMeasure, options: Int8Options, *, manifest: Manifest, on_step: OnStep
) -> FoundTable:
    """Measure the table that `missing` describes, of `model` rewritten as was asked for, or by what errs least.

    Raises:
        DatasetError: no held-back picture is large enough.
    """
    choices = _choices(missing)
    if len(choices) == 1:
        return measure_table(ir.from_proto(model), missing, on_step=on_step)
    judged_on = _held_back(missing, manifest, on_step=on_step)
    wanted = _run(model, "fp32", judged_on)
    psnrs_db = {}
    learned_on = replace(
        missing, crops=hold_back(missing.crops, missing.source).learned_on, source=without_held_back(missing.source)
    )
    for index, (choice, table) in enumerate(_tables(model, learned_on, choices).items()):
        on_step("choosing rewrites", index, len(choices))
        made = quantize_int8(model, table, replace(options, effort=Effort.BALANCED), crops=learned_on.crops)
        psnrs_db[choice] = _psnrs_db(_run(made.model, "int8", judged_on), wanted)
    chosen = choose(psnrs_db)
    found = measure_table(ir.from_proto(model), _asking(missing, chosen), on_step=on_step)
    done = (found.table.mixing, found.table.equalization)
    described = [name for name, matrices in zip(("channels mixed", "equalized"), done, strict=True) if matrices]
    origin = f"{found.origin}, {' and '.join(described) or 'as it is'}: the best on {len(judged_on)} held-back pictures"
    return replace(found, table=found.table.model_copy(update={"rewrites_chosen": True}), origin=origin)


def choose(psnrs_db: Mapping[Rewrites, NDArray[np.float64]]) -> Rewrites:
    """Return the rewrites of the highest PSNR, (n) picture by picture, that count as better than the first; else the first."""
    usual, *others = psnrs_db
    gains = {one: psnrs_db[one] - psnrs_db[usual] for one in others}
    better = [one for one, gain in gains.items() if gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain))]
    return max(better, key=lambda one: float(gains[one].mean()), default=usual)


def _choices(missing: ToMeasure) -> list[Rewrites]:
    """Return the combinations of what was neither asked for nor refused; what is done where nothing is chosen first."""
    request = missing.request
    mixes = (True, False) if request.mix is None else (request.mix,)
    equalizations = (False, True) if request.equalize is None else (request.equalize,)
    return list(product(mixes, equalizations))


def _tables(model: onnx.ModelProto, learned_on: ToMeasure, choices: Sequence[Rewrites]) -> dict[Rewrites, CalibrationTable]:
    """Measure a table for each of `choices`; none where one before it rewrites the network alike."""
    tables: dict[Rewrites, CalibrationTable] = {}
    for choice in choices:
        table = measure_table(ir.from_proto(model), _asking(learned_on, choice), on_step=ignore_step).table
        if all(
            (one.mixing or {}, one.equalization or {}) != (table.mixing or {}, table.equalization or {}) for one in tables.values()
        ):
            tables[choice] = table
    return tables


def _asking(missing: ToMeasure, choice: Rewrites) -> ToMeasure:
    return replace(missing, request=replace(missing.request, mix=choice[0], equalize=choice[1]))


def _held_back(missing: ToMeasure, manifest: Manifest, *, on_step: OnStep) -> list[Picture]:
    _, pictures = hold_back_pictures(
        missing.images,
        without_held_back(missing.source),
        scale=manifest.scale,
        contract=manifest.contract,
        on_step=lambda done, total: on_step("holding pictures back", done, total),
    )
    return [[crop.given for crop in crops] for crops in pictures]


def _run(model: onnx.ModelProto, precision: Precision, pictures: Sequence[Picture]) -> list[Picture]:
    with open_backend("onnxruntime", serialize(model), precision=precision, spinning=False) as backend:
        return [[_clipped(backend, crop) for crop in crops] for crops in pictures]


def _clipped(backend: Backend, crop: NDArray[np.float32]) -> NDArray[np.float32]:
    return backend.run(crop).clip(0, 1)


def _psnrs_db(made: Sequence[Picture], wanted: Sequence[Picture]) -> NDArray[np.float64]:
    """Return the PSNR of each picture, (n), from the mean squared errors of its crops."""
    errors = [
        [float(np.square(one - other, dtype=np.float64).mean()) for one, other in zip(crops, exact, strict=True)]
        for crops, exact in zip(made, wanted, strict=True)
    ]
    return np.array([psnr_of(max(float(np.mean(one)), _LEAST_ERROR), peak=1) for one in errors])
