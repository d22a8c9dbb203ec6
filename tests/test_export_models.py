"""The networks compute what their authors' do, with the authors' weights and with those that ship."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import export.models
from export.models import NETWORKS, Network, find_network
from export.weights import describe_state_dict, find_weights, load_module, load_state_dict
from runtime.bundle import Contract, sha256_file
from runtime.errors import UnknownNameError, UserError

SHIPPED = Path(export.models.__file__).parents[1] / "shipped"
PUBLISHED_ELSEWHERE = {"espcn": "super_resolution_x3.onnx"}  # a file's name where it is not the network's own
LARGEST_SHIPPED_BYTES = 3_000_000  # a wheel should stay small
networks = pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
cases = pytest.mark.parametrize(
    ("network", "scale"),
    [pytest.param(network, scale, id=f"{network.name}_x{scale}") for network in NETWORKS for scale in network.scales],
)
shipped_cases = pytest.mark.parametrize(
    ("network", "scale"),
    [pytest.param(network, scale, id=f"{network.name}_x{scale}") for network in NETWORKS for scale in network.shipped],
)


def _reference_state(shared: Path, network: Network, scale: int) -> dict[str, torch.Tensor]:
    """The weights that the golden output was made with: the published ones, or those MODELS.md's rule draws for the JSON's keys."""
    for published in (f"{network.name}_x{scale}.pth", PUBLISHED_ELSEWHERE.get(network.name, "")):
        if (shared / "weights" / published).is_file():
            return load_state_dict(shared / "weights" / published)
    keys = json.loads((shared / "golden" / "state_dict_keys.json").read_text())
    shapes = keys[f"{network.name.replace('-', '_')}_x{scale}"]
    rng = np.random.default_rng(0)
    return {
        key: torch.from_numpy(_drawn(rng, key, tuple(shape)))
        for key, shape in shapes.items()
        if not key.endswith("num_batches_tracked")
    }


def _drawn(rng: np.random.Generator, key: str, shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    draw = rng.standard_normal(shape).astype(np.float32)
    if key.endswith("running_var"):
        return np.abs(draw) + np.float32(0.5)
    return draw / np.float32(np.sqrt(np.prod(shape[1:]))) if len(shape) > 1 else draw * np.float32(0.05)


@cases
def test_a_network_gives_the_output_of_the_original(shared: Path, network: Network, scale: int) -> None:
    golden = np.load(shared / "golden" / f"{network.name.replace('-', '_')}_x{scale}.npz")
    module = network.build(scale).eval()
    module.load_state_dict(_reference_state(shared, network, scale))
    with torch.no_grad():
        output = module(torch.from_numpy(golden["input"])).numpy()
    np.testing.assert_allclose(output, golden["output"], rtol=1e-4, atol=1e-5)  # MODELS.md: one thread order's noise


@cases
def test_state_dict_keys_and_shapes_are_the_published_ones(shared: Path, network: Network, scale: int) -> None:
    built = {key: tuple(value.shape) for key, value in network.build(scale).state_dict().items()}
    published = {key: tuple(value.shape) for key, value in _reference_state(shared, network, scale).items()}
    assert built == published


@cases
def test_output_is_scale_times_larger_for_a_batch_of_any_shape(network: Network, scale: int) -> None:
    with torch.no_grad():
        channels = Contract(colour=network.colour).channels
        output = network.build(scale).eval()(torch.zeros(2, channels, 5, 9))
    assert output.shape == (2, channels, 5 * scale, 9 * scale)


@cases
def test_a_network_is_found_by_its_name_and_scale(network: Network, scale: int) -> None:
    assert find_network(network.name, scale=scale) is network


@cases
def test_a_networks_own_state_dict_is_recognised(network: Network, scale: int) -> None:
    assert describe_state_dict(network.build(scale).state_dict()) == f"it looks like {network.name} x{scale}"


def test_no_two_networks_share_a_name() -> None:
    assert len({network.name for network in NETWORKS}) == len(NETWORKS)


def test_an_unknown_network_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        find_network("abacus", scale=2)
    assert "'abacus'" in str(caught.value)
    assert all(network.name in str(caught.value) for network in NETWORKS)


@networks
def test_an_unknown_scale_lists_the_known_ones(network: Network) -> None:
    with pytest.raises(UserError, match=f"{network.name} has no scale 7") as caught:
        find_network(network.name, scale=7)
    assert str(caught.value).endswith(", ".join(str(scale) for scale in network.scales))


@networks
def test_weights_are_listed_only_for_scales_the_network_has(network: Network) -> None:
    assert set(network.published) <= set(network.scales)
    assert set(network.shipped) <= set(network.scales)


@networks
def test_published_weights_come_from_a_pinned_address(network: Network) -> None:
    for published in network.published.values():
        assert published.url.startswith("https://")
        assert "/main/" not in published.url
        assert "/master/" not in published.url
        assert published.url.endswith(f"/{published.file}")


@networks
def test_a_network_names_its_paper(network: Network) -> None:
    assert any(part.isdecimal() and len(part) == 4 for part in network.paper.replace(",", " ").split())


@shipped_cases
def test_a_shipped_file_is_the_registered_one_and_small(network: Network, scale: int) -> None:
    path = SHIPPED / f"{network.name}_x{scale}.safetensors"
    assert sha256_file(path) == network.shipped[scale]
    assert path.stat().st_size < LARGEST_SHIPPED_BYTES


def test_every_shipped_file_is_registered() -> None:
    registered = {f"{network.name}_x{scale}.safetensors" for network in NETWORKS for scale in network.shipped}
    assert {path.name for path in SHIPPED.glob("*.safetensors")} == registered


@shipped_cases
def test_shipped_weights_are_found_verified_and_fit(network: Network, scale: int) -> None:
    weights = find_weights(network, scale=scale, choice=None)
    module = load_module(network, scale=scale, weights=weights)
    assert not module.training
    stored = safetensors.torch.load_file(weights.path)
    assert all(torch.equal(value, stored[key].float()) for key, value in module.state_dict().items())
