"""How many requests may be under way at once, found by trying.

Providers rarely say it, and it differs by a factor of a hundred. So the window begins small and tries a
double size as long as that brings clearly more answers a second (size / time of an answer: a server that only
queues what it gets takes as much longer); later it tries a quarter more, less and less often if that was in
vain. When the server refuses (429, 503, a time-out), what is still under way is what it takes. TCP finds the
capacity of a line in much the same way.
"""

import asyncio
import math

from anyio import CapacityLimiter

FIRST, MOST = 4, 256
_WORTH = 0.3  # of the growth of the window must come back as growth of the rate, or it was in vain
_LONGEST = 64  # epochs between two tries


class Window:
    """The requests under way. fixed: always so many; 0 finds out. ``size`` is how many may be, now."""

    def __init__(self, fixed: int = 0):
        self._room = CapacityLimiter(fixed or FIRST)
        self._fixed = bool(fixed)
        self._closed = False
        self._doubling, self._patience = True, 1
        self._known: tuple[int, float] | None = None  # size and rate before the try that goes on now
        self._bout = 0  # requests under way when the server began to refuse, that have not come back
        self._least = 1  # how far such a bout may shrink the window
        self._epochs = 0
        self._answers, self._seconds, self._began = 0, 0.0, 0.0

    @property
    def size(self) -> int:
        return int(self._room.total_tokens)

    @size.setter
    def size(self, size: int) -> None:
        self._room.total_tokens = size

    @property
    def most(self) -> int:
        """How many requests can ever be under way."""
        return self.size if self._fixed else MOST

    async def enter(self) -> bool:
        """Wait for room; False if the window was closed meanwhile."""
        await self._room.acquire()
        if self._closed:
            self._room.release()
        return not self._closed

    def leave(self) -> None:
        """Give one's room back."""
        self._room.release()
        self._bout = max(0, self._bout - 1)

    def close(self) -> None:
        """Let nobody in any more, and whoever waits go."""
        self._closed, self._room.total_tokens = True, math.inf

    def answered(self, sent: float) -> None:
        """An answer came; after enough of them the size is judged. sent: when, by the loop's clock."""
        if self._fixed or self._closed or sent < self._began:
            return
        self._answers += 1
        self._seconds += _now() - sent
        if self._answers < self.size:  # all asked for at this size
            return
        if self._room.statistics().tasks_waiting:  # else it was not used to the full
            self._judge(self.size * self._answers / max(self._seconds, 1e-6))
        self._begin()

    def _judge(self, rate: float) -> None:
        if self._known:
            (size, before), self._known = self._known, None
            if rate < before * (1 + _WORTH * (self.size / size - 1)):
                self.size = size
                self._in_vain()
                return
        self._epochs += 1
        if self._doubling or self._epochs >= self._patience:
            self._known, self._epochs = (self.size, rate), 0
            self.size = min(MOST, 2 * self.size if self._doubling else self.size + max(1, self.size // 4))

    def refused(self) -> None:
        """The server does not take as many; call it while the refused request still counts."""
        if self._fixed or self._closed:
            return
        under_way = int(self._room.borrowed_tokens)
        if not self._bout:
            self._bout, self._least = under_way, max(1, self.size // 2)
            self._in_vain()
        self._known = None
        self.size = max(self._least, min(self.size, under_way - 1))
        self._begin()

    def _in_vain(self) -> None:
        self._doubling, self._epochs = False, 0
        self._patience = min(_LONGEST, 2 * self._patience)

    def _begin(self) -> None:
        self._answers, self._seconds, self._began = 0, 0.0, _now()


def _now() -> float:
    return asyncio.get_running_loop().time()
