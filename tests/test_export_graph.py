"""The exported graph: the network at the opset asked for, for any size or one, named, weighed, and compared with torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from calibration.crops import crops_of, describe_source
from calibration.datasets import find_images
from calibration.measure import measure_activations
from calibration.pieces import stream_tensors
from calibration.ranges import Method
from calibration.table import CalibrationSource
from calibration.watch import watch_tensors
from export.arithmetic import count_macs
from export.models import NETWORKS, Network, find_network
from export.onnx_export import INPUT, NATIVE_OPSET, OPSET_RANGE, OUTPUT, convert_opset, export_graph
from export.parity import TOLERANCE, make_reference, run_torch
from export.passes import EXTRA_PASSES, PASSES, Pass, run_passes, select_passes
from export.passes.depth_to_space import with_shuffles
from export.reach import receptive_halo
from export.stage import FP32_FILE, export_network, exported_already
from export.weights import Weights, find_weights, load_module
from quantize.int8 import quantize_int8
from quantize.options import Int8Options
from quantize.tensor_ranges import observed_tensors
from runtime.backends import BACKENDS, open_backend
from runtime.bundle import MANIFEST, Bundle, Contract, PassRecord, sha256_file
from runtime.errors import PipelineError, UserError
from runtime.targets import find_target
from tests.graphs import CHANNELS, Graph

pytestmark = pytest.mark.xdist_group("export_graph")  # one worker traces each network once, for all of this file

SHAPES = [(1, 1, 1), (2, 17, 30), (1, 41, 23)]  # N, H, W
STATIC = (19, 26)
ALL_PASSES = select_passes([], extra=[step.name for step in EXTRA_PASSES])
_REPEATED = re.compile(r"body\.([3-9]|\d\d+)\.")
cases = pytest.mark.parametrize(("name", "scale"), [(network.name, scale) for network in NETWORKS for scale in network.scales])
networks = pytest.mark.parametrize(("name", "scale"), [(network.name, network.scales[0]) for network in NETWORKS])


@cache
def _module(name: str, scale: int) -> nn.Module:
    """The network with random weights: what is tested here holds for any."""
    torch.manual_seed(0)
    return _build(name, scale).eval()


def _build(name: str, scale: int) -> nn.Module:
    """The network, less the repetitions of a deep trunk: three of its blocks show what thirty-two would."""
    network = find_network(name, scale=scale)
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in network.build(scale).state_dict().items()}
    return network.build_for(scale, {key: shape for key, shape in shapes.items() if not _REPEATED.match(key)})


def _channels(name: str) -> int:
    return _contract(name).channels


def _contract(name: str) -> Contract:
    return next(network.contract for network in NETWORKS if network.name == name)


def _factor(name: str, scale: int) -> int:
    """How many times larger the graph's output is than its input."""
    return 1 if _contract(name).pre_upscale else scale


@cache
def _raw_graph(name: str, scale: int) -> onnx.ModelProto:
    return ir.to_proto(export_graph(_module(name, scale), channels=_channels(name), static_shape=None))


@cache
def _rewritten(name: str, scale: int, passes: tuple[Pass, ...]) -> tuple[onnx.ModelProto, tuple[PassRecord, ...]]:
    """The graph after `passes`, each run once, on what those before it made; and what was told of each."""
    if not passes:
        return _raw_graph(name, scale), ()
    before, records = _rewritten(name, scale, passes[:-1])
    model, (_, record) = run_passes(ir.from_proto(before), passes=passes[-1:])
    return ir.to_proto(model), (*records, record)


@cache
def _made(name: str, scale: int, passes: tuple[Pass, ...]) -> NDArray[np.float32]:
    """What the graph after `passes` makes of noise."""
    return _run(_rewritten(name, scale, passes)[0], _noise((2, _channels(name), 17, 30)))


def _graph(name: str, scale: int, *, passes: tuple[Pass, ...] = PASSES) -> ir.Model:
    return ir.from_proto(_rewritten(name, scale, passes)[0])


