"""Choose which layers to keep in float: few graphs are tried, those that sensitivity promises most of.

    gain(l) = noise(nothing lifted) - noise(l lifted),    order: gain(l) / MACs(l), the largest first

Noise adds up nearly, and float costs by multiply-accumulates nearly, so that the first n of that order are close to the least
latency for what they gain; of an input that is lifted, the multiply-accumulates that it adds count. How many it takes is found by
trying: a graph's drop is measured on pictures, its latency on the backend, and neither is taken from the estimate. Layers whose
lifting then turns out not to be needed go back to int8. While trying, weights are those of everything in int8; what is chosen has
them rounded once more, for what it lifts, and is measured again. If it then takes longer than another one did, that one is fitted
too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from quantize.search.result import Trial
from runtime.errors import UserError

_CHEAPER = 0.97  # latency that is worth another fit: of one graph it differs by as much from one minute to the next
_TRIALS = 6  # of how many layers; doubling, then halving, they are enough for 32
Lifted = frozenset[str]
NOTHING: Lifted = frozenset()


@dataclass(frozen=True)
class LiftingCost:
    """What keeping something in float costs, in shares of the network's multiply-accumulates.

    Attributes:
        touched: that are slower or added.
        in_float: that are then in float.
        layer: that reads floats then, or its input's rounding error; None of an addition.
    """

    touched: float
    in_float: float
    layer: str | None


@dataclass(frozen=True)
class Budget:
    """What may be lost on held-back crops, and which share of multiply-accumulates must stay in int8, 0 to 1."""

    max_drop_db: float
    min_int8_macs: float = 0.0

    def allows(self, trial: Trial) -> bool:
        return trial.drop_db <= self.max_drop_db and trial.int8_mac_share >= self.min_int8_macs


def choose_lifted(
    costs: Mapping[str, LiftingCost],
    budget: Budget,
    *,
    noise: Callable[[Lifted], float],
    attempt: Callable[[Lifted], Trial],
    fit: Callable[[Lifted], Trial],
) -> Trial:
    """Return the trial of least cost among those within `budget`.

    Args:
        costs: of all that could be kept in float.
        noise: estimated mean square of the output's error with those kept in float.
        attempt: writes, runs and times the graph with those kept in float.
        fit: the same, with weights rounded for it.

    Raises:
        UserError: no mix that was tried is within the budget.
    """
    tried = {NOTHING: attempt(NOTHING)}
    most_int8 = tried[NOTHING].int8_mac_share
    if most_int8 < budget.min_int8_macs:
        raise UserError(
            f"--min-int8-macs {budget.min_int8_macs:g} cannot be met: {most_int8:.4f} of MACs are in int8 at most",
            hint=f"--min-int8-macs {math.floor(most_int8 * 1000) / 1000:g}",
        )
    if not budget.allows(tried[NOTHING]):
        order = lifting_order(costs, noise, spare=most_int8 - budget.min_int8_macs)
        found = _fewest(order, budget, noise=noise, attempt=attempt, tried=tried)
        if found is not None:
            pruned = _prune(found, costs, budget, noise=noise, tried=tried)
            tried[pruned] = tried.get(pruned) or attempt(pruned)
    within = sorted((trial for trial in tried.values() if budget.allows(trial)), key=lambda trial: trial.cost)
    chosen: Trial | None = None
    for trial in within:
        if chosen is not None and trial.cost > _CHEAPER * chosen.cost:
            break
        lifted = frozenset(trial.lifted)
        tried[lifted] = fit(lifted) if lifted else trial
        if budget.allows(tried[lifted]) and (chosen is None or tried[lifted].cost < chosen.cost):
            chosen = tried[lifted]
    if chosen is None:
        raise _over_budget(budget, tried.values(), most=len(costs) - 1)
    return chosen


def lifting_order(costs: Mapping[str, LiftingCost], noise: Callable[[Lifted], float], *, spare: float) -> list[str]:
    """Choose by what keeping in float gains for its multiply-accumulates, as much as fits into `spare` of them; never all that has
    any.

    Where what gains most of all has no room behind others, it comes first if that leaves less noise.
    """
    nothing = noise(NOTHING)
    gains = {name: nothing - noise(frozenset([name])) for name in costs}
    ranked = [name for name in costs if gains[name] > 0 and costs[name].in_float <= spare]
    ranked.sort(key=lambda name: -gains[name] / max(costs[name].touched, 1e-9))
    order = _fitting(ranked, costs, spare)
    most = max(ranked, key=lambda name: gains[name], default=None)
    if most is None or most in order:
        return order
    other = _fitting([most, *ranked], costs, spare)
    return min(order, other, key=lambda names: noise(frozenset(names)))


def _fitting(ranked: Iterable[str], costs: Mapping[str, LiftingCost], spare: float) -> list[str]:
    in_int8 = {cost.layer for cost in costs.values() if cost.layer is not None}
    order: list[str] = []
    for name in ranked:
        cost = costs[name]
        has_layer = cost.layer is None or cost.layer in in_int8
        if name in order or not has_layer or cost.in_float > spare or in_int8 == {name}:
            continue
        order.append(name)
        spare -= cost.in_float
        in_int8.discard(name)
    return order


def _fewest(
    order: Sequence[str],
    budget: Budget,
    *,
    noise: Callable[[Lifted], float],
    attempt: Callable[[Lifted], Trial],
    tried: dict[Lifted, Trial],
) -> Lifted | None:
    """Return the fewest layers from the front of `order` that a trial found within the budget."""
    per_noise = _drop_per_noise(NOTHING, noise, tried)
    promising = (count for count in range(1, len(order)) if noise(frozenset(order[:count])) * per_noise <= budget.max_drop_db)
    count, over, within = next(promising, len(order)), 0, None
    for _ in range(_TRIALS):
        if count in (over, within):
            break
        lifted = frozenset(order[:count])
        tried[lifted] = attempt(lifted)
        if budget.allows(tried[lifted]):
            within = count
        else:
            over = count
        count = min(2 * over, len(order)) if within is None else (over + within) // 2
    return None if within is None else frozenset(order[:within])


def _prune(
    lifted: Lifted,
    costs: Mapping[str, LiftingCost],
    budget: Budget,
    *,
    noise: Callable[[Lifted], float],
    tried: Mapping[Lifted, Trial],
) -> Lifted:
    """Return `lifted` without the layers that, by the estimate, it can do without, the costliest first."""
    per_noise = max(_drop_per_noise(NOTHING, noise, tried), _drop_per_noise(lifted, noise, tried))
    kept = lifted
    for layer in sorted(lifted, key=lambda layer: (-costs[layer].touched, layer)):
        fewer = kept - {layer}
        if fewer and noise(fewer) * per_noise <= budget.max_drop_db:
            kept = fewer
    return kept


def _drop_per_noise(lifted: Lifted, noise: Callable[[Lifted], float], tried: Mapping[Lifted, Trial]) -> float:
    return max(tried[lifted].drop_db, 0.0) / max(noise(lifted), 1e-12)


def _over_budget(budget: Budget, tried: Iterable[Trial], *, most: int) -> UserError:
    least = min(tried, key=lambda trial: trial.drop_db)
    limit = f" with {budget.min_int8_macs:.1%} of MACs in int8" if budget.min_int8_macs else ""
    reached = math.ceil(least.drop_db * 1000) / 1000
    looser = " or a lower --min-int8-macs" if budget.min_int8_macs else ", or the bundle's fp32 graph"
    return UserError(
        f"a drop of {budget.max_drop_db:g} dB on held-back crops cannot be met{limit}: the least that was reached is "
        f"{least.drop_db:.3f} dB, {len(least.lifted)} layers kept in float, of {most} that can be",
        hint=f"--max-drop-db {reached:g}{looser}",
    )
