"""Work by several threads whose results come in the order of the items.

Guarantee: at most AHEAD results per thread wait for their turn, so that memory does not grow with the items; whoever
stops asking, or meets an error, leaves nothing begun behind that has not ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4  # results per thread that may be there before their turn


def in_order(work: Callable[[Item], Result], items: Iterable[Item], *, threads: int) -> Iterator[Result]:
    """`work` of every item.

    Args:
        work: called from several threads.
        items: taken as they are needed.
        threads: at once, at least one.

    Yields:
        One result per item, in order.

    Raises:
        Exception: what `work` raised. Items that were not begun are not begun any more.
    """
    threads = max(1, threads)
    pool, waiting = ThreadPoolExecutor(threads), deque[Future[Result]]()
    try:
        for item in items:
            if len(waiting) == AHEAD * threads:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