Export = Callable[..., Bundle]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports a network with random weights through the whole stage, of a trace that all tests share; each is made once."""

    def traced(name: str, scale: int, _: nn.Module, *, channels: int, static_shape: None) -> ir.Model:
        assert (channels, static_shape) == (_channels(name), None)
        return ir.from_proto(_raw_graph(name, scale))

    @cache
    def exporting(name: str, scale: int, *, opset: int = NATIVE_OPSET, static_shape: tuple[int, int] | None = None) -> Bundle:
        network = find_network(name, scale=scale)
        folder = tmp_path_factory.mktemp(f"{name}_x{scale}")
        torch.save(_module(name, scale).state_dict(), folder / "weights.pth")
        weights = find_weights(network, scale=scale, choice=str(folder / "weights.pth"))
        with pytest.MonkeyPatch.context() as patch:
            if static_shape is None:
                patch.setattr("export.stage.export_graph", partial(traced, name, scale))
            return export_network(
                network, scale=scale, weights=weights, directory=folder / "bundle", opset=opset, static_shape=static_shape
            )

    return exporting


def _proto(bundle: Bundle) -> onnx.ModelProto:
    return onnx.load(bundle.path(bundle.variant("fp32")))


def _opset(model: onnx.ModelProto) -> int:
    (imported,) = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return int(imported)


def _noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(1).random(shape, np.float32)


def _run(model: onnx.ModelProto, array: NDArray[np.float32]) -> NDArray[np.float32]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run([OUTPUT], {INPUT: array})
    result: NDArray[np.float32] = output
    return result


def _run_torch(module: nn.Module, array: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        output: NDArray[np.float32] = module(torch.from_numpy(array)).numpy()
    return output


def _lesrcnn() -> Network:
    return find_network("lesrcnn", scale=2)


def _shipped(network: Network) -> Weights:
    return find_weights(network, scale=2, choice="shipped")


# What a graph is exported with


@cases
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_exported_graph_runs_on_any_batch_and_size_as_torch_does(
    export: Export, name: str, scale: int, shape: tuple[int, ...]
) -> None:
    (batch, height, width), channels = shape, _channels(name)
    noise = _noise((batch, channels, height, width))
    output = _run(_proto(export(name, scale)), noise)
    factor = _factor(name, scale)
    assert output.shape == (batch, channels, height * factor, width * factor)
    assert np.abs(output - _run_torch(_module(name, scale), noise)).max() < TOLERANCE


@networks
@pytest.mark.parametrize("opset", OPSET_RANGE)
def test_a_graph_at_the_opset_asked_for_still_runs_on_any_size(name: str, scale: int, opset: int) -> None:
    model = convert_opset(ir.to_proto(_graph(name, scale)), opset)
    assert _opset(model) == opset
    onnx.checker.check_model(model, full_check=True)
    noise = _noise((2, _channels(name), 17, 30))
    assert np.abs(_run(model, noise) - _run_torch(_module(name, scale), noise)).max() < TOLERANCE


@pytest.mark.parametrize("opset", [OPSET_RANGE[0], NATIVE_OPSET, OPSET_RANGE[1]])
def test_the_graph_of_a_bundle_has_the_opset_asked_for(export: Export, opset: int) -> None:
    bundle = export("espcn", 3, opset=opset)
    assert _opset(_proto(bundle)) == bundle.variant("fp32").opset == opset


@pytest.mark.parametrize("opset", [OPSET_RANGE[0] - 1, OPSET_RANGE[1] + 1, 0, -1])
def test_an_opset_outside_the_range_names_the_range(opset: int, tmp_path: Path) -> None:
    network = _lesrcnn()
    with pytest.raises(UserError, match=f"opset {opset} .*from {OPSET_RANGE[0]} to {OPSET_RANGE[1]}") as caught:
        export_network(network, scale=2, weights=_shipped(network), directory=tmp_path / "bundle", opset=opset)
    assert "--opset" in caught.value.hint
    assert not (tmp_path / "bundle").exists()


class _Reduced(nn.Module):
    """The largest channel of each pixel, less each channel's mean and sum."""

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        sums = picture.mean((2, 3), keepdim=True) + picture.sum((2, 3), keepdim=True)
        return torch.relu(picture.amax(1, keepdim=True) - sums)


