"""How far a graph looks: followed operator by operator, and held against what ONNX Runtime gives for tiles of it."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.reach import ReceptiveField, measured_field, receptive_field
from runtime.bundle import Contract
from runtime.sizes import round_up
from tests import reach_graphs as steps
from tests.graphs import Graph

Array = NDArray[np.float32]
_LEAST = 16  # pixels per side of the tiles, as the runtime's
_CHANNELS = 4
_MOST_FACTOR, _MOST_ALIGNMENT = 4, 96  # larger ones would take a gibibyte


class Case(NamedTuple):
    """A step, the multiple of its sizes, and what is expected of it: the halo and the alignment."""

    step: steps.Step
    halo: int
    alignment: int = 1
    multiple: int = 1


LOCAL = {
    "convolution": Case(steps.conv(3), 1),
    "dilated": Case(steps.conv(3, dilations=[2, 2]), 2),
    "depthwise": Case(steps.conv(5, groups=4), 2),
    "even kernel, same": Case(steps.conv(4, auto_pad="SAME_UPPER"), 2),
    "asymmetric pads": Case(steps.conv(3, pads=[2, 0, 0, 2]), 2),
    "strided and shuffled": Case(steps.chain(steps.conv(3, strides=[2, 2]), steps.shuffle()), 2, 2, 2),
    "transposed convolution": Case(steps.transposed(4, 2, pads=[1] * 4), 1),
    "of stride 3": Case(steps.transposed(9, 3, pads=[4] * 4, output_padding=[2, 2]), 2),
    "with pixels of nothing": Case(steps.transposed(2, 3, output_padding=[1, 1]), 0),
    "pool": Case(steps.pool("MaxPool", 3, pads=[1] * 4), 1),
    "halving pool, resized": Case(steps.chain(steps.pool("MaxPool", 2, strides=[2, 2]), steps.resize(2)), 1, 2, 2),
    "counting pool": Case(steps.pool("AveragePool", 3, pads=[1] * 4, count_include_pad=1), 1),
    "reflection": Case(steps.pad_then_conv("reflect", 2), 2),
    "edge": Case(steps.pad_then_conv("edge"), 1),
    "zeros": Case(steps.pad_then_conv("constant"), 1),
    "shift": Case(steps.shift, 2),
    "unshuffle": Case(steps.chain(steps.unshuffle(3), steps.conv(3), steps.shuffle(3)), 5, 3, 3),
    "unshuffle written out": Case(steps.chain(steps.unshuffle_written_out, steps.conv(1), steps.shuffle()), 1, 2, 2),
    "channel shuffle": Case(steps.channel_shuffle, 0),
    "layer norm over channels": Case(steps.over_channels("LayerNormalization"), 0),
    "product over channels": Case(steps.over_channels("MatMul"), 0),
    "softmax over channels": Case(steps.over_channels("Softmax"), 0),
    "gate over channels": Case(steps.gate_over_channels, 0),
    "halves of channels": Case(steps.halves_swapped, 0),
    "attention in windows": Case(steps.window_attention, 3, 4, 4),
    "padded to a multiple and cropped": Case(steps.pad_to_multiple_and_crop(4), 3, 4),
    "resized to twice its shape": Case(steps.resize_to_twice_its_shape, 1),
    "nearest": Case(steps.resize(2), 0),
    "nearest, asymmetric": Case(steps.resize(3, coordinate_transformation_mode="asymmetric", nearest_mode="floor"), 0),
    "linear": Case(steps.resize(2, mode="linear"), 1),
    "cubic": Case(steps.resize(4, mode="cubic"), 2),
    "symmetric": Case(steps.resize(2, mode="cubic", coordinate_transformation_mode="half_pixel_symmetric"), 2),
    "aligned corners of its own size": Case(steps.resize(1, mode="linear", coordinate_transformation_mode="align_corners"), 0),
    "by a half more": Case(steps.resize(1.5, mode="linear"), 1, 2, 2),
    "by a third more": Case(steps.resize(4 / 3, mode="cubic"), 2, 3, 3),
    "halved with antialias": Case(steps.resize(0.5, mode="cubic", antialias=1), 4, 2, 2),
    "only the rows": Case(steps.resize(2, 1, mode="linear"), 1),
}
GLOBAL: dict[str, steps.Step] = {
    "GlobalAveragePool": steps.squeeze_and_excite,
    "Add": steps.with_positions,
    "Div": steps.divided_by_its_height,
    "Softmax": steps.of_each_row("Softmax", 3),
    "LogSoftmax": steps.of_each_row("LogSoftmax", 2),
    "CumSum": steps.summed_up,
    "Concat": steps.rolled,
    "Slice": steps.flipped,
    "Transpose": steps.turned,
    "InstanceNormalization": lambda graph, source: graph.add(
        "InstanceNormalization", source, graph.constant(graph.random(4)), graph.constant(graph.random(4))
    ),
    "Pad": steps.pad_then_conv("wrap"),
    "MaxPool": steps.chain(steps.conv(3), steps.to_a_branch_of_odd_size),
    "Resize": steps.resize(2, mode="linear", coordinate_transformation_mode="align_corners"),
    "Det": lambda graph, source: graph.add("Add", source, graph.add("Det", source)),  # no rule for it
}


def _field(model: onnx.ModelProto, multiple: int) -> ReceptiveField:
    return receptive_field(ir.from_proto(model).graph, multiple_of=multiple)


@pytest.mark.parametrize("case", LOCAL.values(), ids=LOCAL)
def test_what_looks_near_is_local_and_its_tiles_give_what_the_whole_gives(case: Case) -> None:
    graph = Graph(0)
    model = graph.proto(case.step(graph, "input"))
    field = _field(model, case.multiple)
    assert field == ReceptiveField(case.halo, case.alignment)
    assert _difference(_session(model), field, case.multiple) <= 1e-5


@pytest.mark.parametrize("name", GLOBAL)
def test_what_looks_at_the_whole_picture_is_global_and_named(name: str) -> None:
    graph = Graph(0)
    field = _field(graph.proto(GLOBAL[name](graph, "input")), 1)
    assert field.halo == "global"
    assert field.operator.startswith("Resize" if name == "MaxPool" else name)  # what makes the branch fit again


_MODES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric")
_ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
_pads = st.integers(0, 1)
_STEPS = st.one_of(
    st.builds(
        lambda kernel, groups, dilation: steps.conv(kernel, groups=groups, dilations=[dilation] * 2),
        st.sampled_from((1, 3, 5)),
        st.sampled_from((1, 2, 4)),
        st.integers(1, 2),
    ),
    st.builds(
        lambda kernel, pad: steps.conv(kernel, auto_pad=pad), st.integers(2, 4), st.sampled_from(("SAME_UPPER", "SAME_LOWER"))
    ),
    st.builds(
        lambda kernel, stride, front, back: steps.conv(kernel, strides=[stride] * 2, pads=[front, front, back, back]),
        st.integers(2, 4),
        st.integers(2, 3),
        _pads,
        _pads,
    ),
    st.builds(
        lambda kernel, stride, pad, more: steps.transposed(kernel, stride, pads=[pad] * 4, output_padding=[more] * 2),
        st.integers(2, 6),
        st.integers(2, 3),
        _pads,
        _pads,
    ),
    st.builds(
        lambda kind, kernel, stride, ceil: steps.pool(kind, kernel, strides=[stride] * 2, ceil_mode=ceil),
        st.sampled_from(("MaxPool", "AveragePool")),
        st.integers(2, 3),
        st.integers(1, 2),
        _pads,
    ),
    st.builds(
        lambda scale, mode, where, rounding: steps.resize(
            scale, mode=mode, coordinate_transformation_mode=where, nearest_mode=rounding
        ),
        st.sampled_from((2.0, 3.0, 1.5, 4 / 3, 0.5)),
        st.sampled_from(("nearest", "linear", "cubic")),
        st.sampled_from(_MODES),
        st.sampled_from(_ROUNDINGS),
    ),
    st.builds(steps.pad_then_conv, st.sampled_from(("reflect", "edge", "constant")), st.integers(1, 2)),
    st.builds(steps.over_channels, st.sampled_from(("LayerNormalization", "MatMul", "Softmax"))),
    st.builds(steps.pad_to_multiple_and_crop, st.integers(2, 4)),
    st.sampled_from(
        (
            steps.resize_to_twice_its_shape,
            steps.shift,
            steps.chain(steps.unshuffle(), steps.conv(3, channels=8)),
            steps.chain(steps.unshuffle_written_out, steps.conv(1, channels=_CHANNELS)),
            steps.chain(steps.conv(1, channels=16), steps.shuffle()),
            steps.window_attention,
            steps.channel_shuffle,
            steps.gate_over_channels,
            steps.residual(steps.shift, steps.conv(3)),
            steps.residual(steps.window_attention),
        )
    ),
)


@settings(max_examples=50, derandomize=True)
@given(parts=st.lists(_STEPS, min_size=1, max_size=3), seed=st.integers(0, 1 << 16))
def test_tiles_cut_by_the_field_of_any_composition_give_what_the_whole_gives(parts: list[steps.Step], seed: int) -> None:
    graph = Graph(seed)
    model = graph.proto(steps.chain(*parts)(graph, "input"))
    session = _session(model)
    multiple = next((multiple for multiple in (1, 2, 3, 4, 6, 8, 9, 12, 16, 24) if _takes(session, multiple)), None)
    assume(multiple is not None)
    assert multiple is not None
    field = _field(model, multiple)
    if field.halo != "global" and field.alignment <= _MOST_ALIGNMENT:
        assert _difference(session, field, multiple) <= 1e-5
        assert _dependence_beyond(session, field.halo, multiple) == 0


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # sizes that do not fit are tried on purpose
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(session: ort.InferenceSession, array: Array) -> Array:
    (output,) = session.run(None, {"input": np.ascontiguousarray(array)})
    result: Array = output
    return result


def _noise(height: int, width: int) -> Array:
    return np.random.default_rng(0).random((1, _CHANNELS, height, width), np.float32)


def _takes(session: ort.InferenceSession, multiple: int) -> bool:
    """Whether the graph makes each of some sizes as much larger, and not larger than pictures of networks are."""
    sizes = [round_up(24, multiple) + more * multiple for more in (0, 1, 2, 5, 7)]
    try:
        if max(_run(session, _noise(sizes[0], sizes[0])).shape[2:]) > _MOST_FACTOR * sizes[0]:
            return False
        outputs = [_run(session, _noise(size, size)).shape for size in sizes]
    except Exception:  # noqa: BLE001 # whatever ONNX Runtime raises
        return False
    return len({Fraction(output[axis], size) for output, size in zip(outputs, sizes, strict=True) for axis in (2, 3)}) == 1


def _factors(session: ort.InferenceSession, multiple: int) -> tuple[Fraction, Fraction]:
    side = round_up(48, multiple)
    output = _run(session, _noise(side, side)).shape
    return Fraction(output[2], side), Fraction(output[3], side)


def _difference(session: ort.InferenceSession, field: ReceptiveField, multiple: int) -> float:
    """The largest difference between tiles and the whole of three sizes, by the largest value."""
    assert field.halo != "global"
    factors = _factors(session, multiple)
    step = math.lcm(field.alignment, multiple, *(factor.denominator for factor in factors))
    kept = round_up(max(_LEAST, step), step)
    largest = 0.0
    for more in (0, 5, 11):
        size = tuple(round_up(2 * step + 2 * field.halo + kept + more * other, multiple) for other in (1, 2))
        whole = _run(session, _noise(*size))
        for top, left in ((0, 0), (step, 2 * step), (2 * step, 0)):
            reads = [
                (start, min(start + round_up(2 * field.halo + kept, step), length))
                for start, length in ((top, size[0]), (left, size[1]))
            ]
            part = _run(session, _noise(*size)[:, :, slice(*reads[0]), slice(*reads[1])])
            inner, outer = zip(*map(_inside, reads, size, (field.halo,) * 2, factors), strict=True)
            difference = np.abs(part[:, :, *inner] - whole[:, :, *outer])
            largest = max(largest, float(difference.max(initial=0)) / max(float(np.abs(whole).max()), 1e-3))
    return largest


def _inside(read: tuple[int, int], length: int, halo: int, factor: Fraction) -> tuple[slice, slice]:
    """What is kept of a tile, in its own output and in that of the whole."""
    start, stop = read[0] + (halo if read[0] else 0), read[1] - (halo if read[1] < length else 0)
    first, last = math.ceil(start * factor), math.ceil(stop * factor)
    before = int(read[0] * factor)
    return slice(first - before, last - before), slice(first, last)


def _dependence_beyond(session: ort.InferenceSession, halo: int, multiple: int) -> int:
    """Output pixels of one input pixel, inside and at the corners, that change when all beyond its halo does."""
    size = round_up(2 * halo + 24, multiple), round_up(2 * halo + 31, multiple)
    factors, array = _factors(session, multiple), _noise(*size)
    whole, changed = _run(session, array), 0
    for row, column in ((size[0] // 2, size[1] // 2), (0, size[1] - 1)):
        near = np.s_[:, :, max(row - halo, 0) : row + halo + 1, max(column - halo, 0) : column + halo + 1]
        other = 1 - array
        other[near] = array[near]
        rows, columns = (
            slice(math.ceil(at * factor), math.ceil((at + 1) * factor)) for at, factor in zip((row, column), factors, strict=True)
        )
        scale = max(float(np.abs(whole).max()), 1e-3)
        changed += int(np.count_nonzero(np.abs(_run(session, other) - whole)[:, :, rows, columns] > 1e-6 * scale))
    return changed


# Measured


@pytest.mark.parametrize(
    ("claimed", "expected"),
    [(ReceptiveField(0, 4), "depends on more than 0"), (ReceptiveField(3, 1), "gives another output")],
    ids=["halo", "alignment"],
)
def test_a_field_that_the_graph_contradicts_is_global_and_says_what_was_measured(claimed: ReceptiveField, expected: str) -> None:
    graph = Graph(0, channels=3)
    data = graph.proto(steps.pad_to_multiple_and_crop(4)(graph, "input")).SerializeToString()
    right = ReceptiveField(3, 4)
    measured = [measured_field(field, data, Contract(), factor=Fraction(1), macs_per_pixel=1) for field in (right, claimed)]
    assert measured[0] == right
    assert measured[1].halo == "global"
    assert re.match(f"measured: .*{expected}", measured[1].operator)
