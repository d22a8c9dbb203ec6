"""Compare a backend with a simulation on one small picture: a graph and a backend in; a PSNR, and whether it passes, out.

What sredge calls verified has passed: its values were compared, and not its layers' precisions alone.

A backend fuses and reorders operators, and may get that wrong for one network and not for the next; the precision that its layers
ran in does not tell. The simulation runs each operator as ONNX defines it, one after the other. With y what the backend gives and
s what the simulation gives,

    PSNR = 10 log10(p² / mean((y - s)²)),    p = max(1, max s - min s)

An fp32 or half-precision graph passes at 40 dB or more. In int8 a sum that is rounded otherwise moves a code by one here and
there, and the layers behind carry that on; right backends differ from the simulation by no more than two independent roundings
differ. An int8 graph passes at clip(e - 3, 25, 40) dB or more, e being the simulation's PSNR against fp32. Wrong backends gave 6
to 31 dB (`python -m benchmarks.faithfulness`).

A graph in half precision is held against the fp32 graph it was made from: the simulation cannot run bfloat16, and keeps float32
between operators of float16, so that it would not show an overflow of float16.
"""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import platformdirs
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from ..backends import BACKENDS, Backend
from ..backends.compiled_engines import prebuilt_plan
from ..backends.processor import describe_processor
from ..bundle import ENGINES, Bundle, Contract, Io, Noun, Variant, sha256_bytes
from ..errors import BackendError, UnknownNameError
from ..files.regular import read_regular
from ..files.whole import replace_file
from ..pictures.pixels import Picture, to_floats
from ..quality import psnr_of
from ..targets import Precision

Verify = Literal["once", "always", "never"]
"""When values are checked: at the first opening on a machine, at every one, or at none."""
VERIFY: tuple[Verify, ...] = get_args(Verify)

TOLERANCE_DB = 40.0
"""The least PSNR of a graph in fp32, fp16 or bf16, and the most that is asked of int8. bf16 arithmetic gives 50 dB and more."""
_INDEPENDENT_DB = 3.0  # what two independent errors differ by has twice the power of one
_LEAST_DB = 25.0  # of int8, however large its own error is

Floats = NDArray[np.float64]

_log = logging.getLogger(__name__)
_SIZE = (48, 64)  # (H, W) of the picture: multiples of 16 for graphs that halve, and no square, so that a transposition shows
_LARGEST_RECORD = 1 << 12  # bytes
_EQUAL_DB, _EQUAL = 200.0, 1e-20  # what stands for no difference: float32 itself is within 150 dB


class ValueCheck(Noun):
    """What the check of one graph on one backend gave: dB between backend and simulation (200 where they are equal), and the least
    that is expected of it."""

    psnr_db: float = Field(allow_inf_nan=False)
    expected_db: float = Field(allow_inf_nan=False)

    @property
    def passed(self) -> bool:
        return self.psnr_db >= self.expected_db

    def __str__(self) -> str:
        return f"{self.psnr_db:.1f} dB from the graph simulated, expected {self.expected_db:.1f} dB or more"


def find_verify(name: str) -> Verify:
    """Return `name` as when to check values; UnknownNameError lists the valid ones."""
    for verify in VERIFY:
        if verify == name:
            return verify
    raise UnknownNameError("--verify", name, valid=VERIFY)


def check_values(
    backend: Backend, bundle: Bundle, variant: Variant, *, verify: Verify, cache: Path | None, device: str | None
) -> ValueCheck | None:
    """Check `variant`, opened on `backend`; what was found on this machine before is not measured again where `verify` is "once".

    Args:
        cache: the folder where results are remembered; None takes sredge's own in the user's cache folder.

    Returns:
        None where `verify` is "never".

    Raises:
        BackendError: the backend gives something else than the graph says; or cannot run it.
    """
    if verify == "never":
        return None
    folder = (platformdirs.user_cache_path("sredge") if cache is None else cache) / "verified"
    record = folder / f"{_key(backend, bundle, variant, device=device)}.json"
    check = _remembered(record) if verify == "once" else None
    if check is None:
        exact = bundle.manifest.find_variant("fp32")
        graphs = bundle.read(variant), None if exact is None else bundle.read(exact)
        check = measure_values(backend, *graphs, bundle.manifest.contract, precision=variant.precision, io=variant.io)
        _remember(record, check)
    if not check.passed:
        raise BackendError(
            f"{backend.name} computes {variant.file} wrongly: {check}",
            hint="another backend (--backend), or --verify never to see what it gives",
        )
    return check