@cache
def _reduced_graph() -> onnx.ModelProto:
    return ir.to_proto(run_passes(export_graph(_Reduced().eval(), channels=3, static_shape=None))[0])


@pytest.mark.parametrize("opset", range(OPSET_RANGE[0], OPSET_RANGE[1] + 1))
def test_reductions_have_their_axes_where_the_opset_has_them(opset: int) -> None:
    model = convert_opset(_reduced_graph(), opset)
    onnx.checker.check_model(model, full_check=True)
    noise = _noise((2, 3, 17, 30)) * np.float32(0.001)  # sums stay below 1
    assert np.abs(_run(model, noise) - _run_torch(_Reduced(), noise)).max() < TOLERANCE


@networks
def test_a_static_graph_has_its_shape_in_the_file_and_the_manifest(export: Export, name: str, scale: int) -> None:
    bundle = export(name, scale, static_shape=STATIC)
    (declared,) = _proto(bundle).graph.input
    assert [dimension.dim_value for dimension in declared.type.tensor_type.shape.dim] == [1, _channels(name), *STATIC]
    assert bundle.manifest.contract.static_shape == STATIC
    noise = _noise((1, _channels(name), *STATIC))
    assert np.abs(_run(_proto(bundle), noise) - _run_torch(_module(name, scale), noise)).max() < TOLERANCE


@networks
def test_a_graph_without_static_shape_fixes_the_channels_alone(export: Export, name: str, scale: int) -> None:
    (declared,) = _proto(export(name, scale)).graph.input
    assert [dimension.dim_value for dimension in declared.type.tensor_type.shape.dim] == [0, _channels(name), 0, 0]


@networks
def test_the_graph_says_nothing_of_the_machine_it_was_made_on(export: Export, name: str, scale: int) -> None:
    bundle = export(name, scale)
    data = bundle.path(bundle.variant("fp32")).read_bytes()
    assert str(Path(torch.__file__).parent).encode() not in data
    assert str(Path(__file__).parents[1]).encode() not in data


# The manifest


@cases
def test_parity_is_recorded_and_within_its_tolerance(export: Export, name: str, scale: int) -> None:
    parity = export(name, scale).variant("fp32").parity
    assert parity is not None
    assert 0 <= parity.max_abs_difference <= parity.tolerance == TOLERANCE
    assert parity.shape[2] != parity.shape[3]
    assert parity.shape[2] % 2 == parity.shape[3] % 2 == 1


@cases
def test_the_manifest_says_what_was_exported_from_what(export: Export, name: str, scale: int) -> None:
    bundle = export(name, scale)
    manifest, fp32 = bundle.manifest, bundle.variant("fp32")
    assert (manifest.model, manifest.scale) == (name, scale)
    assert manifest.checkpoint.sha256 == sha256_file(bundle.directory.parent / "weights.pth") == fp32.parent_sha256
    assert [record.name for record in fp32.passes] == ["as traced", *(step.name for step in PASSES)]
    assert {"torch", "onnx", "sredge"} <= fp32.tools.keys()


@networks
def test_the_same_inputs_give_the_same_bytes(export: Export, name: str, scale: int, tmp_path: Path) -> None:
    first = export(name, scale)
    network = find_network(name, scale=scale)
    weights = find_weights(network, scale=scale, choice=str(first.directory.parent / "weights.pth"))
    export_network(network, scale=scale, weights=weights, directory=tmp_path / "again")
    for name in (FP32_FILE, MANIFEST):
        assert (tmp_path / "again" / name).read_bytes() == (first.directory / name).read_bytes(), name


def test_a_new_export_takes_the_graphs_made_from_the_old_one_away(bundle_copy: Bundle) -> None:
    network = _lesrcnn()
    export_network(network, scale=2, weights=_shipped(network), directory=bundle_copy.directory, static_shape=STATIC)
    assert {path.name for path in bundle_copy.directory.iterdir()} == {MANIFEST, FP32_FILE}


