"""Run a student's cells in a process that can do no harm, watched from outside.

The process (``pupil``) locks itself in before it runs anything (``jail``). From outside it is ended
when it takes too long, holds too much memory, writes too much or starts too many processes: the
whole process tree, with one signal, as it lives in a process namespace of its own.
"""

import contextlib
import json
import math
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tianji_helpers import paths
from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import jail

MAX_PROCESSES = 32
MAX_WRITTEN = 2 * jail.MAX_FILE  # bytes in the folder
MAX_FILES = 10_000
_MAX_REPLY = 1_000_000  # bytes
_START = 60  # seconds that a process may take to lock itself in
_TICK = 0.1  # seconds between two looks at the process


class Stopped(Exception):
    """The process is gone; the message says why, in Chinese."""


class Sandbox:
    """A process for the cells of one notebook; to be used in a ``with`` statement.

    folder: the only place where it can write. seconds: of wall time, once it is locked in. memory: in
    bytes, of all its processes together. cancelled: set by another thread to end it early. Starting
    raises CourseError where this machine cannot lock a process in.
    """

    def __init__(self, folder: Path, seconds: float, memory: int, cancelled: threading.Event | None = None):
        self.folder, self.seconds, self.memory = folder.resolve(), seconds, memory
        self._cancelled = cancelled or threading.Event()
        self._buffer = b""

    def __enter__(self) -> "Sandbox":
        if sys.platform != "linux" or not shutil.which(jail.UNSHARE[0]):
            raise CourseError(
                "评分要把提交的代码关起来运行，这只在 Linux 上、装有 unshare（util-linux）时做得到。"
            )
        self._printed = tempfile.TemporaryFile()
        # -s: nothing in the student's folder, which is its home, is imported before it is locked in
        module = [sys.executable, "-s", "-m", "tianji_toolbox.classroom.pupil"]
        # more than all cores can compute until the deadline, or the kernel might end it first, without a word
        computing = math.ceil((_START + self.seconds) * os.cpu_count())
        limits = [str(self.memory), str(computing)]
        self._process = subprocess.Popen(
            [*jail.UNSHARE, *module, str(self.folder), *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            cwd=paths.ROOT,  # where the package is found; the process goes to its folder later
            env=_environment(self.folder),
            start_new_session=True,  # Ctrl-C is for the grader
        )
        os.set_blocking(self._process.stdin.fileno(), False)
        self._deadline = time.monotonic() + _START
        self._next_look = 0.0
        try:
            reply = self._reply()
        except Stopped as stopped:
            self._printed.seek(0)
            said = self._printed.read(500).decode(errors="replace").strip()
            self.__exit__()
            raise CourseError(f"没能把要运行的代码关起来（{stopped}）：{said}。{jail.HOW}。") from stopped
        if "refused" in reply:
            self.__exit__()
            raise CourseError(reply["refused"])
        self._deadline = time.monotonic() + self.seconds
        return self

    def __exit__(self, *_) -> None:
        for process in [*_descendants(self._process.pid), self._process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()  # the first one takes its whole namespace with it
        self._process.communicate()
        self._printed.close()

    def run(self, source: str) -> str:
        """Run a cell; return what it raised, or an empty text. Raises Stopped."""
        return str(self._ask({"run": source}).get("error", ""))[:200]

    def answer(self, expression: str, arguments: list | None) -> dict:
        """Return ``{"value": ...}`` of an expression, called if there are arguments, or ``{"wrong": ...}``.

        Raises Stopped.
        """
        return self._ask({"answer": expression, "arguments": arguments})

    def _ask(self, command: dict) -> dict:
        line = json.dumps(command).encode() + b"\n"
        try:
            whole = os.write(self._process.stdin.fileno(), line) == len(line)
        except BlockingIOError:
            whole = False
        except BrokenPipeError:
            raise Stopped("进程自己结束了（退出，或者被杀掉）") from None
        if not whole:  # what it was sent before still waits, or this is more than a pipe holds
            raise Stopped("进程不再听命令，或者一格代码太长（超过 60 KB）")
        return self._reply()

    def _reply(self) -> dict:
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if selector.select(_TICK):
                    read = os.read(self._process.stdout.fileno(), 1 << 16)
                    if not read:
                        raise Stopped("进程自己结束了（退出，或者被杀掉）")
                    self._buffer += read
                    if len(self._buffer) > _MAX_REPLY:
                        raise Stopped(f"一个答案超过了 {_MAX_REPLY / 1e6:g} MB")
                if time.monotonic() >= self._next_look:
                    self._next_look = time.monotonic() + _TICK
                    self._look()
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict):
            raise Stopped("进程的回答看不懂")
        return reply

    def _look(self) -> None:
        if self._cancelled.is_set():
            raise Stopped("评分被中断")
        if time.monotonic() > self._deadline:
            raise Stopped(f"超过了时间限制 {self.seconds:g} 秒")
        processes = _descendants(self._process.pid)
        if len(processes) > MAX_PROCESSES:
            raise Stopped(f"开了 {len(processes)} 个进程，最多 {MAX_PROCESSES} 个")
        if sum(map(_memory, processes)) > self.memory:
            raise Stopped(f"用的内存超过了 {self.memory / 1e9:g} GB")
        written = count = 0
        for folder, _, names in os.walk(self.folder):
            count += len(names)
            written += sum(_size(Path(folder, name)) for name in names)
            if count > MAX_FILES or written > MAX_WRITTEN:
                raise Stopped(f"写下的文件太多（最多 {MAX_WRITTEN / 1e6:g} MB、{MAX_FILES} 个文件）")


def _environment(folder: Path) -> dict[str, str]:
    """Return all the variables that the process gets; none are inherited."""
    own = {
        name: str(folder) for name in ("HOME", "TMPDIR", "IPYTHONDIR", "MPLCONFIGDIR", "TIANJI_OUTPUT_DIR")
    }
    return own | {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def _memory(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def _size(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except OSError:  # gone meanwhile
        return 0
