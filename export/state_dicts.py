"""Find the state dict in what a checkpoint file holds.

Some files are one: tensors by key. Others hold it as "state_dict", "params_ema" or "generator", beside an optimizer's state or
another network's, and some have keys that begin with "module.", which torch's DataParallel puts there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

StateDict = dict[str, Tensor]

_PARALLEL = "module."
_AVERAGED = "params_ema"  # BasicSR stores the averaged weights, which its authors evaluate, beside the last ones
_COUNTER = "num_batches_tracked"
_DEEPEST = 3  # levels of dictionaries that are looked into


def find_state_dicts(loaded: Mapping[Any, Any]) -> dict[str, StateDict]:
    """Return every state dict in `loaded`, "module." removed from its keys, by where it is: "" for the whole, "model.generator"."""
    found: dict[str, StateDict] = {}
    level: dict[str, Mapping[Any, Any]] = {"": loaded}
    for _ in range(_DEEPEST):
        below: dict[str, Mapping[Any, Any]] = {}
        for place, content in level.items():
            if content and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
                found[place] = _without_prefix(content)
            else:
                inner = {key: value for key, value in content.items() if isinstance(value, Mapping)}
                below |= {f"{place}.{key}" if place else str(key): value for key, value in inner.items()}
        level = below
    return found


def best_fitting(found: Mapping[str, StateDict], count_fitting: Callable[[StateDict], int]) -> list[str]:
    """Return where the state dicts are of which the most tensors fit; the averaged one alone where it is among them."""
    counts = {place: count_fitting(state) for place, state in found.items()}
    best = [place for place, count in counts.items() if count == max(counts.values())]
    averaged = [place for place in best if place.rpartition(".")[2] == _AVERAGED]
    return averaged or best


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor, less batch normalisation's counters, which only training reads and old checkpoints lack."""
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith(_COUNTER)}


def _without_prefix(state: Mapping[str, Tensor]) -> StateDict:
    prefixed = all(key.startswith(_PARALLEL) for key in state)
    return {key.removeprefix(_PARALLEL) if prefixed else key: value for key, value in state.items()}