def test_an_export_of_the_same_graph_keeps_what_was_made_from_it(bundle_copy: Bundle) -> None:
    network = _lesrcnn()
    again = export_network(network, scale=2, weights=_shipped(network), directory=bundle_copy.directory)
    assert {part.file: part for part in again.manifest.parts} == {part.file: part for part in bundle_copy.manifest.parts}


def _done_already(
    bundle: Bundle, *, weights: Weights | None = None, opset: int = NATIVE_OPSET, static_shape: tuple[int, int] | None = None
) -> Bundle | None:
    network = _lesrcnn()
    asked = weights if weights is not None else _shipped(network)
    return exported_already(network, scale=2, weights=asked, directory=bundle.directory, opset=opset, static_shape=static_shape)


def test_an_export_is_known_to_be_done_already(exported: Bundle) -> None:
    assert _done_already(exported) == exported


@pytest.mark.parametrize(("opset", "static_shape"), [(NATIVE_OPSET - 1, None), (NATIVE_OPSET, STATIC)], ids=str)
def test_an_export_with_other_options_is_not_done_already(
    exported: Bundle, opset: int, static_shape: tuple[int, int] | None
) -> None:
    assert not _done_already(exported, opset=opset, static_shape=static_shape)


def test_an_export_with_other_weights_is_not_done_already(exported: Bundle, export: Export) -> None:
    other = find_weights(_lesrcnn(), scale=2, choice=str(export("lesrcnn", 2).directory.parent / "weights.pth"))
    assert not _done_already(exported, weights=other)


def test_a_damaged_bundle_is_not_taken_for_an_export_done_already(bundle_copy: Bundle) -> None:
    bundle_copy.path(bundle_copy.variant("fp32")).write_bytes(b"")
    assert not _done_already(bundle_copy)


# Parity


def _shift_the_output(module: nn.Module) -> None:
    with torch.no_grad():
        module.get_parameter("add_mean.shifter.bias").add_(1.5 * TOLERANCE)


def _spoil_with_nan(module: nn.Module) -> None:
    with torch.no_grad():
        module.get_parameter("conv18.0.weight")[0, 0, 0, 0] = torch.nan


@pytest.mark.parametrize("spoil", [_shift_the_output, _spoil_with_nan])
def test_a_graph_that_differs_from_torch_is_refused(exported: Bundle, spoil: Callable[[nn.Module], None]) -> None:
    network = _lesrcnn()
    module = load_module(network, scale=2, weights=_shipped(network))
    graph = exported.read(exported.variant("fp32"))
    make_reference(partial(run_torch, module), Contract()).check(graph)
    spoil(module)
    with pytest.raises(PipelineError, match="differs from the network"):
        make_reference(partial(run_torch, module), Contract()).check(graph)


def test_a_graph_whose_output_has_another_shape_is_refused(exported: Bundle) -> None:
    reference = make_reference(partial(run_torch, _module("lesrcnn", 3)), Contract())
    with pytest.raises(PipelineError, match=r"gives \(1, 3, 74, 106\) .* the network gives \(1, 3, 111, 159\)"):
        reference.check(exported.read(exported.variant("fp32")))


