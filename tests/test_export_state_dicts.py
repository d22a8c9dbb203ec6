"""State dicts in what a checkpoint file holds: found wherever they are, told from what is beside them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from export.state_dicts import StateDict, best_fitting, find_state_dicts, shapes_of


def _state(channels: int = 3) -> StateDict:
    return {"conv.weight": torch.ones(channels, 1, 3, 3), "conv.bias": torch.zeros(channels)}


def _fitting(state: StateDict) -> int:
    return sum(value.shape[0] == 3 for value in state.values())


def _same(found: StateDict, expected: StateDict) -> bool:
    return found.keys() == expected.keys() and all(found[key] is value for key, value in expected.items())


@pytest.mark.parametrize(
    ("loaded", "place"),
    [
        (state := _state(), ""),
        ({"params": state, "iteration": 3}, "params"),
        ({"model": {"generator": state, "name": "net"}, "loss": torch.zeros(1)}, "model.generator"),
        ({"optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "model": state}, "model"),
    ],
    ids=["whole", "params", "two levels down", "beside an optimizer"],
)
def test_a_state_dict_is_found_with_its_place(loaded: dict[str, object], place: str) -> None:
    found = find_state_dicts(loaded)
    assert list(found) == [place]
    assert found[place].keys() == _state().keys()


@pytest.mark.parametrize("loaded", [{}, {"epoch": 3}, {"weight": torch.zeros(1), "epoch": 3}, {3: torch.zeros(1)}], ids=str)
def test_where_there_is_no_state_dict_none_is_found(loaded: dict[object, object]) -> None:
    assert find_state_dicts(loaded) == {}


def test_a_dictionary_that_holds_itself_is_not_looked_into_for_ever() -> None:
    loaded: dict[str, object] = {"epoch": 3}
    loaded["again"] = loaded
    assert find_state_dicts(loaded) == {}


def test_the_prefix_of_parallel_training_is_removed() -> None:
    expected = _state()
    assert _same(find_state_dicts({f"module.{key}": value for key, value in expected.items()})[""], expected)


def test_a_key_that_begins_like_that_beside_others_that_do_not_is_kept() -> None:
    mixed: dict[str, Tensor] = {"module.weight": torch.zeros(1), "weight": torch.zeros(1)}
    assert find_state_dicts(mixed)[""].keys() == mixed.keys()


def test_of_several_the_one_that_fits_is_best() -> None:
    assert best_fitting({"discriminator": _state(5), "generator": _state(3)}, _fitting) == ["generator"]


def test_of_the_last_and_the_averaged_weights_the_averaged_are_best() -> None:
    assert best_fitting({"params": _state(), "params_ema": _state()}, _fitting) == ["params_ema"]


def test_averaged_weights_that_do_not_fit_are_not_best() -> None:
    assert best_fitting({"params": _state(3), "params_ema": _state(5)}, _fitting) == ["params"]


def test_those_that_fit_alike_are_all_named() -> None:
    assert best_fitting({"first": _state(), "second": _state()}, _fitting) == ["first", "second"]


def test_the_counters_of_batch_normalisation_have_no_say() -> None:
    state = nn.BatchNorm2d(3).state_dict()
    assert shapes_of(state).keys() == state.keys() - {"num_batches_tracked"}
