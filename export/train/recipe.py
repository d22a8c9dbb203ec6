"""The recipe: L1 loss on random patches, Adam (Kingma & Ba 2015, arXiv 1412.6980) at a one-cycle rate (Smith & Topin 2017,
arXiv 1708.07120), gradients clipped by norm, and a moving average of the weights, which is what is kept.

Where the device multiplies bfloat16 faster than float32 the network runs in it, under autocast, channels last; weights, loss and
updates stay float32. Every step draws its patches from a generator seeded with (seed, step), so that a run cut off and resumed
takes the same steps as one that was not.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from export.checkpoints import load_checkpoint
from export.models import Network
from export.train.patches import Photograph, draw_batch
from runtime.errors import UserError
from runtime.files.whole import write_whole
from runtime.quality import psnr_of

_BETAS = (0.9, 0.99)
_GRADIENT_NORM = 1.0
_WARM_UP = 0.05  # share of the steps during which the rate rises
_KEPT_OF_AVERAGE = 0.998


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a training run is made of; two runs of the same recipe on the same pictures take the same steps.

    Attributes:
        model, scale: the network.
        steps: how many updates.
        batch: patches a step.
        patch: pixels per side of a patch, as the network is given it.
        peak_rate: Adam's step size at the top of the cycle.
        seed: of the first weights and of every step's patches.
        init_sha256: of the checkpoint that the weights start from; empty where they start as interpolation.
        data_sha256: of the names and sizes of the pictures trained on.
        sizes: each picture is trained on at these, relative to its own.
    """

    model: str
    scale: int
    steps: int = 20_000
    batch: int = 8
    patch: int = 32
    peak_rate: float = 8e-4
    seed: int = 0
    init_sha256: str = ""
    data_sha256: str = ""
    sizes: tuple[float, ...] = (1.0, 0.8, 0.6)


@dataclass(frozen=True)
class Progress:
    """Where a run stands: `loss` is the mean since the last report, `held_out_db` the PSNR of the averaged weights."""

    step: int
    loss: float
    rate: float
    held_out_db: float


class Training:
    """A run in progress: the weights, their average, the optimizer's state, and how many steps were taken."""

    def __init__(self, network: Network, recipe: Recipe, *, init: dict[str, Tensor] | None = None) -> None:
        """Start `network` as `recipe` says, from the tensors of `init` that fit by key and shape."""
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.step = 0
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._autocast = self._device.type == "cuda" or _multiplies_bfloat16()
        module = network.build(recipe.scale)
        module.load_state_dict(fitting(module, init or {}), strict=False)
        # torch's annotation leaves the keyword-only form of `to` out.
        self.module = module.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.Adam(self._trained, lr=recipe.peak_rate, betas=_BETAS)
        self._schedule = OneCycleLR(
            self._optimizer, recipe.peak_rate, total_steps=recipe.steps, pct_start=_WARM_UP, cycle_momentum=False
        )
        self._average = AveragedModel(self.module, multi_avg_fn=get_ema_multi_avg_fn(_KEPT_OF_AVERAGE))  # type: ignore[no-untyped-call] # torch leaves it out

    @property
    def rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    @property
    def averaged(self) -> nn.Module:
        """The network with the averaged weights, in evaluation mode."""
        module: nn.Module = self._average.module
        return module.eval()

    def take_step(self, photographs: Sequence[Photograph]) -> float:
        """Return one update; the loss before it."""
        recipe = self.recipe
        rng = np.random.default_rng((recipe.seed, self.step))
        low, high = draw_batch(photographs, batch=recipe.batch, patch=recipe.patch, rng=rng)
        self.module.train()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            output = self.module(low.to(self._device, memory_format=torch.channels_last))
        loss = functional.l1_loss(output.float(), high.to(self._device))
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves it out
        clip_grad_norm_(self._trained, _GRADIENT_NORM)
        self._optimizer.step()
        self._schedule.step()
        self._average.update_parameters(self.module)
        self.step += 1
        return loss.item()

    def save(self, path: Path) -> None:
        """Write all of it, whole or not at all."""
        buffer = io.BytesIO()
        torch.save({"recipe": asdict(self.recipe), "step": self.step, **self._state()}, buffer)
        write_whole(path, buffer.getvalue())

    def resume(self, path: Path) -> None:
        """Go on where the run that wrote `path` stood.

        Raises:
            WeightsError: it cannot be read as a checkpoint.
            UserError: it is of another recipe.
        """
        saved = load_checkpoint(path)
        _check_same(saved.get("recipe"), self.recipe, path)
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        self.step = int(saved["step"])

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer | OneCycleLR]:
        return {"weights": self.module, "optimizer": self._optimizer, "schedule": self._schedule, "average": self._average}

    def _state(self) -> dict[str, object]:
        return {name: part.state_dict() for name, part in self._parts().items()}


def run(
    training: Training,
    photographs: Sequence[Photograph],
    held_out: Sequence[Photograph],
    *,
    report_every: int,
    on_step: Callable[[int, float], None],
    on_report: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> None:
    """Take the steps that are left, or those until `should_stop`; `on_report` hears of every `report_every`th and the last."""
    losses: list[float] = []
    while training.step < training.recipe.steps and not should_stop():
        rate = training.rate
        losses.append(training.take_step(photographs))
        on_step(training.step, losses[-1])
        if training.step % report_every == 0 or training.step == training.recipe.steps:
            held_out_db = measure_psnr_db(training.averaged, held_out, scale=training.recipe.scale)
            on_report(Progress(training.step, math.fsum(losses) / len(losses), rate, held_out_db))
            losses.clear()


def measure_psnr_db(module: nn.Module, photographs: Sequence[Photograph], *, scale: int) -> float:
    """Mean PSNR in dB over `photographs`, of all channels in 8 bits, less a border of `scale` pixels."""
    device = next(module.parameters()).device
    figures = []
    for photograph in photographs:
        with torch.no_grad():
            output = module(photograph.low[None].float().div_(255).to(device))[0].cpu()
        inside = (slice(None), slice(scale, -scale), slice(scale, -scale))
        difference = output.clamp_(0, 1).mul_(255).round_()[inside] - photograph.high[inside]
        error = difference.square().mean(dtype=torch.float64).clamp_min_(1e-10)  # no image is that good: keeps the logarithm finite
        figures.append(psnr_of(error.item(), peak=255))
    return math.fsum(figures) / len(figures)


def fitting(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of `state` that `module` has under the same key and in the same shape."""
    shapes = {key: value.shape for key, value in module.state_dict().items()}
    return {key: value for key, value in state.items() if shapes.get(key) == value.shape}


def _multiplies_bfloat16() -> bool:
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16"))  # x86; the last is Arm's


def _check_same(saved: object, recipe: Recipe, path: Path) -> None:
    wanted = asdict(recipe)
    if not isinstance(saved, dict):
        raise UserError(f"{path} is not a checkpoint of a training run", hint="--restart begins anew")
    different = [f"{key} {saved.get(key)!r}, now {value!r}" for key, value in wanted.items() if saved.get(key) != value]
    if different:
        raise UserError(
            f"{path} is of a run with another recipe: {'; '.join(different)}",
            hint="give the same options to go on with it, --restart to begin anew, or another --out",
        )
