"""Long work shared with a second process; the results come in order, as if one had done it all.

A process takes a quarter of a second to start, so the first items are done here, and a short job never
starts one. This process goes on working while the other has enough to do: two processes, two cores.
"""

import gc
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from typing import Any

_QUEUED = 2  # items that the other process is given at a time
_WAITING = 16  # results at most that wait for an earlier one


def in_order(work: Callable, items: Iterable, processes: int, alone: int) -> Iterator[Any]:
    """Yield ``work(item)`` of every item, in order.

    work: a function that can be pickled; it is sent over once. processes: 1 (all is done here) or more
    (one helps). alone: how many items are done before the second process starts. An error of ``work``
    comes when its item's turn has come.
    """
    with ExitStack() as stack:
        pool = started = None
        waiting: deque[Future] = deque()
        for number, item in enumerate(items):
            if number == alone and processes > 1:
                context = multiprocessing.get_context("spawn")  # threads of the parent would break fork
                pool = stack.enter_context(
                    ProcessPoolExecutor(1, context, initializer=_start, initargs=(work,))
                )
                started = pool.submit(int)
            if started and started.done() and sum(not future.done() for future in waiting) < _QUEUED:
                waiting.append(pool.submit(_call, item))
            else:
                waiting.append(_done(work, item))
            while waiting and (waiting[0].done() or len(waiting) > _WAITING):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _done(work: Callable, item: Any) -> Future:
    future: Future = Future()
    try:
        future.set_result(work(item))
    except Exception as error:
        future.set_exception(error)
    return future


def _start(work: Callable) -> None:
    global _work  # of the second process
    _work = work
    gc.freeze()
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """End this process when the one that started it was killed; the pool would wait for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _call(item: Any) -> Any:
    return _work(item)
