"""Who asks what, where a server keeps in each of its slots what it read last.

Prompts that begin alike are neighbours. A worker that goes from neighbour to neighbour finds most of its next
prompt in its slot; were all to draw from one queue, each slot would read every beginning anew.
"""

from collections import deque
from collections.abc import AsyncIterator
from typing import TypeVar

T = TypeVar("T")


def deal(source: AsyncIterator[T], count: int) -> list[AsyncIterator[T]]:
    """Share out ``source`` among ``count`` iterators; together they yield each item once.

    Each goes through neighbours. When there are none left it takes the second half of what the one with most
    to do has left. ``source`` is read whole when the first one is asked; only one may be asked at a time.
    """
    runs: list[deque[T]] = [deque() for _ in range(count)]

    async def lane(own: deque[T]) -> AsyncIterator[T]:
        async for item in source:  # the others find it empty
            own.append(item)
        while longest := max(runs, key=len):
            if not own:
                own.extendleft([longest.pop() for _ in range((len(longest) + 1) // 2)])
            yield own.popleft()

    return [lane(run) for run in runs]
