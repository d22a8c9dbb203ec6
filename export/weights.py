"""Find, download and verify checkpoints, and load them into their network.

Shipped and published files are hashed before they are opened.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pooch
import torch
from torch import Tensor, nn

from export.checkpoints import GIVE_A_FILE, load_state_dict
from export.models import NETWORKS, Network, Shapes
from export.state_dicts import StateDict, shapes_of
from runtime.bundle import Checkpoint, sha256_file
from runtime.errors import WeightsError

_SHIPPED = Path(__file__).parent / "shipped"
_FOLDER_VARIABLE = "SREDGE_WEIGHTS"


@dataclass(frozen=True)
class Weights:
    """A checkpoint file that was found and, where its hash is known beforehand, verified."""

    path: Path
    checkpoint: Checkpoint


def find_weights(network: Network, *, scale: float, choice: str | None) -> Weights:
    """Return the checkpoint that `choice` names: "shipped" (the default), "published", or the path of a file or of a folder with
    one.

    Raises:
        WeightsError: there is none of that kind, it cannot be had, or its sha256 is wrong.
    """
    name = f"{network.name} x{scale:g}"
    if choice is None and scale not in network.shipped:
        raise WeightsError(f"no weights for {name} ship with sredge", hint=_other_weights(network, scale))
    if choice in (None, "shipped"):
        return _shipped(network, scale)
    if choice == "published":
        return _published(network, scale)
    path = Path(str(choice))
    if path.is_dir() and network.file_pattern:
        path /= network.file_pattern.format(scale=f"{scale:g}")
    if not path.is_file():
        raise WeightsError(
            f"--weights {path}: there is no such file, and the known names are shipped and published", hint=GIVE_A_FILE
        )
    try:
        return Weights(path, Checkpoint(source="file", file=path.name, sha256=sha256_file(path)))
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}", hint=GIVE_A_FILE) from error


def load_module(network: Network, *, scale: float, weights: Weights) -> nn.Module:
    """Return the network with those weights, in evaluation mode.

    Raises:
        WeightsError: the file cannot be read, or its keys or shapes are another network's.
    """
    state = load_state_dict(weights.path, count_fitting=lambda state: _count_fitting(network, scale, shapes_of(state)))
    _check_fit(state, network, scale, path=weights.path)
    module = network.build_for(scale, shapes_of(state))
    module.load_state_dict(state)
    return module.float().eval()


def find_fitting(state: StateDict) -> tuple[Network, tuple[int, ...]] | None:
    """Return the network of NETWORKS that has exactly these keys and shapes, and the scales at which it has them."""
    shapes = shapes_of(state)
    for network in NETWORKS:
        scales = tuple(scale for scale in network.scales if _expected_shapes(network, scale, shapes) == shapes)
        if scales:
            return network, scales
    return None


def describe_state_dict(state: StateDict) -> str:
    """Return what these keys and shapes look like: a registered network, or none known here."""
    if (fitting := find_fitting(state)) is not None:
        network, scales = fitting
        return f"it looks like {network.name} {' or '.join(f'x{scale}' for scale in scales)}"
    shapes = shapes_of(state)
    found = []
    for network in NETWORKS:
        for scale in network.scales:
            expected = _expected_shapes(network, scale, shapes)
            found.append((len(expected.items() & shapes.items()), len(expected), f"{network.name} x{scale}"))
    matching, wanted, nearest = max(found)
    if 2 * matching > wanted:
        return f"it looks most like {nearest}, of whose {wanted} tensors it has {matching}"
    first = "".join(f", {key} {shape}" for key, shape in list(shapes.items())[:3])
    return f"it looks like no network known here: {len(shapes)} tensors{first}"


def _shipped(network: Network, scale: float) -> Weights:
    if scale not in network.shipped:
        have = ", ".join(f"x{known}" for known in network.shipped) or "none"
        what = f"no weights for {network.name} x{scale:g} ship with sredge; shipped: {have}"
        raise WeightsError(what, hint=_other_weights(network, scale))
    path = _SHIPPED / f"{network.name}_x{scale:g}.safetensors"
    if not path.is_file() or sha256_file(path) != network.shipped[scale]:
        raise WeightsError(f"{path} is missing or damaged (sha256 differs)", hint="pip install --force-reinstall sredge")
    return Weights(path, Checkpoint(source="shipped", file=path.name, sha256=network.shipped[scale]))


def _other_weights(network: Network, scale: float) -> str:
    return "--weights published, or --weights FILE" if scale in network.published else "--weights FILE"


def _published(network: Network, scale: float) -> Weights:
    published = network.published.get(scale)
    if published is None:
        raise WeightsError(f"no published weights are known for {network.name} x{scale:g}", hint="--weights FILE")
    checkpoint = Checkpoint(source="published", file=published.file, sha256=published.sha256)
    folder = os.environ.get(_FOLDER_VARIABLE)
    if folder is not None and (local := Path(folder) / published.file).is_file():
        if sha256_file(local) != published.sha256:
            raise WeightsError(f"{local} is not the published file (sha256 differs)", hint=f"get it from {published.url}")
        return Weights(local, checkpoint)
    pooch.get_logger().setLevel("WARNING")  # what it downloads is said by the command line
    try:
        cached = pooch.retrieve(
            published.url, f"sha256:{published.sha256}", fname=published.file, path=pooch.os_cache("sredge") / "weights"
        )
    except ValueError as error:
        raise WeightsError(f"{published.url} is not the published file any more: {error}") from error
    except OSError as error:  # requests' errors are OSErrors
        raise WeightsError(
            f"{published.url} cannot be downloaded: {type(error).__name__}",
            hint=f"put {published.file} into a folder and name that folder in {_FOLDER_VARIABLE}",
        ) from error
    return Weights(Path(cached), checkpoint)


def _check_fit(state: StateDict, network: Network, scale: float, *, path: Path) -> None:
    shapes = shapes_of(state)
    expected = _expected_shapes(network, scale, shapes)
    wrong = [f"{key} is missing" for key in expected if key not in shapes]
    wrong += [f"{key} is not one of its keys" for key in shapes if key not in expected]
    wrong += [f"{key} is {problem}" for key, value in state.items() if (problem := _unusable(value))]
    wrong += [
        f"{key} is {shapes[key]}, expected {shape}" for key, shape in expected.items() if key in shapes and shapes[key] != shape
    ]
    if wrong:
        shown = "; ".join(wrong[:4]) + (f"; and {len(wrong) - 4} more" if len(wrong) > 4 else "")
        raise WeightsError(f"{path} does not fit {network.name} x{scale:g}: {shown}", hint=describe_state_dict(state))


def _unusable(value: Tensor) -> str:
    """Return why a weight cannot be used, if it cannot."""
    if value.layout != torch.strided or value.is_complex():
        return f"{value.dtype} {value.layout}, expected real and dense"
    return "" if bool(torch.isfinite(value).all()) else "not finite"


def _count_fitting(network: Network, scale: float, shapes: Shapes) -> int:
    return len(_expected_shapes(network, scale, shapes).items() & shapes.items())


def _expected_shapes(network: Network, scale: float, shapes: Shapes) -> Shapes:
    """Return those of `network` made as deep and wide as `shapes` have it, without memory for its weights where its constructor
    allows.
    """
    with suppress(RuntimeError), torch.device("meta"):  # raised where the constructor reads values, which tensors there have not
        return shapes_of(network.build_for(scale, shapes).state_dict())
    return shapes_of(network.build_for(scale, shapes).state_dict())
