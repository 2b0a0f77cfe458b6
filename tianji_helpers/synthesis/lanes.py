"""Which worker asks what, so that each slot of a server finds the beginning of its next prompt in its cache.

Prompts that begin alike are neighbours. A worker that goes from neighbour to neighbour finds most of its next
prompt in its slot; were all to draw from one queue, each slot would read every beginning anew.
"""

from collections import deque
from collections.abc import AsyncIterator
from typing import TypeVar

_STRETCH = 32  # neighbours that a lane takes at a time: rounds are complete one after the other all the same

T = TypeVar("T")


def deal(source: AsyncIterator[T], count: int) -> list[AsyncIterator[T]]:
    """Share out ``source`` among ``count`` iterators; together they yield each item once.

    Only one may be asked at a time. Each goes through a stretch of neighbours, then through the next one of
    ``source``; when that is empty it takes the second half of what the one with most to do has left.
    """
    runs: list[deque[T]] = [deque() for _ in range(count)]

    async def lane(own: deque[T]) -> AsyncIterator[T]:
        while True:
            if not own:
                async for item in source:
                    own.append(item)
                    if len(own) == _STRETCH:
                        break
            if not own:
                longest = max(runs, key=len)
                own.extendleft([longest.pop() for _ in range((len(longest) + 1) // 2)])
            if not own:
                return
            yield own.popleft()

    return [lane(run) for run in runs]
