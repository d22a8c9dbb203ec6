"""Every architecture from each of torch's exporters: imported right at several sizes, free where it can be, tiled exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from export.foreign import read_foreign
from export.models import Network
from export.stage import export_foreign
from runtime.backends import open_backend
from runtime.bundle import Bundle, Contract
from runtime.upscaler import Upscaler
from tests.architectures import ARCHITECTURES
from tests.architectures.exporters import EXPORTERS, SIDES, Exporter, write_onnx
from tests.architectures.weights import build_trained, scale_of, weights_file

_TOLERANCE = 1e-4  # float32 sums in another order, constants folded into weights
_LARGEST_BYTES = 150_000
_SLOW = {("swinir", "dynamo")}  # eleven seconds; `python -m tests.architectures swinir` has it
_GLOBAL = {"imdn", "rfdn", "safmn", "swinir"}  # contrast over the picture; Resize to its sizes; windows from its corner


def _pairs() -> Iterator[object]:
    for network in ARCHITECTURES:
        for exporter in EXPORTERS:
            if (network.name, exporter.name) not in _SLOW:
                yield pytest.param(network, exporter, id=f"{network.name}-{exporter.name}")


@pytest.mark.parametrize("network", ARCHITECTURES, ids=lambda network: network.name)
def test_weights_are_small_and_those_of_the_definition(network: Network) -> None:
    assert weights_file(network).stat().st_size < _LARGEST_BYTES
    build_trained(network)  # which refuses others


@pytest.mark.parametrize(("network", "exporter"), _pairs())
def test_an_architecture_is_imported_and_tiled_right(network: Network, exporter: Exporter, tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    write_onnx(network, exporter, path)
    foreign = read_foreign(path, scale=scale_of(network), order=None, value_range=None)
    bundle = export_foreign(foreign, path, directory=tmp_path / "bundle")
    manifest = bundle.manifest
    if exporter.name != "fixed":
        assert manifest.contract.static_shape is None
        assert (manifest.halo == "global") == (network.name in _GLOBAL), manifest.global_operator
    _check_parity(bundle, network)
    if manifest.halo != "global":
        _check_tiles(bundle)


def _check_parity(bundle: Bundle, network: Network) -> None:
    """The graph gives what the module gives, at three sizes that it takes."""
    module = build_trained(network)
    contract = bundle.manifest.contract
    with open_backend("onnxruntime", bundle.read(bundle.variant("fp32")), precision="fp32") as backend:
        for height, width in _sizes(contract):
            array = np.random.default_rng(height).random((1, contract.channels, height, width), np.float32)
            with torch.no_grad():
                wanted = module(torch.from_numpy(array)).numpy()
            assert np.abs(backend.run(array) - wanted).max() < _TOLERANCE, (height, width)


def _sizes(contract: Contract) -> Iterator[tuple[int, int]]:
    if contract.static_shape is not None:
        yield contract.static_shape
        return
    for sides in ((17, 23), SIDES, (37, 30)):
        height, width = (max(-(-side // contract.multiple_of) * contract.multiple_of, contract.least_side) for side in sides)
        yield height, width


def _check_tiles(bundle: Bundle) -> None:
    """Tiles give the whole picture, of a size that is a multiple of nothing."""
    picture = np.random.default_rng(0).integers(0, 256, (51, 90, 3), np.uint8)
    outputs = []
    for tile in (None, 30):
        with Upscaler.open(bundle, precision="fp32", backend="onnxruntime", verify="never", tile=tile) as upscaler:
            outputs.append(upscaler(picture).astype(int))
    assert np.abs(outputs[0] - outputs[1]).max() <= 1
