"""Which tensors get a quantizer, on the exported network and on small graphs with one feature each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import onnx
import onnx_ir as ir
import pytest

from quantize.graph.placement import Placement, Role, check_operators, place_quantizers
from runtime.bundle import Bundle
from runtime.errors import UserError
from runtime.targets import TARGETS, Target, find_target
from runtime.targets.operators import Part

EACH_TARGET = pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
CPU = find_target("cpu")


@pytest.fixture
def graph(exported: Bundle) -> ir.Graph:
    return ir.load(exported.path(exported.variant("fp32"))).graph


def small_graph(nodes: str) -> ir.Graph:
    """A graph from `input` to `output`, (N, 4, H, W), in ONNX's textual syntax, with `w` a 1×1 kernel and `b` a bias."""
    model = onnx.parser.parse_model(
        f"""
        <ir_version: 10, opset_import: ["" : 18]>
        small (float[N,4,H,W] input) => (float[N,C,P,Q] output)
        <float[4,4,1,1] w = {{{", ".join(["1.0"] * 16)}}}, float[4] b = {{0.0, 0.0, 0.0, 0.0}}>
        {{ {nodes} }}
        """
    )
    for node in model.graph.node:
        node.name = node.output[0]
    return ir.from_proto(model).graph


def without(target: Target, *parts: Part) -> Target:
    return replace(target, operators=tuple(row for row in target.operators if row.part not in parts))


def nodes_of(graph: ir.Graph, op_type: str) -> Iterator[ir.Node]:
    return (node for node in graph if node.op_type == op_type)


def names(values: Iterable[ir.Value | None]) -> list[str]:
    return [str(value.name) for value in values if value is not None and value.const_value is None]


def roles(placement: Placement) -> dict[str, Role]:
    return {name: quantizer.role for name, quantizer in placement.quantizers.items()}


@EACH_TARGET
def test_every_convolution_runs_in_int8(graph: ir.Graph, exported: Bundle, target: Target) -> None:
    placement = place_quantizers(graph, target)

    convolutions = [str(node.name) for node in nodes_of(graph, "Conv")]
    assert list(placement.int8_layers) == convolutions == [layer.name for layer in exported.manifest.layers]
    assert len(convolutions) == 24


@EACH_TARGET
def test_every_int8_operator_reads_quantized_tensors(graph: ir.Graph, target: Target) -> None:
    quantizers = place_quantizers(graph, target).quantizers

    for op_type in target.int8_ops:
        for node in nodes_of(graph, op_type):
            assert set(names(node.inputs)) <= quantizers.keys(), f"{node.name} reads a tensor without quantizer"


@EACH_TARGET
def test_no_quantizer_stands_between_an_operator_and_its_fused_activation(graph: ir.Graph, target: Target) -> None:
    quantizers = place_quantizers(graph, target).quantizers

    for op_type in target.fused_activations:
        for node in nodes_of(graph, op_type):
            assert not set(names(node.inputs)) & quantizers.keys()
            if any(use.node.op_type in target.int8_ops for use in node.outputs[0].uses()):
                assert set(names(node.outputs)) <= quantizers.keys()


@EACH_TARGET
def test_an_operator_that_moves_data_takes_the_range_of_its_input(graph: ir.Graph, target: Target) -> None:
    quantizers = place_quantizers(graph, target).quantizers
    moving = [node for op_type in target.moving_ops for node in nodes_of(graph, op_type)]

    assert moving
    for node in moving:
        ranges = {quantizers[name].range_of for name in (*names(node.inputs), *names(node.outputs))}
        assert ranges == {*names(node.inputs)}


@EACH_TARGET
def test_input_output_and_the_global_skip_are_told_from_the_inner_tensors(graph: ir.Graph, target: Target) -> None:
    by_role = {role: {name for name, has in roles(place_quantizers(graph, target)).items() if has is role} for role in Role}

    assert by_role[Role.INPUT] == {"input"}
    assert by_role[Role.OUTPUT] == {"output"}
    # The first layer's features, and their sum with the trunk's.
    assert by_role[Role.SKIP] == {"relu_1", "add_9"}
    residual_adds = [f"relu_{index}" for index in range(3, 16 if target.fuses_addition else 18, 2)]  # the last is only added to
    assert {"relu_18", "depthtospace_1", *residual_adds} <= by_role[Role.INNER]


def test_a_tensor_read_by_more_than_its_activation_gets_a_quantizer() -> None:
    graph = small_graph("first = Conv(input, w, b) active = Relu(first) output = Add(first, active)")

    assert place_quantizers(graph, CPU).quantizers.keys() == {"input", "first", "active", "output"}


def test_without_fused_activations_a_quantizer_stands_before_each() -> None:
    graph = small_graph("first = Conv(input, w, b) active = Relu(first) output = Conv(active, w, b)")

    unfused = place_quantizers(graph, without(CPU, Part.FUSED))

    assert unfused.quantizers.keys() == {"input", "first", "active", "output"}
    assert place_quantizers(graph, CPU).quantizers.keys() == {"input", "active", "output"}


