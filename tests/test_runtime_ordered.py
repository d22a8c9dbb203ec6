"""Several items at a time, results in the items' order, and errors at their place in it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.tiles.ordered import in_order


class _SourceError(Exception):
    pass


class _FunctionError(Exception):
    pass


def _numbers(count: int, fails: type[BaseException] | None) -> Iterator[int]:
    yield from range(count)
    if fails is not None:
        raise fails


@given(
    count=st.integers(0, 12),
    workers=st.integers(1, 5),
    source_fails=st.booleans(),
    function_fails_at=st.none() | st.integers(0, 11),
)
def test_what_comes_before_an_error_is_given_before_it(
    count: int, workers: int, source_fails: bool, function_fails_at: int | None
) -> None:
    def function(number: int) -> int:
        if number == function_fails_at:
            raise _FunctionError
        return -number

    given_out: list[int] = []
    raised = None
    try:
        for result in in_order(function, _numbers(count, _SourceError if source_fails else None), workers=workers):
            given_out.append(result)
    except (_SourceError, _FunctionError) as error:
        raised = type(error)
    fails_first = function_fails_at is not None and function_fails_at < count
    assert given_out == [-number for number in range(function_fails_at if fails_first and function_fails_at is not None else count)]
    assert raised is (_FunctionError if fails_first else _SourceError if source_fails else None)


def test_a_ctrl_c_in_the_source_is_not_kept_waiting() -> None:
    results = in_order(abs, _numbers(2, KeyboardInterrupt), workers=3)
    with pytest.raises(KeyboardInterrupt):
        next(results)


def test_leaving_early_says_so_waits_for_what_runs_and_begins_no_more() -> None:
    stop, begun, ended = threading.Event(), [], []

    def function(number: int) -> int:
        begun.append(number)
        if number:
            assert stop.wait(timeout=10)
        ended.append(number)
        return number

    with closing(in_order(function, range(100), workers=2, stop=stop)) as results:
        assert next(results) == 0
    assert stop.is_set()
    assert sorted(begun) == sorted(ended)
    assert len(begun) <= 3


def test_no_more_than_one_item_beyond_those_that_run_is_taken() -> None:
    taken = []

    def source() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    for result in in_order(abs, source(), workers=3):
        assert taken[-1] <= result + 4
