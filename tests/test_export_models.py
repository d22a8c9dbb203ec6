"""The networks compute what their authors' do, with the authors' weights and with those that ship."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray

import export.models
from export.checkpoints import load_state_dict
from export.models import NETWORKS, Network, find_network
from export.models.mdsr import MDSR
from export.models.srcnn import SRCNN
from export.models.srgan import SRGAN
from export.state_dicts import shapes_of
from export.weights import describe_state_dict, find_weights, load_module
from runtime.bundle import sha256_file
from runtime.errors import UnknownNameError, UserError

SHIPPED = Path(export.models.__file__).parents[1] / "shipped"
# A file's name where it is not the network's own.
PUBLISHED_ELSEWHERE = {"espcn": "super_resolution_x3.onnx", "srcnn": "srcnn_isr_best.pth"}
Array = NDArray[np.float32]
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


def _golden_name(network: Network, scale: int, names: Container[str]) -> str:
    """What the golden data calls a network at a scale; by the network alone where one golden is for every scale."""
    name = network.name.replace("-", "_")
    return f"{name}_x{scale}" if f"{name}_x{scale}" in names else name


def _golden(shared: Path, network: Network, scale: int) -> Mapping[str, Array]:
    files = {path.stem: path for path in (shared / "golden").glob("*.npz")}
    arrays: Mapping[str, Array] = np.load(files[_golden_name(network, scale, files)])
    return arrays


def _reference_state(shared: Path, network: Network, scale: int) -> dict[str, torch.Tensor]:
    """The weights that the golden output was made with: the published ones, or those MODELS.md's rule draws for the JSON's keys."""
    for published in (f"{network.name}_x{scale}.pth", PUBLISHED_ELSEWHERE.get(network.name, "")):
        if (shared / "weights" / published).is_file():
            return load_state_dict(shared / "weights" / published)
    keys = json.loads((shared / "golden" / "state_dict_keys.json").read_text())
    shapes = keys[_golden_name(network, scale, keys)]
    rng = np.random.default_rng(0)
    return {
        key: torch.from_numpy(_drawn(rng, key, tuple(shape)))
        for key, shape in shapes.items()
        if not key.endswith("num_batches_tracked")
    }


def _drawn(rng: np.random.Generator, key: str, shape: tuple[int, ...]) -> Array:
    draw = rng.standard_normal(shape).astype(np.float32)
    if key.endswith("running_var"):
        return np.abs(draw) + np.float32(0.5)
    return draw / np.float32(np.sqrt(np.prod(shape[1:]))) if len(shape) > 1 else draw * np.float32(0.05)


@cases
def test_a_network_gives_the_output_of_the_original(shared: Path, network: Network, scale: int) -> None:
    golden = _golden(shared, network, scale)
    module = network.build(scale).eval()
    module.load_state_dict(_reference_state(shared, network, scale))
    with torch.no_grad():
        output = module(torch.from_numpy(golden["input"])).numpy()
    np.testing.assert_allclose(output, golden["output"], rtol=1e-4, atol=1e-5)  # MODELS.md: one thread order's noise


@cases
def test_state_dict_keys_and_shapes_are_the_published_ones(shared: Path, network: Network, scale: int) -> None:
    published = _reference_state(shared, network, scale)
    assert shapes_of(network.build(scale).state_dict()) == shapes_of(published)


@cases
def test_output_is_scale_times_larger_for_a_batch_of_any_shape(network: Network, scale: int) -> None:
    channels, contract = network.contract.channels, network.contract
    given = torch.zeros(2, channels, *contract.input_size((5, 9), scale=scale))
    with torch.no_grad():
        output = network.build(scale).eval()(given)
    assert output.shape == (2, channels, 5 * scale, 9 * scale)


@cases
def test_a_network_is_found_by_its_name_and_scale(network: Network, scale: int) -> None:
    assert find_network(network.name, scale=scale) is network


@cases
def test_a_networks_own_state_dict_is_recognised(network: Network, scale: int) -> None:
    with torch.device("meta"):  # shapes will do
        description = describe_state_dict(network.build(scale).state_dict())
    assert description.startswith(f"it looks like {network.name} x")
    assert f"x{scale}" in description


def test_no_two_networks_share_a_name() -> None:
    assert len({network.name for network in NETWORKS}) == len(NETWORKS)


def test_an_unknown_network_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        find_network("abacus", scale=2)
    assert "'abacus'" in str(caught.value)
    assert all(network.name in str(caught.value) for network in NETWORKS)


@networks
@pytest.mark.parametrize("scale", [0.5, 1, math.inf, math.nan])
def test_an_unknown_scale_lists_the_known_ones(network: Network, scale: float) -> None:
    with pytest.raises(UserError, match=f"{network.name} has no scale {scale:g}") as caught:
        find_network(network.name, scale=scale)
    assert str(caught.value).endswith(network.describe_scales())


@networks
def test_a_scale_between_the_tested_ones_is_for_networks_that_are_given_an_enlarged_picture(network: Network) -> None:
    assert network.has_scale(1.5) == network.pre_upscale


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("srgan", {"blocks": 16}),
        ("srgan", {"width": 32}),
        ("mdsr", {"blocks": 3}),
        ("mdsr", {"width": 16}),
        ("mdsr-bam", {"blocks": 2, "width": 32}),
    ],
)
def test_depth_and_width_are_those_of_the_checkpoint(name: str, sizes: dict[str, int]) -> None:
    network = find_network(name, scale=2)
    state = (SRGAN(2, **sizes) if name == "srgan" else MDSR(2, attention=name == "mdsr-bam", **sizes)).state_dict()
    network.build_for(2, shapes_of(state)).load_state_dict(state)
    assert describe_state_dict(state) == f"it looks like {name} x2"


@pytest.mark.parametrize("kernels", [(9, 1, 5), (9, 3, 5)])
def test_srcnn_has_the_kernels_and_widths_of_the_checkpoint(kernels: tuple[int, ...]) -> None:
    state = SRCNN(kernels, (64, 32)).state_dict()
    find_network("srcnn", scale=1.5).build_for(1.5, shapes_of(state)).load_state_dict(state)


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