class _TwoFaced(nn.Module):
    """Brighter where it is traced than where it is run."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3 * scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        larger: torch.Tensor = self.shuffle(self.conv(picture))
        return larger + 0.01 if torch.compiler.is_exporting() else larger


def test_an_export_that_fails_leaves_the_old_bundle(bundle_copy: Bundle, tmp_path: Path) -> None:
    network = Network(name="two-faced", paper="unpublished, 2026", scales=(2,), build=_TwoFaced)
    torch.save(_TwoFaced(2).state_dict(), tmp_path / "weights.pth")
    weights = find_weights(network, scale=2, choice=str(tmp_path / "weights.pth"))
    with pytest.raises(PipelineError, match=r"differs from the network by 1\.0e-02"):
        export_network(network, scale=2, weights=weights, directory=bundle_copy.directory)
    assert Bundle.open(bundle_copy.directory) == bundle_copy


# Passes


@pytest.mark.parametrize("index", range(len(PASSES)), ids=[step.name for step in PASSES])
@networks
def test_a_pass_keeps_what_the_graph_computes(name: str, scale: int, index: int) -> None:
    before, after = (_made(name, scale, PASSES[:count]) for count in (index, index + 1))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)  # the order of float32 sums; an 8-bit step is 4e-3


@pytest.mark.parametrize("step", PASSES, ids=lambda step: step.name)
@networks
def test_a_pass_says_what_it_changed(name: str, scale: int, step: Pass) -> None:
    _, records = _rewritten(name, scale, PASSES)
    (changes,) = [record.changes for record in records if record.name == step.name]
    assert any(character.isdecimal() for character in changes)


def test_no_two_passes_share_a_name() -> None:
    assert len({step.name for step in (*PASSES, *EXTRA_PASSES)}) == len(PASSES) + len(EXTRA_PASSES)


@cases
def test_a_shuffle_written_out_changes_nothing_but_the_operators(name: str, scale: int) -> None:
    usual, lowered = _graph(name, scale), _graph(name, scale, passes=ALL_PASSES)
    restored = with_shuffles(lowered)
    assert receptive_halo(restored.graph) == receptive_halo(usual.graph)
    assert count_macs(ir.to_proto(restored)) == count_macs(ir.to_proto(usual))
    noise, expected = _noise((2, _channels(name), 17, 30)), _made(name, scale, PASSES)
    for opset in OPSET_RANGE:
        proto = convert_opset(ir.to_proto(lowered), opset)
        assert "DepthToSpace" not in {node.op_type for node in proto.graph.node}
        np.testing.assert_allclose(_run(proto, noise), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("static_shape", "shapes_read"), [(None, 1), (STATIC, 0)], ids=["free", "fixed"])
def test_a_bundle_with_shuffles_written_out_says_so_and_nothing_else_differs(
    export: Export, static_shape: tuple[int, int] | None, shapes_read: int, tmp_path: Path
) -> None:
    usual = export("lesrcnn", 2, static_shape=static_shape)
    lowered = export_network(
        _lesrcnn(),
        scale=2,
        weights=find_weights(_lesrcnn(), scale=2, choice=str(usual.directory.parent / "weights.pth")),
        directory=tmp_path / "lowered",
        opset=OPSET_RANGE[0],
        static_shape=static_shape,
        passes=ALL_PASSES,
    )
    operators = [node.op_type for node in _proto(lowered).graph.node]
    assert (operators.count("Reshape"), operators.count("Transpose"), operators.count("Shape")) == (2, 1, shapes_read)
    assert lowered.variant("fp32").options["with"] == ("lower-depth-to-space",)
    assert {record.macs for record in lowered.variant("fp32").passes[-2:]} == {usual.manifest.macs}
    for field in ("contract", "halo", "layers"):
        assert getattr(lowered.manifest, field) == getattr(usual.manifest, field), field


@cases
def test_every_node_and_tensor_has_a_name_of_its_own(name: str, scale: int) -> None:
    graph = _graph(name, scale).graph
    nodes = [node.name for node in graph]
    tensors = [output.name for node in graph for output in node.outputs] + list(graph.initializers)
    for names in (nodes, tensors):
        assert all(names)
        assert sorted(names, key=str) == sorted(set(names), key=str)


@cases
def test_a_layer_is_named_after_weights_of_its_own(name: str, scale: int) -> None:
    layers = [str(node.name).partition("@")[0] for node in _graph(name, scale).graph if node.op_type == "Conv"]
    kept = {layer for layer in layers if not re.fullmatch(r"conv_\d+", layer)}  # the others' weights are made of several
    assert kept
    assert kept <= _macs_by_torch(name, scale).keys()


def _invent_an_operator(model: ir.Model) -> tuple[ir.Model, str]:
    next(iter(model.graph)).op_type = "Levitate"
    return model, "1 node"


def _contradict_a_shape(model: ir.Model) -> tuple[ir.Model, str]:
    for node in model.graph:
        node.outputs[0].shape = ir.Shape([1, 1, 1, 7])
    return model, "all shapes"


@pytest.mark.parametrize("rewrite", [_invent_an_operator, _contradict_a_shape])
def test_a_pass_that_breaks_the_graph_is_named(rewrite: Callable[[ir.Model], tuple[ir.Model, str]]) -> None:
    with pytest.raises(PipelineError, match="pass 'vandal' left an invalid graph"):
        _graph("lesrcnn", 2, passes=(*PASSES, Pass("vandal", rewrite)))


# Arithmetic


def _macs_by_torch(name: str, scale: int) -> dict[str, int]:
    """MACs of the convolutions that really run on one 128×128 input, by name, without computing them."""
    macs: dict[str, int] = {}

    def count(layer: nn.Module, _: object, output: torch.Tensor, *, name: str) -> None:
        macs[name] = macs.get(name, 0) + output.numel() * int(np.prod(layer.get_parameter("weight").shape[1:]))

    with torch.device("meta"):
        module = _build(name, scale).eval()
        for layer_name, layer in module.named_modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(partial(count, name=layer_name))
        module(torch.zeros(1, _channels(name), 128, 128))
    return macs


@cases
def test_macs_are_those_of_the_convolutions_torch_runs(name: str, scale: int) -> None:
    assert sum(layer.macs for layer in count_macs(_raw_graph(name, scale))) == sum(_macs_by_torch(name, scale).values())


@pytest.mark.parametrize(("scale", "giga_macs"), [(2, 20.0), (3, 38.2), (4, 68.7)])
def test_lesrcnn_costs_what_is_published(scale: int, giga_macs: float) -> None:
    layers = count_macs(_raw_graph("lesrcnn", scale))
    assert sum(layer.macs for layer in layers) / 1e9 == pytest.approx(giga_macs, abs=0.1)  # shared/MODELS.md


@cases
def test_every_layer_of_the_manifest_is_a_node_of_the_graph(export: Export, name: str, scale: int) -> None:
    bundle = export(name, scale)
    assert [layer.name for layer in bundle.manifest.layers] == [
        node.name for node in _proto(bundle).graph.node if node.op_type == "Conv"
    ]


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "Tanh"])
@pytest.mark.parametrize("backend", [entry.name for entry in BACKENDS if entry.opens_graphs])
def test_a_layer_is_known_again_where_a_backend_fuses_the_activation_behind_it(backend: str, activation: str) -> None:
    small = Graph(0)
    further: list[float] = {"PRelu": [0.25], "Clip": [0.0, 1.0]}.get(activation, [])
    value = small.add(activation, small.conv("input", 8, 3), *(small.constant(np.array(number)) for number in further))
    model, _ = run_passes(small.model(small.conv(value, 3, 3)))
    proto = ir.to_proto(model)
    with open_backend(backend, proto.SerializeToString(), precision="fp32") as opened:
        opened.run(_noise((1, CHANNELS, 17, 30)))
        told = {layer.name for layer in opened.precisions()}
    for layer in count_macs(proto):
        assert told & {layer.name, *layer.aliases}, f"{backend} tells of {told}"


def _reach(module: nn.Module, factor: int, channels: int, *, middle: int) -> int | Literal["global"]:
    """How far an input pixel reaches, in input pixels: a NaN there turns every output pixel that depends on it into NaN."""
    side = 2 * middle + 1
    picture = torch.zeros(1, channels, side, side)
    picture[..., middle, middle] = torch.nan
    with torch.no_grad():
        touched = torch.isnan(module(picture))[0].any(dim=0)
    if bool(touched.all()):
        return "global"
    rows, columns = torch.nonzero(touched).div(factor, rounding_mode="floor").T
    return int(max((rows - middle).abs().max(), (columns - middle).abs().max()))


@cases
def test_the_halo_is_exactly_how_far_a_pixel_reaches(export: Export, name: str, scale: int) -> None:
    halo = export(name, scale).manifest.halo
    middle = 10 if halo == "global" else halo + 5
    assert halo == _reach(_module(name, scale), _factor(name, scale), _channels(name), middle=middle)


def test_an_operator_of_unknown_reach_makes_the_halo_global_and_is_named() -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> g (float[1,3,8,8] {INPUT}) => (float[1,3,8,8] {OUTPUT}) '
        f"{{ {OUTPUT} = Softmax({INPUT}) }}"
    )
    halo, operator = receptive_halo(ir.from_proto(model).graph)
    assert halo == "global"
    assert operator.startswith("Softmax")


@pytest.mark.parametrize(("kernel", "dilation", "halo"), [(1, 1, 0), (3, 1, 1), (9, 1, 4), (3, 2, 2), (5, 3, 6)])
def test_the_halo_of_one_convolution_follows_its_kernel_and_dilation(kernel: int, dilation: int, halo: int) -> None:
    small = Graph(0)
    assert receptive_halo(small.model(_conv(small, "input", kernel, dilations=[dilation] * 2)).graph) == (halo, "")


def _conv(graph: Graph, source: str, kernel: int, outputs: int = CHANNELS, **attributes: list[int]) -> str:
    """As large as what it reads, but for its strides."""
    pads = [kernel // 2 * attributes.get("dilations", [1])[0]] * 4
    weight = graph.constant(graph.random(outputs, graph.channels[source], kernel, kernel))
    return graph.add("Conv", source, weight, channels=outputs, pads=pads, **attributes)


def _strided(graph: Graph) -> str:
    return _conv(graph, _conv(graph, "input", 3, strides=[2, 2]), 3)


def _dilated(graph: Graph) -> str:
    return _conv(graph, "input", 3, dilations=[2, 2])


def _shuffled(graph: Graph) -> str:
    return _conv(graph, graph.shuffle(_conv(graph, "input", 3, outputs=16)), 5)


@pytest.mark.parametrize(("build", "expected"), [(_strided, 3), (_dilated, 2), (_shuffled, 2)])
def test_the_halo_follows_strides_dilations_and_shuffles(build: Callable[[Graph], str], expected: int) -> None:
    small = Graph(0, sides=(16, 16))
    assert receptive_halo(run_passes(small.model(build(small)))[0].graph) == (expected, "")


# What comes after it


@cache
def _crop(contract: Contract, scale: int) -> tuple[CalibrationSource, NDArray[np.float32]]:
    images = find_images("samples", scale=scale, use="calibration")
    source = describe_source(images, scale=scale, crops=1, crop_size=(24, 24))
    (crop,) = crops_of(images, source, scale=scale, contract=contract)
    return source, crop


@networks
def test_every_networks_tensors_are_the_same_piece_by_piece(name: str, scale: int) -> None:
    model = _graph(name, scale)
    _, crop = _crop(_contract(name), scale)
    tensors = observed_tensors(model.graph)
    (wanted,) = watch_tensors(model, iter([crop]), tensors)
    for _, values in stream_tensors(model, iter([crop]), tensors, most_bytes=1):
        for tensor, found in values.items():
            largest = float(np.abs(wanted[tensor]).max())
            np.testing.assert_allclose(found, wanted.pop(tensor), rtol=0, atol=1e-5 * largest, err_msg=tensor)
    assert not wanted.keys() & set(tensors)


@cases
@pytest.mark.parametrize("opset", OPSET_RANGE)
def test_every_network_quantizes_at_the_ends_of_the_opset_range(name: str, scale: int, opset: int) -> None:
    model = convert_opset(ir.to_proto(_graph(name, scale)), opset)
    source, crop = _crop(_contract(name), scale)
    graph = ir.from_proto(model)
    table = measure_activations(graph, iter([crop]), tensors=observed_tensors(graph.graph), source=source, percentile=99.99)
    options = Int8Options(target=find_target("cpu"), method=Method.MINMAX)
    quantized = quantize_int8(model, table, options)
    assert len((*quantized.int8_layers, *quantized.merged_layers)) == sum(node.op_type == "Conv" for node in model.graph.node)
    error = np.clip(_run(quantized.model, crop), 0, 1) - np.clip(_run(model, crop), 0, 1)
    assert np.sqrt(np.mean(np.square(error))) < 0.1  # untrained weights; what is wired wrongly is off by a third
