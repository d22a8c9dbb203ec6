"""How a network is quantized, as data: the steps against loss and latency, and which of them an effort takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal, get_args

from calibration.crops import CROP_SIZE
from calibration.ranges import DEFAULT_PERCENTILE, Method
from runtime.errors import UnknownNameError
from runtime.targets import Target

Step = Literal["mix-channels", "pixel-grid", "centre", "correct-biases", "round-layers", "distil", "kernel-layouts"]
STEPS: tuple[Step, ...] = get_args(Step)
LEARNING_STEPS: frozenset[Step] = frozenset({"round-layers", "distil"})  # weights are rounded on pictures
FAST_CROP_SIZE = (64, 64)
LAYOUT_STEPS: frozenset[Step] = frozenset({"kernel-layouts"})  # no weight and no pixel depends on them


class Effort(Enum):
    """How much is done against the loss: nothing that takes time, layer by layer, or all that is known."""

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"


_LEFT_OUT: Mapping[Effort, frozenset[Step]] = {
    Effort.FAST: LEARNING_STEPS,
    Effort.BALANCED: frozenset({"distil"}),
    Effort.BEST: frozenset(),
}


@dataclass(frozen=True, kw_only=True)
class Int8Options:
    """How a network is quantized.

    Attributes:
        target: what its constraints are.
        method, percentile: how ranges follow from statistics.
        effort: which steps are taken.
        without: steps that are left out of those.
        lifted: layers that are kept in float.
    """

    target: Target
    method: Method
    percentile: float = DEFAULT_PERCENTILE
    effort: Effort = Effort.BALANCED
    without: frozenset[Step] = frozenset()
    lifted: frozenset[str] = frozenset()

    @property
    def steps(self) -> frozenset[Step]:
        return frozenset(STEPS) - _LEFT_OUT[self.effort] - self.without

    @property
    def usual_crop_size(self) -> tuple[int, int]:
        """(height, width) of calibration crops where none is asked for; without learning steps small ones lose no more."""
        return FAST_CROP_SIZE if self.effort is Effort.FAST else CROP_SIZE

    @property
    def chooses_rewrites(self) -> bool:
        """Whether exact rewrites are tried on held-back pictures; 16-bit activations leave no rounding that they could lessen."""
        return self.effort is Effort.BEST and not self.target.has_wide_codes


def find_steps(names: Collection[str]) -> frozenset[Step]:
    """Return `names` as steps; UnknownNameError lists the valid ones."""
    for name in names:
        if name not in STEPS:
            raise UnknownNameError("step", name, valid=STEPS)
    return frozenset(step for step in STEPS if step in names)
