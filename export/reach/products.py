"""Follow operators that sum over axes: reductions, normalizations, softmax, matrix products."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from export.reach.call import Call, NotFollowedError
from export.reach.dependence import Dependence, combine, known, numbered, reduce, reshape, spread, transpose

Follow = Callable[[Call], Dependence]


def follow_reduction(call: Call) -> Dependence:
    """ReduceMean and its like: axes as an input or, in older opsets, an attribute; none are all."""
    source = call.source
    axes = call.numbers(1, "axes")
    if axes is None and call.number("noop_with_empty_axes", 0):
        return source
    return _reduced(source, axes, call, keep=call.number("keepdims", 1) == 1)


def follow_arg_reduction(call: Call) -> Dependence:
    return _reduced(call.source, [call.axis(0)], call, keep=call.number("keepdims", 1) == 1)


def _reduced(source: Dependence, axes: Sequence[int] | None, call: Call, *, keep: bool) -> Dependence:
    gone = sorted(axis % source.rank for axis in axes) if axes is not None else list(range(source.rank))
    result = reduce(source, gone, call.name)
    return result if keep else reshape(result, [size for axis, size in enumerate(result.shape) if axis not in gone])


def follow_global_pool(call: Call) -> Dependence:
    return reduce(call.source, range(2, call.source.rank), call.name)


def over_own_axis(default: int) -> Follow:
    """Softmax and its like: each element from all along the attribute `axis`."""

    def follow(call: Call) -> Dependence:
        axis = call.axis(default)
        return _from_all(call, range(axis, call.source.rank) if _flattens(call) else (axis,))

    return follow


def _flattens(call: Call) -> bool:
    """Until opset 13 a softmax ran over its axis and all behind it."""
    return call.opset < 13 and call.node.op_type in ("Softmax", "LogSoftmax", "Hardmax")


def follow_trailing_norm(call: Call) -> Dependence:
    """LayerNormalization, RMSNormalization: over `axis` and all behind it."""
    return _from_all(call, range(call.axis(-1), call.source.rank))


def follow_spatial_norm(call: Call) -> Dependence:
    """InstanceNormalization: over height and width."""
    return _from_all(call, range(2, call.source.rank))


def follow_group_norm(call: Call) -> Dependence:
    return _from_all(call, range(1, call.source.rank))


def follow_channel_norm(call: Call) -> Dependence:
    """LRN: over neighbouring channels, here over all."""
    return _from_all(call, (1,))


def follow_mean_variance(call: Call) -> Dependence:
    return _from_all(call, [axis % call.source.rank for axis in call.ints("axes", (0, 2, 3))])


def _from_all(call: Call, axes: Sequence[int]) -> Dependence:
    """Return each element from itself and from all along those axes, and numbered along them: scales and biases are their own."""
    result = combine(call.name, [call.source, reduce(call.source, axes, call.name)])
    for axis in axes:
        if not call.source.varies(axis) and axis == 1:
            result = numbered(result, axis, call.name)
    return result


def follow_cumulation(call: Call) -> Dependence:
    """CumSum: of all along its axis, and of the place."""
    axis = call.given(1)
    if axis is None:
        raise NotFollowedError
    return _from_all(call, [int(axis.reshape(-1)[0]) % call.source.rank])


def follow_matmul(call: Call) -> Dependence:
    left, right = (_operand(call, index) for index in (0, 1))
    if left.rank < 2 or right.rank < 2:
        raise NotFollowedError
    return _product(call, left, right)


def follow_gemm(call: Call) -> Dependence:
    left, right = (_operand(call, index) for index in (0, 1))
    if call.number("transA", 0):
        left = transpose(left, (1, 0))
    if call.number("transB", 0):
        right = transpose(right, (1, 0))
    result = _product(call, left, right)
    return combine(f"{call.name}+", [result, _operand(call, 2)]) if len(call.inputs) > 2 and call.inputs[2] is not None else result


def _operand(call: Call, index: int) -> Dependence:
    """Return an input; a table of weights stands for its shape alone, its rows and columns are numbered afterwards."""
    value = call.inputs[index]
    if value is None:
        raise NotFollowedError
    if isinstance(value, Dependence):
        return value
    return known(value) if index == 2 or value.ndim < 2 else spread(known(value[(slice(0, 1),) * value.ndim]), value.shape)


def _product(call: Call, left: Dependence, right: Dependence) -> Dependence:
    """(…, I, K) by (…, K, J) -> (…, I, J)."""
    if left.shape[-1] != right.shape[-2]:
        raise NotFollowedError
    parts = [reduce(left, (left.rank - 1,), call.name), reduce(right, (right.rank - 2,), call.name)]
    result = combine(call.name, parts)
    if not isinstance(call.inputs[1], Dependence):
        result = numbered(result, result.rank - 1, call.name)
    if not isinstance(call.inputs[0], Dependence):
        result = numbered(result, result.rank - 2, call.name)
    return result


def follow_einsum(call: Call) -> Dependence:
    """Return each operand summed over what the result lacks, then multiplied."""
    given, _, wanted = call.text("equation", "").replace(" ", "").partition("->")
    terms = given.split(",")
    if not wanted or "." in given or any(len(set(term)) != len(term) for term in terms):
        raise NotFollowedError
    parts = []
    for index, term in enumerate(terms):
        value = _operand(call, index)
        summed = reduce(value, [axis for axis, letter in enumerate(term) if letter not in wanted], call.name)
        kept = [letter for letter in wanted if letter in term]
        turned = transpose(summed, [*map(term.index, kept), *(axis for axis, letter in enumerate(term) if letter not in wanted)])
        sizes = iter(turned.shape)
        parts.append(reshape(turned, [next(sizes) if letter in term else 1 for letter in wanted]))
    result = combine(call.name, parts)
    for axis, letter in enumerate(wanted):
        if any(letter in term and not isinstance(value, Dependence) for term, value in zip(terms, call.inputs, strict=True)):
            result = numbered(result, axis, call.name)
    return result
