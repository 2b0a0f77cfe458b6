"""Long work shared with a second process; the results come in order, as if one had done it all.

A process takes a quarter of a second to start, so the first items are done here, and a short job never
starts one. This process goes on working while the other has enough to do: two processes, two cores.
"""

import gc
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

PROCESSES = min(2, os.cpu_count() or 1)
_QUEUED = 10  # items that the other process is given at a time: fewer, and it waits for this one
_TURN = 1e-4  # seconds
_NEW_OBJECTS = 100_000  # between two looks of the garbage collector
_WAITING = 24  # results at most that wait for an earlier one


def in_order(work: Callable, items: Iterable, alone: int) -> Iterator[Any]:
    """Yield ``work(item)`` of every item, in order.

    work: a function that can be pickled; it is sent over once. alone: how many items are done before the
    second process starts; on one core none does. An error of ``work`` comes when its item's turn has come;
    what fails in the second process, or is lost with it, is done here.
    """
    items = iter(items)
    yield from map(work, islice(items, alone) if PROCESSES > 1 else items)
    for item in items:
        context = get_context("spawn")  # threads of the parent would break fork
        second = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(work,))
        try:
            with in_bulk():
                yield from _shared(work, chain((item,), items), second)
        finally:
            second.shutdown(cancel_futures=True)  # whoever breaks off does not wait for what is queued


@contextmanager
def in_bulk() -> Iterator[None]:
    """Let this process do less of what costs much where very many small things are made.

    The executor's thread takes results 64 KB at a time and asks for the interpreter after every piece; at
    Python's usual 5 ms the other process stood still meanwhile. And the garbage collector looked at every
    700th new row for circles that rows do not make. Each took a tenth of the time of a million rows.
    """
    turn, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(_TURN)
    gc.set_threshold(_NEW_OBJECTS)
    try:
        yield
    finally:
        sys.setswitchinterval(turn)
        gc.set_threshold(*thresholds)


def _shared(work: Callable, items: Iterable, second: ProcessPoolExecutor) -> Iterator[Any]:
    waiting: deque[tuple[Any, Future]] = deque()

    def take() -> Any:
        item, future = waiting.popleft()
        try:
            return future.result()
        except Exception:  # it may have been lost with the process; an error of the work comes again, here
            return work(item)

    for item in items:
        future: Future = Future()
        try:
            if sum(not asked.done() for _, asked in waiting) < _QUEUED:
                future = second.submit(_second_work, item)
            else:
                future.set_result(work(item))
        except Exception as error:
            future.set_exception(error)
        waiting.append((item, future))
        while waiting and (waiting[0][1].done() or len(waiting) > _WAITING):
            yield take()
    while waiting:
        yield take()


def _begin(work: Callable) -> None:
    """Prepare the second process: it ends with the first one, which alone hears of Ctrl-C."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=lambda: os._exit(parent_process().join() or 0), daemon=True).start()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)


def _second_work(item: Any) -> Any:
    return _work(item)
