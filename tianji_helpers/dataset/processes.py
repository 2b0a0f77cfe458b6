"""Long work shared with a second process; the results come in order, as if one had done it all.

A process takes a quarter of a second to start, so the first items are done here, and a short job never
starts one. This process goes on working while the other has enough to do: two processes, two cores.
What goes to and fro lies in shared memory, so neither has to wait until the other looks; a thread that
looks would wait for the interpreter as long as ``work`` keeps it.
"""

import gc
import multiprocessing
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing, suppress
from typing import Any

_QUEUED = 2  # items that the other process is given at a time
_ROOM = 2 << 20  # bytes of memory for an item, and then for its result
_WAITING = 16  # results at most that wait for an earlier one


def in_order(work: Callable, items: Iterable, processes: int, alone: int) -> Iterator[Any]:
    """Yield ``work(item)`` of every item, in order.

    work: a function that can be pickled; it is sent over once. processes: 1 (all is done here) or more
    (one helps). alone: how many items are done before the second process starts. An error of ``work``
    comes when its item's turn has come.
    """
    with ExitStack() as stack:
        second = None
        waiting: deque[Future] = deque()
        for number, item in enumerate(items):
            if number == alone and processes > 1:
                second = stack.enter_context(closing(_Second(work)))
            waiting.append((second and second.ask(item)) or _do(work, item, Future()))
            while waiting and (waiting[0].done() or len(waiting) > _WAITING):
                yield _result(waiting.popleft(), second)
        while waiting:
            yield _result(waiting.popleft(), second)


def _do(work: Callable, item: Any, future: Future) -> Future:
    try:
        future.set_result(work(item))
    except Exception as error:
        future.set_exception(error)
    return future


def _result(future: Future, second: "_Second | None") -> Any:
    while not future.done():
        second.take()
    return future.result()


class _Second:
    """The second process. An item that fails there is done again here; if it is killed, all that it had."""

    def __init__(self, work: Callable):
        context = multiprocessing.get_context("spawn")  # threads of the parent would break fork
        memory = [context.RawArray("c", _ROOM) for _ in range(_QUEUED)]
        self._line, its_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(work, its_end, memory), daemon=True)
        self._process.start()
        its_end.close()
        self._work, self._rooms, self._lives = work, list(map(_Room, memory)), True
        self._free: list[int] = []  # none before it has started
        self._asked: deque[tuple[Any, Future]] = deque()

    def ask(self, item: Any) -> Future | None:
        """Give the process an item; None if it has enough to do, or the item is too large."""
        while self._lives and self._line.poll():
            self.take()
        if not self._free or not isinstance(length := self._rooms[self._free[-1]].put(item), int):
            return None
        with suppress(OSError):  # killed: seen when the result is taken
            self._line.send((self._free.pop(), length))
        self._asked.append((item, Future()))
        return self._asked[-1][1]

    def take(self) -> None:
        """Wait for what the process says next."""
        try:
            number, made = self._line.recv()
        except (EOFError, OSError):
            self._lives, self._free = False, []
            while self._asked:
                _do(self._work, *self._asked.popleft())
            return
        self._free.append(number)
        if made == 0:
            return
        item, future = self._asked.popleft()
        if made is None:
            _do(self._work, item, future)
        else:
            future.set_result(self._rooms[number].get(made))

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self._line.close()


class _Room:
    """Shared memory for an item, and then for its result."""

    def __init__(self, memory):
        self._memory, self._end = memoryview(memory).cast("B"), 0

    def put(self, value: Any) -> int | bytes:
        """Return how many bytes the value takes here, or all of them if they do not fit."""
        self._end = 0
        try:
            pickle.dump(value, self, pickle.HIGHEST_PROTOCOL)
        except BufferError:
            return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        return self._end

    def write(self, data: bytes | pickle.PickleBuffer) -> None:
        """Take some more of a pickle."""
        piece = memoryview(data).cast("B")
        start, self._end = self._end, self._end + len(piece)
        if self._end > len(self._memory):
            raise BufferError
        self._memory[start : self._end] = piece

    def get(self, put: int | bytes) -> Any:
        """Return the value of which ``put`` returned this."""
        return pickle.loads(self._memory[:put] if isinstance(put, int) else put)


def _serve(work: Callable, line, memory: list) -> None:
    """Say which room is free, and what of the result was put there: 0 at the start, None if it failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    gc.freeze()
    rooms = list(map(_Room, memory))
    with suppress(EOFError, OSError):  # the first process has ended
        for number in range(_QUEUED):
            line.send((number, 0))
        while True:
            number, length = line.recv()
            item = rooms[number].get(length)
            try:
                result = work(item)
            except Exception:
                line.send((number, None))
            else:
                line.send((number, rooms[number].put(result)))
