"""Find the layers to keep in float for a bundle: a budget in dB in, the fastest mix within it out.

What was measured stays in the bundle's reports, and the next search goes on from there.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.pairs import ImageSet
from calibration.table import CalibrationTable, write_table
from quantize.graph.qdq import RoundedWeight
from quantize.options import Int8Options
from quantize.records import current_tools, recorded_options
from quantize.search.choose import Budget, Lifted, choose_lifted
from quantize.search.held_back import hold_back
from quantize.search.result import HeldBack, SearchState, Timing, Trial, lifted_key, read_state, write_state
from quantize.search.trials import WARM_UP, N, Subject, Trials
from runtime.bundle import REPORTS, Bundle, check_writable, sha256_bytes
from runtime.errors import UserError
from runtime.verify.pairs import backend_for

_TIMED_SIDE = 128  # pixels of the low-resolution picture that is timed, as `python -m benchmarks` times it
OnStep = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are done, and of how many."""


@dataclass(frozen=True)
class SearchRequest:
    """What to search with.

    Attributes:
        images: that the table was measured on; crops of pictures it was not measured on are held back.
        crops: what weights are rounded on.
        backend: what runs and times, "auto" for the target's own.
        measure_again: whatever was measured before.
    """

    images: ImageSet
    table: CalibrationTable
    options: Int8Options
    crops: Sequence[NDArray[np.float32]]
    backend: str
    budget: Budget
    measure_again: bool = False


@dataclass(frozen=True)
class Found:
    """The trial that was chosen, all that was measured, how many trials of it now, and weights where they were rounded now."""

    chosen: Trial
    state: SearchState
    tried_now: int
    rounded: Mapping[str, RoundedWeight] | None


def state_file(bundle: Bundle, target: str) -> Path:
    return bundle.directory / REPORTS / f"search-{target}.json"


def search_bundle(bundle: Bundle, model: onnx.ModelProto, request: SearchRequest, *, on_step: OnStep) -> Found:
    """Return the mix of int8 and float of least measured latency within the budget; nothing that was measured before is measured
    again.

    Args:
        model: the bundle's fp32 graph.

    Raises:
        UserError: the budget cannot be met, or the target has no float.
        DatasetError: no pictures to hold back.
        BackendError: the backend cannot run the graph.
    """
    manifest, target = bundle.manifest, request.options.target
    if target.everything_int8:
        raise UserError(f"target {target.name} runs everything in int8: no layer can be kept in float", hint="drop --max-drop-db")
    check_writable(bundle.directory / REPORTS)
    backend = backend_for(target, request.backend)
    held_back, crops = hold_back(
        request.images,
        request.table.source,
        scale=manifest.scale,
        contract=manifest.contract,
        on_step=lambda done, total: on_step("holding pictures back", done, total),
    )
    size = manifest.contract.filled_size(manifest.contract.input_size((_TIMED_SIDE, _TIMED_SIDE), scale=manifest.scale))
    timing = Timing(shape=(1, manifest.contract.channels, *size), warm_up=WARM_UP, n=N)
    version = " ".join(f"{name} {metadata.version(name)}" for name in backend.packages)
    key = _key(bundle, request, held_back, timing, version=version)
    file = state_file(bundle, target.name)
    state = SearchState(key=key, target=target.name, backend=backend.name, held_back=held_back, timing=timing)
    if not request.measure_again:
        earlier = read_state(file)
        state = earlier if earlier is not None and earlier.key == key else state
    subject = Subject(manifest, model, request.table, request.options, request.crops, crops, backend.name, timing)
    with Trials(subject, on_step=on_step) as trials:
        memory = _Memory(file, state, trials, on_step, forget=request.measure_again)
        chosen = choose_lifted(trials.costs, request.budget, noise=memory.noise, attempt=memory.attempt, fit=memory.fit)
        rounded = trials.rounded.get(frozenset(chosen.lifted))
        return Found(chosen, memory.state, len(memory.state.trials) - len(state.trials), rounded)


class _Memory:
    """Measures what was not measured before, and writes it down at once: a search that was killed goes on where it was.

    Where it is to `forget`, the first result replaces what earlier searches wrote.
    """

    def __init__(self, file: Path, state: SearchState, trials: Trials, on_step: OnStep, *, forget: bool) -> None:
        self.state = state
        self._forget = forget
        self._file = file
        self._trials = trials
        self._on_step = on_step

    def noise(self, lifted: Lifted) -> float:
        known, name = self.state.noise, lifted_key(lifted)
        if name not in known:
            self._on_step("sensitivity of layers", len(known), max(len(known), len(self._trials.costs)) + 1)
            self._note({"noise": {**known, name: self._trials.noise(lifted)}})
        return self.state.noise[name]

    def attempt(self, lifted: Lifted) -> Trial:
        return self._measured(lifted, fitted=False)

    def fit(self, lifted: Lifted) -> Trial:
        return self._measured(lifted, fitted=self._trials.learns)

    def _measured(self, lifted: Lifted, *, fitted: bool) -> Trial:
        for trial in self.state.trials:
            if (frozenset(trial.lifted), trial.fitted) == (lifted, fitted):
                return trial
        self._on_step(f"{'fitting' if fitted else 'trying'} {len(lifted)} kept in float", 0, 1)
        trial = self._trials.measure(lifted, fitted=fitted)
        self._note({"trials": (*self.state.trials, trial)})
        return trial

    def _note(self, changed: Mapping[str, object]) -> None:
        self.state = self.state.model_copy(update=changed)
        write_state(self._file, self.state, replace=self._forget)
        self._forget = False


def _key(bundle: Bundle, request: SearchRequest, held_back: HeldBack, timing: Timing, *, version: str) -> str:
    """Hash all that the figures depend on, this machine included; not the budget."""
    parts = [
        bundle.variant("fp32").sha256,
        recorded_options(request.options),
        sha256_bytes(write_table(request.table)),
        request.options.target.name,
        bool(request.crops),
        held_back.model_dump(mode="json"),
        timing.model_dump(mode="json"),
        version,
        current_tools(),
        list(platform.uname()),
    ]
    return sha256_bytes(json.dumps(parts).encode())
