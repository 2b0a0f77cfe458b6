"""The supervisor of batches and of grading: it watches a process tree from outside, and ends it whole."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

TIME, MEMORY, STOPPED = "time", "memory", "stopped"
_TICK = 0.1  # seconds between two looks


class Watch(threading.Thread):
    """Ends a process as soon as it and all below it take more than they may; a ``with`` ends it anyway.

    seconds: of wall time, from now; ``allow`` starts them anew. memory_gb: of all processes together, what
    they share counted once. stop: set it from another thread to end them. more: looks at other limits, and
    returns what ends them, as ``ended``, or None. on_memory: is told the memory in GB at every look.

    ``ended`` tells why they were ended, a word and a reason in Chinese; it is None as long as nothing was
    wrong. ``peak_gb`` is the most memory that was seen.
    """

    def __init__(
        self,
        pid: int,
        *,
        seconds: float,
        memory_gb: float,
        stop: threading.Event | None = None,
        more: Callable[[], tuple[str, str] | None] = lambda: None,
        on_memory: Callable[[float], None] = lambda memory_gb: None,
    ):
        super().__init__(daemon=True)
        self._top = psutil.Process(pid)
        self._memory_gb, self._stop_it, self._more = memory_gb, stop or threading.Event(), more
        self._on_memory = on_memory
        self._done = threading.Event()
        self.ended: tuple[str, str] | None = None
        self.peak_gb = 0.0
        self.allow(seconds)

    def allow(self, seconds: float) -> None:
        """Start the time limit anew."""
        self._seconds, self._deadline = seconds, time.monotonic() + seconds

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self.join()
        self.kill()

    def run(self) -> None:
        """Look again and again; end them where a limit is passed."""
        while not self._done.wait(_TICK):
            try:
                ended = self._look()
            except Exception as error:  # nothing runs that nobody watches
                ended = STOPPED, f"看不住了：{error!r}"
            if ended:
                self.ended = ended  # first: whoever waits for them sees their end, and asks why
                self.kill()
                return

    def _look(self) -> tuple[str, str] | None:
        if self._stop_it.is_set():
            return STOPPED, "被中断"
        if time.monotonic() > self._deadline:
            minutes = self._seconds / 60
            return TIME, f"超过时限 {f'{minutes:g} 分钟' if minutes >= 2 else f'{self._seconds:g} 秒'}"
        if ended := self._more():
            return ended
        memory = self._memory()
        self._on_memory(memory)
        if memory > self._memory_gb:
            memory = self._memory(exactly=True)
        self.peak_gb = max(self.peak_gb, memory)
        if memory > self._memory_gb:
            return MEMORY, f"内存用到 {memory:.1f} GB，超过上限 {self._memory_gb:g} GB"
        return None

    def _memory(self, exactly: bool = False) -> float:
        """Return the memory of all in GB; exactly: with what is shared counted once, which is slow."""
        total = 0
        with suppress(psutil.Error):
            for process in (self._top, *self._top.children(recursive=True)):
                with suppress(psutil.Error):
                    size = process.memory_info().rss
                    if exactly:
                        with suppress(psutil.AccessDenied):
                            size = process.memory_full_info().pss
                    total += size + _page_tables(process.pid)
        return total / 1e9

    def kill(self) -> None:
        """End the first process; where it is bwrap, all that it locked in ends too, wherever it went."""
        with suppress(psutil.Error):
            self._top.kill()


def _page_tables(pid: int) -> int:
    """Return the bytes of a process's page tables: whoever only looks at empty memory fills nothing else."""
    with suppress(OSError), Path(f"/proc/{pid}/status").open(encoding="utf-8", errors="replace") as status:
        for line in status:
            if line.startswith("VmPTE:"):
                return int(line.split()[1]) * 1024
    return 0
