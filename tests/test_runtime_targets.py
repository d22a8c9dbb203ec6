"""Targets are data: what one promises can be had from ONNX and from the backends there are."""

from __future__ import annotations

import onnx
import pytest

from export.onnx_export import NATIVE_OPSET, OPSET_RANGE
from runtime.backends import BACKENDS
from runtime.errors import UnknownNameError
from runtime.targets import TARGETS, Target, find_target

targets = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@targets
def test_a_target_is_found_by_its_name(target: Target) -> None:
    assert find_target(target.name) is target


def test_no_two_targets_share_a_name() -> None:
    assert len({target.name for target in TARGETS}) == len(TARGETS)


@pytest.mark.parametrize("name", ["abacus", "", "CPU "])
def test_an_unknown_target_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        find_target(name)
    assert repr(name) in str(caught.value)
    assert all(target.name in str(caught.value) for target in TARGETS)


@targets
def test_a_target_takes_graphs_at_the_opset_export_gives_by_default(target: Target) -> None:
    low, high = target.opset_range
    assert high >= NATIVE_OPSET
    # quantize raises it for float16 scales, and for 16-bit codes
    assert low <= NATIVE_OPSET or target.float_dtype == "float16" or target.has_wide_codes


@targets
def test_a_target_takes_no_opset_that_export_cannot_give(target: Target) -> None:
    assert OPSET_RANGE[0] <= target.opset_range[0]
    assert target.opset_range[1] <= OPSET_RANGE[1]


@targets
def test_weights_can_be_quantized_per_channel_at_the_lowest_opset(target: Target) -> None:
    assert "axis" in onnx.defs.get_schema("DequantizeLinear", target.opset_range[0]).attributes


@targets
def test_the_operators_a_target_names_exist_in_onnx(target: Target) -> None:
    for row in target.operators:
        assert onnx.defs.has(row.operator, target.opset_range[1]), row


@targets
def test_a_row_names_attributes_that_its_operator_has_and_values_of_their_type(target: Target) -> None:
    for row in target.operators:
        schema = onnx.defs.get_schema(row.operator, target.opset_range[1])
        for name, allowed in row.attributes:
            default = onnx.helper.get_attribute_value(schema.attributes[name].default_value)
            assert {type(value) for value in allowed} == {str if isinstance(default, bytes) else type(default)}, row


@targets
def test_the_backends_of_a_target_are_backends(target: Target) -> None:
    assert target.backends
    assert set(target.backends) <= {backend.name for backend in BACKENDS}


@targets
def test_a_target_can_run_what_quantize_writes_for_it(target: Target) -> None:
    assert "int8" in target.precisions


@targets
def test_what_a_target_says_of_itself_is_one_line(target: Target) -> None:
    assert target.description
    assert target.description.splitlines() == [target.description]
