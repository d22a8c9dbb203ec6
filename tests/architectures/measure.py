"""What a graph makes of pictures, and what int8 loses of it in dB: PSNR under protocol paper-y, each picture run whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.metrics import score
from benchmarks.protocols import find_protocol
from calibration.datasets import SAMPLES, find_images
from calibration.pairs import load_pair
from runtime.backends import Backend, open_backend
from runtime.bundle import Bundle, Manifest
from runtime.images import Picture, from_network, to_network
from runtime.targets import Precision

SETS = ("set5", "set14")
_PROTOCOL = find_protocol("paper-y")
_WINDOW = (96, 128)  # (H, W) of what is taken of a sample photograph, as the network is given it


@dataclass(frozen=True)
class Scene:
    """A pair of pictures of a set: (h, w, 3) and (h·scale, w·scale, 3) uint8."""

    dataset: str
    low: Picture
    high: Picture


def load_scenes(data: Path | None, *, scale: int, static: tuple[int, int] | None = None) -> tuple[Scene, ...]:
    """Set5 and Set14 in `data`, or windows of the sample photographs; of a size `static` where that is given."""
    scenes = []
    for name in (SAMPLES,) if data is None else SETS:
        for pair in find_images(name, scale=scale, use="evaluation", root=data).pairs:
            low, high = load_pair(pair, scale=scale)
            size = static or (_WINDOW if data is None else None)
            scenes.append(Scene(name, *(low, high) if size is None else _middle(low, high, size, scale)))
    return tuple(scenes)


def _middle(low: Picture, high: Picture, size: tuple[int, int], scale: int) -> tuple[Picture, Picture]:
    """The window of that (H, W) in the middle of `low`, filled up by reflection where it is smaller, and that of `high`."""
    missing = [max(want - side, 0) for want, side in zip(size, low.shape[:2], strict=True)]
    low = np.pad(low, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
    high = np.pad(high, [(0, missing[0] * scale), (0, missing[1] * scale), (0, 0)], mode="symmetric")
    top, left = ((side - want) // 2 for want, side in zip(size, low.shape[:2], strict=True))
    window = (slice(top, top + size[0]), slice(left, left + size[1]))
    enlarged = tuple(slice(cut.start * scale, cut.stop * scale) for cut in window)
    return np.ascontiguousarray(low[window]), np.ascontiguousarray(high[enlarged])


def scores_db(manifest: Manifest, graph: bytes, backend: str, precision: Precision, scenes: Sequence[Scene]) -> tuple[float, ...]:
    """PSNR of each scene as that backend runs `graph`."""
    with open_backend(backend, graph, precision=precision) as opened:
        return tuple(_psnr_db(manifest, opened, scene) for scene in scenes)


def fp32_scores_db(bundle: Bundle, scenes: Sequence[Scene]) -> tuple[float, ...]:
    return scores_db(bundle.manifest, bundle.read(bundle.variant("fp32")), "onnxruntime", "fp32", scenes)


def by_set(values: Sequence[float], scenes: Sequence[Scene]) -> Mapping[str, float]:
    """Means over the pictures of each set."""
    names = dict.fromkeys(scene.dataset for scene in scenes)
    pairs = list(zip(values, scenes, strict=True))
    return {name: float(np.mean([value for value, scene in pairs if scene.dataset == name])) for name in names}


def _psnr_db(manifest: Manifest, backend: Backend, scene: Scene) -> float:
    """Filled up at the bottom and right by reflection to what the contract asks, and cropped: not by the code under test."""
    contract, factor = manifest.contract, round(manifest.scale)
    array = to_network(scene.low, contract, scale=manifest.scale)
    height, width = array.shape[2:]
    fill = [max(contract.least_side - side, 0) for side in (height, width)]
    fill = [more + -(side + more) % contract.multiple_of for side, more in zip((height, width), fill, strict=True)]
    output = backend.run(np.pad(array, [(0, 0), (0, 0), (0, fill[0]), (0, fill[1])], mode="reflect"))
    cropped = np.ascontiguousarray(output[:, :, : height * factor, : width * factor])
    picture = from_network(cropped, contract.colour, source=scene.low, rounding=_PROTOCOL.rounding)
    return score(picture, scene.high, _PROTOCOL, scale=manifest.scale).psnr_db
