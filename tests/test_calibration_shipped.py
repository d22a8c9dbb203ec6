"""The calibration tables that ship: each belongs to the graph that today's export makes, and can be measured again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibration.crops import crops_of, describe_source
from calibration.datasets import find_images
from calibration.fingerprint import graph_fingerprint
from calibration.measure import measure_activations
from calibration.ranges import DEFAULT_PERCENTILE, Method, activation_range
from calibration.shipped_tables import SHIPPED_TABLES, find_shipped_table
from calibration.table import CalibrationTable, read_table, write_table
from export.models import NETWORKS, Network, find_network
from export.stage import export_network
from export.weights import find_weights
from quantize.int8 import quantize_int8
from quantize.options import Effort, Int8Options
from quantize.records import made_of, recorded_options
from quantize.tables import FoundTable, TableRequest, look_for_table
from quantize.tensor_ranges import observed_tensors
from quantize.weights.shipped_rounding import find_shipped_rounding
from runtime.bundle import Bundle, Contract, sha256_bytes
from runtime.errors import UserError
from runtime.targets import TARGETS, Target, find_target
from runtime.targets.operators import Part, Row

SHIPPED = [(network, scale) for network in NETWORKS for scale in network.shipped]
RENEW = "run `make calibration-tables`"
# On one worker, so that each network is exported once.
pytestmark = pytest.mark.xdist_group("shipped tables")


@pytest.fixture(scope="module", params=SHIPPED, ids=[f"{network.name}_x{scale}" for network, scale in SHIPPED])
def shipped(request: pytest.FixtureRequest, exported: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ir.Model]:
    """The file of a shipped table, and the graph exported from the weights it is for."""
    network: Network
    network, scale = request.param
    bundle = exported
    if (exported.manifest.model, exported.manifest.scale) != (network.name, scale):
        weights = find_weights(network, scale=scale, choice="shipped")
        bundle = export_network(network, scale=scale, weights=weights, directory=tmp_path_factory.mktemp("shipped"))
    graph = onnx.load_model(bundle.path(bundle.variant("fp32")))
    return SHIPPED_TABLES / f"{network.name}_x{scale}.json", ir.from_proto(graph)


@pytest.fixture
def table(shipped: tuple[Path, ir.Model]) -> CalibrationTable:
    path, _ = shipped
    if not path.is_file():
        pytest.fail(f"{path} is missing: {RENEW}")
    return read_table(path)


def test_a_shipped_table_belongs_to_the_graph_of_its_weights(table: CalibrationTable, shipped: tuple[Path, ir.Model]) -> None:
    path, model = shipped
    assert table.graph_fingerprint == graph_fingerprint(model.graph), f"{path} was measured on another graph: {RENEW}"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_shipped_table_holds_every_tensor_that_a_target_wants(
    table: CalibrationTable, shipped: tuple[Path, ir.Model], target: Target
) -> None:
    path, model = shipped
    lacking = set(observed_tensors(model.graph, (target,))) - table.tensors.keys()
    assert not lacking, f"{path} lacks {sorted(lacking)}: {RENEW}"


def test_a_target_that_wants_more_leaves_a_table_usable_for_the_others(exported: Bundle, tmp_path: Path) -> None:
    """A made-up target that stores what a convolution gives before its ReLU, too."""
    model = onnx.load_model(exported.path(exported.variant("fp32")))
    own = read_table(SHIPPED_TABLES / "lesrcnn_x2.json")
    cpu = find_target("cpu")
    rows = tuple(Row(operator="Relu", part=Part.COMPUTE) if row.operator == "Relu" else row for row in cpu.operators)
    demanding = replace(cpu, name="demanding", operators=rows)
    graph = ir.from_proto(model).graph
    assert set(observed_tensors(graph, (*TARGETS, demanding))) > own.tensors.keys()
    bundle = Bundle.open(Path(shutil.copytree(exported.directory, tmp_path / "bundle")))
    request = TableRequest(calib="div2k", root=None, percentile=DEFAULT_PERCENTILE)

    found = look_for_table(bundle, request, graph, target=cpu)

    assert isinstance(found, FoundTable)
    assert quantize_int8(model, found.table, Int8Options(target=cpu, method=Method.PERCENTILE, effort=Effort.FAST)).int8_layers
    with pytest.raises(UserError, match=r"the calibration table lacks .* more"):
        quantize_int8(model, found.table, Int8Options(target=demanding, method=Method.PERCENTILE, effort=Effort.FAST))


def test_a_shipped_table_is_found_by_its_graph_and_data_set(table: CalibrationTable, shipped: tuple[Path, ir.Model]) -> None:
    path, model = shipped
    found = find_shipped_table(fingerprint=graph_fingerprint(model.graph), dataset=table.source.dataset)
    assert found == table, f"{path} is not found: {RENEW}"


@pytest.mark.parametrize("change", [{"fingerprint": "0" * 64}, {"dataset": "set5"}], ids=["another graph", "another data set"])
def test_a_shipped_table_is_not_found_for_anything_else(table: CalibrationTable, change: dict[str, str]) -> None:
    wanted = {"fingerprint": table.graph_fingerprint, "dataset": table.source.dataset, **change}

    assert find_shipped_table(fingerprint=wanted["fingerprint"], dataset=wanted["dataset"]) is None


def test_weights_rounded_beforehand_ship_for_every_table(table: CalibrationTable, shipped: tuple[Path, ir.Model]) -> None:
    path, model = shipped
    options = recorded_options(Int8Options(target=find_target("cpu"), method=Method.PERCENTILE))
    rounded = find_shipped_rounding(made_of(options, calibration_sha256=sha256_bytes(write_table(table))))

    layers = {str(node.name): node.inputs[1] for node in model.graph if node.op_type == "Conv"}
    assert rounded, f"{path.with_suffix('.safetensors')} was made of another table: {RENEW}"
    assert layers.keys() - rounded.keys() <= {"sub_mean.shifter"}  # the first convolution does its work
    assert all(weight.weight.dtype == np.int8 and len(weight.scale) == len(weight.bias) for weight in rounded.values())


def test_every_shipped_table_is_for_shipped_weights() -> None:
    names = {f"{network.name}_x{scale}.{kind}" for network, scale in SHIPPED for kind in ("json", "safetensors")}

    assert {path.name for path in SHIPPED_TABLES.iterdir()} == names, RENEW


QUICK = [pair for pair in SHIPPED if pair[1] == 2 or pair[0].name == "espcn"]  # the others go the same way, for minutes


@pytest.mark.parametrize("shipped", QUICK, indirect=True, ids=[f"{network.name}_x{scale}" for network, scale in QUICK])
def test_measuring_again_gives_the_shipped_table(shared: Path, table: CalibrationTable, shipped: tuple[Path, ir.Model]) -> None:
    path, model = shipped
    name, _, scale = path.stem.rpartition("_x")
    images = find_images(table.source.dataset, scale=int(scale), use="calibration", root=shared / "data")
    source = describe_source(
        images,
        scale=int(scale),
        crops=table.source.crops,
        crop_size=table.source.crop_size,
        seed=table.source.seed,
    )
    assert source == table.source, f"{path} was measured on other pictures: {RENEW}"

    every = max(1, len(table.tensors) // 10)  # of a deep network's tensors some: all are measured alike
    tensors = list(table.tensors)[::every]
    measured = measure_activations(
        model,
        crops_of(images, source, scale=int(scale), contract=Contract(colour=find_network(name, scale=int(scale)).colour)),
        tensors=tensors,
        source=source,
        percentile=DEFAULT_PERCENTILE,
    )

    # Another CPU adds up a convolution's products in another order: 1e-6 of a tensor, a thousandth allowed.
    for tensor in tensors:
        statistics = table.tensors[tensor]
        tolerance = 1e-3 * max(abs(statistics.minimum), abs(statistics.maximum))
        for method in Method:
            expected = activation_range(statistics, method=method)
            again = activation_range(measured.tensors[tensor], method=method)
            assert again == pytest.approx(expected, abs=tolerance), f"{name} {tensor} {method.value}: {RENEW}"