def test_without_moving_operators_what_they_move_has_its_own_range() -> None:
    graph = small_graph(
        'first = Conv(input, w, b) moved = DepthToSpace <blocksize = 2, mode = "CRD"> (first) output = Add(moved, moved)'
    )

    own = place_quantizers(graph, without(CPU, Part.MOVE))

    assert own.quantizers["moved"].range_of == "moved"
    assert place_quantizers(graph, CPU).quantizers["moved"].range_of == "first"


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param("k = Reshape <allowzero = 0> (w, input) output = Conv(input, k)", id="a kernel that is computed"),
        pytest.param("output = Add(input, b)", id="an Add of a constant"),
        pytest.param("output = Sigmoid(input)", id="an operator the target lacks"),
    ],
)
def test_what_the_target_cannot_run_in_int8_is_left_alone(nodes: str) -> None:
    placement = place_quantizers(small_graph(nodes), CPU)

    assert (placement.int8_layers, dict(placement.quantizers)) == ((), {})


@pytest.mark.parametrize(("depth", "role"), [(1, Role.INNER), (3, Role.SKIP)], ids=["half of the depth", "three quarters of it"])
def test_a_skip_is_global_over_more_than_half_of_the_depth(depth: int, role: Role) -> None:
    steps = ["base = Conv(input, w, b)"]
    steps += [f"step{index + 1} = Conv({'base' if index == 0 else f'step{index}'}, w, b)" for index in range(depth)]
    graph = small_graph(f"{' '.join(steps)} sum = Add(base, step{depth}) output = Conv(sum, w, b)")

    found = roles(place_quantizers(graph, CPU))

    assert (found["base"], found["sum"], found[f"step{depth}"]) == (role, role, Role.INNER)


def test_the_output_of_a_network_that_ends_in_depth_to_space_is_an_output() -> None:
    """As in ESPCN: what is on both sides of the shuffle is the picture, and its range is that of a picture."""
    graph = small_graph('last = Conv(input, w, b) output = DepthToSpace <blocksize = 2, mode = "CRD"> (last)')

    quantizers = place_quantizers(graph, CPU).quantizers

    assert quantizers["output"].range_of == quantizers["last"].range_of
    assert {quantizer.role for name, quantizer in quantizers.items() if name != "input"} == {Role.OUTPUT}


# What targets differ in


RESIDUAL = "a = Conv (input, w, b) r = Relu (a) c = Conv (r, w, b) s = Add (r, c) t = Relu (s) output = Conv (t, w, b)"


@pytest.mark.parametrize("name", ["openvino", "tensorrt"])
def test_an_addition_inside_a_convolution_has_a_quantizer_on_the_other_branch_alone(name: str) -> None:
    quantizers = place_quantizers(small_graph(RESIDUAL), find_target(name)).quantizers
    assert quantizers.keys() == {"input", "r", "t", "output"}


def test_an_addition_of_its_own_has_one_on_both_branches() -> None:
    quantizers = place_quantizers(small_graph(RESIDUAL), CPU).quantizers
    assert quantizers.keys() == {"input", "r", "c", "t", "output"}


def test_an_addition_of_two_convolutions_goes_into_the_first() -> None:
    graph = small_graph("a = Conv (input, w, b) c = Conv (input, w, b) output = Add (a, c)")
    assert place_quantizers(graph, find_target("tensorrt")).quantizers.keys() == {"input", "c"}


@pytest.mark.parametrize("name", ["vacc", "npu", "npu-pow2"])
def test_a_target_of_int8_alone_refuses_an_operator_it_has_not(name: str) -> None:
    graph = small_graph("a = Conv (input, w, b) output = Erf (a)")
    with pytest.raises(UserError, match=f"target {name} runs everything in int8, and has no Erf") as caught:
        check_operators(graph, find_target(name))
    assert "Conv" in str(caught.value)


# Operators of other people's networks


def test_what_is_only_joined_takes_the_range_of_what_it_is_joined_into() -> None:
    graph = small_graph("a = Conv (input, w, b) c = Conv (a, w, b) j = Concat <axis = 1> (a, c) r = Relu (j) output = Identity (r)")

    quantizers = place_quantizers(graph, find_target("npu")).quantizers

    assert {name: quantizers[name].range_of for name in ("a", "c", "j")} == {"a": "a", "c": "j", "j": "j"}


def test_every_output_of_a_split_has_a_quantizer_of_its_input_s_range() -> None:
    graph = small_graph("a = Conv (input, w, b) l, r = Split <axis = 1, num_outputs = 2> (a) output = Concat <axis = 1> (r, l)")

    quantizers = place_quantizers(graph, CPU).quantizers

    assert {quantizers[name].range_of for name in ("a", "l", "r")} == {"a"}


def test_sizes_and_what_is_computed_from_them_have_no_quantizer() -> None:
    graph = small_graph(
        "a = Conv (input, w, b) s = Shape (a) f = Cast <to = 1> (s) m = ReduceMax <keepdims = 0> (f)"
        " d = Add (m, m) e = Div (a, d) g = Reshape (e, s) output = Conv (g, w, b)"
    )

    assert place_quantizers(graph, CPU).quantizers.keys() == {"input", "a", "e", "g", "output"}


def test_a_product_of_activations_has_both_signed_unless_the_first_is_never_negative() -> None:
    graph = small_graph("a = Conv (input, w, b) p = Softmax (a) c = Conv (input, w, b) output = MatMul (p, c)")

    placement = place_quantizers(graph, CPU)

    assert placement.int8_products == ("output",)
    assert {name: placement.quantizers[name].signed for name in ("p", "c", "input")} == {"p": False, "c": True, "input": False}
