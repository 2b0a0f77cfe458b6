"""How many requests the window lets through, against servers whose capacity is known.

The event loop's clock is a simulated one: it jumps to the next moment at which something happens.
"""

import asyncio
import selectors

import pytest

from tianji_helpers.synthesis.window import MOST, Window


class Jumping(selectors.DefaultSelector):
    """Waits for nothing and lets the clock go on instead."""

    now = 0.0

    def select(self, timeout=None):
        self.now += timeout or 0.0
        return super().select(0)


def run(work):
    selector = Jumping()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


class Server:
    """Takes ``capacity`` requests at once and refuses the rest; each takes a while."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.under_way = self.refusals = self.answers = 0
        self.sizes = []

    async def ask(self, window):
        if not await window.enter():
            return False
        sent = asyncio.get_running_loop().time()
        refused = self.under_way >= self.capacity
        if refused:
            self.refusals += 1
            window.refused()
        else:
            self.under_way += 1
            await asyncio.sleep(0.2)
            self.under_way -= 1
            self.answers += 1
            window.answered(sent)
        self.sizes.append(window.size)
        window.leave()
        if refused:
            await asyncio.sleep(0.5)  # as the engine backs off
        return True


def drive(server, window, answers):
    async def worker():
        while server.answers < answers and await server.ask(window):
            await asyncio.sleep(0)

    async def all_workers():
        await asyncio.gather(*(worker() for _ in range(window.most)))

    run(all_workers())


@pytest.mark.parametrize("capacity", [1, 4, 32, 100])
def test_it_finds_what_a_server_takes(capacity):
    server, window = Server(capacity), Window()
    drive(server, window, 30 * capacity + 100)
    later = server.sizes[len(server.sizes) // 2 :]
    assert 0.6 * capacity <= sum(later) / len(later) <= 1.15 * capacity + 2
    assert server.refusals < 0.2 * server.answers + 3 * capacity


def test_a_server_that_takes_all_gets_many():
    server, window = Server(10**6), Window()
    drive(server, window, 3000)
    assert 32 <= max(server.sizes) <= MOST


def test_a_server_that_only_queues_is_not_flooded():
    """One that refuses nobody, and is no faster for more: the window stays small."""
    gate = asyncio.Semaphore(4)

    class Queue(Server):
        async def ask(self, window):
            if not await window.enter():
                return False
            sent = asyncio.get_running_loop().time()
            async with gate:
                await asyncio.sleep(0.004)
            self.answers += 1
            window.answered(sent)
            self.sizes.append(window.size)
            window.leave()
            return True

    server, window = Queue(0), Window()
    drive(server, window, 400)
    assert max(server.sizes) <= 32


def test_a_fixed_window_stays():
    server, window = Server(2), Window(8)
    drive(server, window, 50)
    assert set(server.sizes) == {8} and window.most == 8


def test_a_closed_window_lets_nobody_in_and_all_go():
    async def close():
        window = Window(1)
        assert await window.enter()
        waiting = [asyncio.create_task(window.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        window.close()
        assert await asyncio.gather(*waiting) == [False] * 3
        assert not await asyncio.create_task(window.enter())

    run(close())
