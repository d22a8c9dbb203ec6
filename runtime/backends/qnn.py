"""Run context binaries for Qualcomm's Hexagon NPU: an engine that `python -m export.engine --for qnn` compiled, arrays out.

On a Snapdragon the NPU runs them; on x86 Qualcomm's emulator does, for the NPU's values and not its time.
"""

from __future__ import annotations

import io
import logging
import zipfile
from threading import BoundedSemaphore
from types import TracebackType

import onnxruntime as ort
from numpy.typing import NDArray
from typing_extensions import Self

from ..bundle import sha256_bytes
from ..errors import BackendError
from ..targets import Precision
from . import EMULATED, choose_entry
from .backend import BackendOptions, LayerPrecision, Values
from .compiled_engines import CompiledRecord, find_compiled, read_compiled_plan
from .engines import build_command
from .native_output import quietly
from .qnn_library import htp_options, version

_NAME = "qnn"
_log = logging.getLogger(__name__)


def open_graph(graph: bytes, *, precision: Precision, options: BackendOptions) -> QnnBackend:
    """Open the engine of `graph` in the folder that `options` name; the device is an architecture of it, "v73", or any."""
    if options.engines is None:
        raise BackendError(
            f"{_NAME} runs engines, which a packed bundle has not",
            hint=f"python -m zipfile -e FILE FOLDER, then python -m export.engine FOLDER --for {_NAME}",
        )
    record = find_compiled(options.engines, _NAME, graph_sha256=sha256_bytes(graph), precision=precision, io=options.io)
    built_for = record.key.architectures
    if options.device not in (None, *built_for):
        again = build_command(options.engines.parent, compiler=_NAME, precision=precision, io=options.io)
        raise BackendError(
            f"this engine was compiled for {', '.join(built_for)}, not for {options.device}",
            hint=f"--device with one of those, or {again} --architecture {options.device}",
        )
    if choose_entry(_NAME).emulated:
        _log.warning("%s: %s", _NAME, EMULATED)
    contexts = _contexts(read_compiled_plan(options.engines, record), built_for)
    wanted = contexts if options.device is None else {options.device: contexts[options.device]}
    return QnnBackend(_open(wanted), record, parallel=options.parallel)


class QnnBackend:
    """See `runtime.backends.backend.Backend`."""

    name = _NAME

    def __init__(self, session: ort.InferenceSession, record: CompiledRecord, *, parallel: int) -> None:
        assert record.key.profile is not None  # this compiler's engines have one size
        self.limits = record.key.profile.limits
        self._session = session
        self._record = record
        self._free_places = BoundedSemaphore(parallel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del self._session

    def run(self, array: NDArray[Values]) -> NDArray[Values]:
        with self._free_places:
            try:
                outputs: list[NDArray[Values]] = self._session.run(None, {self._session.get_inputs()[0].name: array})
            except Exception as error:  # its own exceptions have no base but this
                raise BackendError(f"QNN {version()} cannot run {array.shape}: {str(error).splitlines()[0]}") from error
        return outputs[0]

    def precisions(self) -> tuple[LayerPrecision, ...]:
        """What the compiler said when the engine was compiled."""
        return self._record.precisions


def _contexts(plan: bytes, architectures: tuple[str, ...]) -> dict[str, bytes]:
    """Return the context model of each architecture, the latest first."""
    if len(architectures) == 1:
        return {architectures[0]: plan}
    try:
        with zipfile.ZipFile(io.BytesIO(plan)) as archive:
            files = {name: archive.getinfo(f"{name}.onnx") for name in sorted(architectures, reverse=True)}
            if sum(file.file_size for file in files.values()) > len(plan):  # they are stored as they are
                raise zipfile.BadZipFile("its files are larger than it is")
            return {name: archive.read(file) for name, file in files.items()}
    except (zipfile.BadZipFile, KeyError, NotImplementedError) as error:
        raise BackendError(f"the engine is no archive of {', '.join(architectures)}: {error}", hint="build it again") from error


def _open(contexts: dict[str, bytes]) -> ort.InferenceSession:
    """Open the first that this NPU takes: it knows no other way to tell which architecture it is."""
    reasons = []
    for architecture, context in contexts.items():
        try:
            with quietly(1, noise=b" # LIBNATIVE"):
                return ort.InferenceSession(context, htp_options())
        except Exception as error:  # noqa: BLE001 # its own exceptions have no base but this; raised below
            reasons.append(f"{architecture}: {str(error).splitlines()[0]}")
    raise BackendError(f"QNN {version()} cannot open this engine: {'; '.join(reasons)}")