def measure_values(
    backend: Backend, graph: bytes, fp32: bytes | None, contract: Contract, *, precision: Precision, io: Io = "float32"
) -> ValueCheck:
    """Run the small picture through `backend`, which has `graph` open, and through the simulation.

    Args:
        fp32: the graph of floats that `graph` was made from, or itself; without it the least is expected of int8.
        precision, io: of `graph`.

    Raises:
        BackendError: one of the two cannot run it, or they give other shapes.
    """
    size = contract.filled_size(_SIZE)
    planes = check_picture(size if backend.limits is None else backend.limits.window(size))[..., : contract.channels]
    pixels, floats = planes[np.newaxis], to_floats(planes)
    given = _as_floats(backend.run(pixels) if io == "uint8" else backend.run(floats))
    exact = None if fp32 is None else _run_as_written(fp32, floats)
    if precision in ("fp16", "bf16") and exact is not None:
        simulated = exact if io == "float32" else exact.clip(0, 1)
    else:
        simulated = _run_as_written(graph, pixels if io == "uint8" else floats)
    if given.shape != simulated.shape:
        raise BackendError(f"{backend.name} gives {given.shape} where the graph gives {simulated.shape}")
    expected_db = TOLERANCE_DB if precision != "int8" else _LEAST_DB
    if precision == "int8" and exact is not None:
        own_error_db = psnr_db(simulated.clip(0, 1), exact.clip(0, 1))  # an int8 output holds a picture's values and no others
        expected_db = min(max(own_error_db - _INDEPENDENT_DB, _LEAST_DB), TOLERANCE_DB)
    return ValueCheck(psnr_db=round(psnr_db(given, simulated), 1), expected_db=round(expected_db, 1))


def psnr_db(given: Floats, wanted: Floats) -> float:
    """As at the top of this file; 0 where `given` holds NaN or infinity."""
    peak = max(1.0, float(wanted.max() - wanted.min()))
    error = float(np.mean(np.square((given - wanted) / peak)))
    return min(psnr_of(max(error, _EQUAL)), _EQUAL_DB) if np.isfinite(error) else 0.0


def _run_as_written(graph: bytes, array: NDArray[np.float32] | NDArray[np.uint8]) -> Floats:
    backend = importlib.import_module("..backends.onnxruntime", __package__)  # loaded where it is needed alone
    return _as_floats(backend.run_as_written(graph, array))


def _as_floats(output: NDArray[np.float32] | NDArray[np.uint8]) -> Floats:
    """(N, C, H, W) float64, of raw pixels too."""
    if output.dtype == np.uint8:
        return np.asarray(output.transpose(0, 3, 1, 2) / 255, np.float64)
    return output.astype(np.float64)


def check_picture(size: tuple[int, int]) -> Picture:
    """(H, W, 3): gradients, waves, squares with sharp edges and noise, of every brightness; the same for the same size."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    smooth = np.stack([rows / size[0], columns / size[1], 0.5 + 0.5 * np.sin((rows + 2 * columns) * 0.35)], axis=-1)
    squares = np.where((rows // 8 + columns // 8) % 2 == 0, 0.12, -0.12)[..., np.newaxis]
    noise = np.random.default_rng(0).normal(0, 0.04, (*size, 3))
    levels = (0.2 + 0.6 * smooth + squares + noise).clip(0, 1) * 255
    return levels.round().astype(np.uint8)


def _key(backend: Backend, bundle: Bundle, variant: Variant, *, device: str | None) -> str:
    """Hash all that the result depends on."""
    entry = next(entry for entry in BACKENDS if entry.name == backend.name)
    versions = [str(getattr(sys.modules.get(name), "__version__", "")) for name in entry.packages]
    plan = ""
    if entry.prebuilt:
        engines = bundle.directory / ENGINES
        found = prebuilt_plan(engines, entry.name, graph_sha256=variant.sha256, precision=variant.precision, io=variant.io)
        plan = found.sha256
    parts = (variant.sha256, entry.name, *versions, device or "", plan, *describe_processor())
    return sha256_bytes("\0".join(parts).encode())


def _remembered(record: Path) -> ValueCheck | None:
    """Return what is in the file; None where there is none that can be read."""
    try:
        return ValueCheck.model_validate_json(read_regular(record, most_bytes=_LARGEST_RECORD))
    except (OSError, ValidationError):
        return None


def _remember(record: Path, check: ValueCheck) -> None:
    """Write the file; where that cannot be, the next start measures again."""
    try:
        replace_file(record, check.model_dump_json().encode())
    except OSError as error:
        _log.info("%s cannot be written (%s): values are checked again at the next start", record, error)
