"""Judge what int8 loses on pictures: a bundle and data sets in; each picture's fp32 output, and what another output loses, out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics import Score, psnr_db, score
from benchmarks.protocols import find_protocol
from calibration.pairs import ImageSet, load_pair
from runtime.backends import open_backend
from runtime.bundle import Bundle
from runtime.images import Picture, from_network, to_network
from runtime.sizes import upscaled_size
from runtime.tiles.filling import fill_up

PROTOCOL = find_protocol("paper-y")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Evaluated:
    """A picture of a set: what goes in, and what fp32 makes of it and scores."""

    name: str
    dataset: str
    low: Picture
    high: Picture
    array: NDArray[np.float32]
    fp32: NDArray[np.float32]
    fp32_score: Score


@dataclass(frozen=True)
class Judged:
    """What outputs lose against those of fp32; decibels are means over pictures, `average_db` that of the sets.

    Attributes:
        ssim_loss: mean over all pictures, as is psnr_vs_fp32_db, which is of the outputs as floats.
        worst: the picture that loses most.
    """

    loss_db: Mapping[str, float]
    average_db: float
    ssim_loss: float
    worst_db: float
    worst: str
    psnr_vs_fp32_db: float


def evaluate(bundle: Bundle, sets: Sequence[ImageSet], tell: Tell) -> Iterator[Evaluated]:
    """Run fp32 on every picture of `sets`."""
    manifest = bundle.manifest
    with open_backend("openvino", bundle.read(bundle.variant("fp32")), precision="fp32") as fp32:
        for images in sets:
            for pair in images.pairs:
                tell(f"{pair.name} in fp32")
                low, high = load_pair(pair, scale=manifest.scale)
                array = fill_up(
                    to_network(low, manifest.contract, scale=manifest.scale), manifest.contract, multiple=manifest.fill_multiple
                )
                made = fp32.run(array)
                yield Evaluated(pair.name, images.name, low, high, array, made, _scored(bundle, made, low, high))


def judge(bundle: Bundle, made: Sequence[NDArray[np.float32]], evaluated: Sequence[Evaluated]) -> Judged:
    """Compare the outputs `made` of the evaluated pictures with those of fp32."""
    scores = [_scored(bundle, output, one.low, one.high) for output, one in zip(made, evaluated, strict=True)]
    losses = [_lost_db(one.fp32_score, now) for one, now in zip(evaluated, scores, strict=True)]
    by_set = {
        name: float(np.mean([loss for loss, one in zip(losses, evaluated, strict=True) if one.dataset == name]))
        for name in dict.fromkeys(one.dataset for one in evaluated)
    }
    worst = int(np.argmax(losses))
    ssim_loss = np.mean([one.fp32_score.ssim - now.ssim for one, now in zip(evaluated, scores, strict=True)])
    against = [psnr_db(output.clip(0, 1), one.fp32.clip(0, 1), peak=1) for output, one in zip(made, evaluated, strict=True)]
    return Judged(
        loss_db={name: round(loss, 4) for name, loss in by_set.items()},
        average_db=round(float(np.mean(list(by_set.values()))), 4),
        ssim_loss=round(float(ssim_loss), 5),
        worst_db=round(losses[worst], 3),
        worst=evaluated[worst].name,
        psnr_vs_fp32_db=round(float(np.mean(against)), 2),
    )


def _lost_db(before: Score, after: Score) -> float:
    """Infinite where fp32's picture is the truth itself and int8's is not."""
    return 0.0 if before.psnr_db == after.psnr_db else before.psnr_db - after.psnr_db


def _scored(bundle: Bundle, output: NDArray[np.float32], low: Picture, high: Picture) -> Score:
    rows, columns = upscaled_size((low.shape[0], low.shape[1]), bundle.manifest.scale)
    cropped = output[:, :, :rows, :columns]  # without what comes of filling the picture up
    picture = from_network(cropped, bundle.manifest.contract.colour, source=low, rounding=PROTOCOL.rounding)
    return score(picture, high, PROTOCOL, scale=bundle.manifest.scale)
