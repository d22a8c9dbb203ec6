"""What a search for layers to keep in float tried and found, as data: a search resumes from it, and its table is made from it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, ValidationError

from calibration.table import CalibrationImage
from quantize.reports import unwritable, write_report
from runtime.bundle import Noun, Sha256
from runtime.files.lock import locked
from runtime.files.regular import read_regular

_MOST_BYTES = 64 << 20  # of a search that tried thousands of graphs


class HeldBack(Noun):
    """The crops that drops are measured on."""

    dataset: str
    images: tuple[CalibrationImage, ...]
    are_other_pictures: bool
    """Ranges and weights were not chosen on these pictures; else they were, on other crops of them."""
    crops: int
    crop_size: tuple[int, int]
    """The size of the low-resolution crop, before it is enlarged for a network that takes an enlarged picture."""
    seed: int


class Timing(Noun):
    """How latency is taken: runs of each graph in turn, and medians, on the backend's own number of threads."""

    shape: tuple[int, int, int, int]
    warm_up: int
    n: int


class Trial(Noun):
    """One graph that was written, run and timed."""

    lifted: tuple[str, ...]
    """Layers left in float, in the order the network runs them."""
    fitted: bool = False
    """Weights were rounded for what is kept in float; else they are those of everything in int8."""
    sha256: Sha256
    int8_mac_share: float
    drop_db: float
    """Mean over the held-back pictures of fp32's PSNR less its own; negative where int8 happens to be nearer the truth."""
    p50_ms: float
    int8_p50_ms: float
    """The median of the graph with nothing kept in float, timed in turn with this one."""
    fp32_p50_ms: float
    """The median of the fp32 graph, timed in turn with this one."""
    times_int8: float
    """The median over turns of this one's latency over that of the graph with nothing kept in float in the same turn."""

    @property
    def cost(self) -> float:
        """What trials of different minutes, and on a busy machine, are compared by."""
        return self.times_int8


class SearchState(Noun):
    """All that was measured; `key` is a hash of everything it depends on."""

    key: Sha256
    target: str
    backend: str
    held_back: HeldBack
    timing: Timing
    noise: dict[str, float] = Field(default_factory=dict)
    """Mean square of the output's error against fp32, integers simulated, by what is kept in float (named by `lifted_key`)."""
    trials: tuple[Trial, ...] = ()


def read_state(file: Path) -> SearchState | None:
    """Return what a search wrote; None where there is no such file, or nothing that one could have written."""
    try:
        return SearchState.model_validate_json(read_regular(file, most_bytes=_MOST_BYTES))
    except (OSError, ValidationError):
        return None


def write_state(file: Path, state: SearchState, *, replace: bool = False) -> None:
    """Write `state` and, unless it is to `replace` that, what another search of the same key has written meanwhile.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with locked(file.parent):
            other = None if replace else read_state(file)
            if other is not None and other.key == state.key:
                own = {(trial.lifted, trial.fitted) for trial in state.trials}
                trials = (*(trial for trial in other.trials if (trial.lifted, trial.fitted) not in own), *state.trials)
                state = state.model_copy(update={"noise": {**other.noise, **state.noise}, "trials": trials})
            write_report(file, state.model_dump_json(indent=1).encode() + b"\n")
    except OSError as error:
        raise unwritable(file, error) from error


def lifted_key(lifted: Iterable[str]) -> str:
    return json.dumps(sorted(lifted))


def pareto_front(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials that none of the others beats in drop and in cost at once, the fastest first.

    Where several trials keep the same in float, the last one counts.
    """
    front: list[Trial] = []
    last = {trial.lifted: trial for trial in trials}
    for trial in sorted(last.values(), key=lambda trial: (trial.cost, trial.drop_db)):
        if not front or trial.drop_db < front[-1].drop_db:
            front.append(trial)
    return front
