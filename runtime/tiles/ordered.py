"""Work on several items at a time, and give the results in the items' order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, stop: Event | None = None
) -> Generator[Result, None, None]:
    """Yield `function` of each item, `workers` at a time in threads; never more than one item beyond those is taken from `items`.

    What `function` or `items` raises is raised here, at its place in the order: the results of the items before come first. What
    interrupts rather than fails (Ctrl-C) is raised at once. Leaving early drops what has not begun, and sets `stop`, by which
    `function` may see that its result is no longer wanted.
    """
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[Result]] = deque()
    try:
        for task in _submitted(pool, function, items):
            pending.append(task)
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        if stop is not None:
            stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _submitted(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]
) -> Generator[Future[Result], None, None]:
    """Yield a future for each item; the error of `items` itself is the last one's."""
    try:
        for item in items:
            yield pool.submit(function, item)
    except Exception as error:  # noqa: BLE001 # it is raised at its place
        failed: Future[Result] = Future()
        failed.set_exception(error)
        yield failed
