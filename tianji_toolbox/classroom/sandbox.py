"""A submitted notebook in a process that can do no harm (``pupil`` in its ``jail``), watched from outside."""

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import jail
from tianji_toolbox.classroom.watch import Watch

MAX_PROCESSES = 32
_MAX_REPLY = 1_000_000  # bytes
_START = 60  # seconds that a process may take to lock itself in


class Stopped(Exception):
    """The process is gone, or of no use any more; the message says why, in Chinese."""


@dataclass
class Sandbox:
    """A process for the cells of one notebook; to be used in a ``with`` statement.

    notebook: None only proves that this machine can lock it in. beside: whether it also gets the files that
    lie beside the notebook. seconds: of wall time, once it is locked in. memory_gb: of all its processes
    together. cancelled: set by another thread to end it early. whole: whether all cells are handed in, as
    those of an assignment are, or the exercises only. Starting raises CourseError where this machine cannot
    lock a process in, and Stopped where the notebook cannot be read.

    ``cells`` has, for each cell of code, the numbers of the exercises that it hands in, or the question
    that it belongs to; ``texts``, for each question of an assignment, the text of its cell.
    """

    notebook: Path | None
    seconds: float
    memory_gb: float
    beside: bool = False
    cancelled: threading.Event | None = None
    whole: bool = False
    cells: list[list[str]] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> "Sandbox":
        if why := jail.why_not():
            raise CourseError(f"评分要把提交的代码关起来运行，这台机器现在做不到：{why}")
        with ExitStack() as stack:
            self._start(stack)
            if self.notebook:
                reply = self._reply()
                if "failed" in reply:
                    raise Stopped(str(reply["failed"]))
                self.cells, self.texts = reply["cells"], reply["texts"]
            self._after = stack.pop_all()
        return self

    def _start(self, stack: ExitStack) -> None:
        self._seen: list[int] = []  # its folder and its processes, once they can be seen
        # more than all cores can until the deadline, or the kernel might end it first, without a word
        computing = math.ceil((_START + self.seconds) * os.cpu_count())
        # -s: nothing of the student's is imported before it is locked in
        pupil = [sys.executable, "-s", "-m", "tianji_toolbox.classroom.pupil"]
        pupil += [self.notebook.name if self.notebook else "", str(int(self.memory_gb * 1e9)), str(computing)]
        pupil += ["whole" if self.whole else "section"]
        notebook = self.notebook and self.notebook.absolute()
        handed_in = notebook.parent if notebook and self.beside else notebook
        group = stack.enter_context(jail.counted())
        own = stack.enter_context(tempfile.TemporaryDirectory())
        for name in ("handed-in", "home"):
            Path(own, name).mkdir()
        printed = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  closed by the stack
        self._channel, theirs = socket.socketpair()
        stack.enter_context(self._channel)
        self._replies = stack.enter_context(self._channel.makefile("rb"))
        with theirs, jail.filtered_calls() as calls:
            process = subprocess.Popen(
                [*jail.for_student(handed_in, calls, group, own), *pupil],
                stdin=theirs,
                stdout=printed,
                stderr=printed,
                pass_fds=(calls,),
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the grader
            )
        stack.callback(process.wait)
        limits = {"seconds": _START, "memory_gb": self.memory_gb, "stop": self.cancelled}
        self._watch = stack.enter_context(Watch(process.pid, more=self._look, **limits))
        _, seen, *_ = socket.recv_fds(self._channel, 1, 2)
        if not seen:
            process.wait()
            printed.seek(0)
            said = printed.read(2000).decode(errors="replace").strip()
            raise CourseError(f"没能把要运行的代码关起来：{self.ended}{said}。")
        for place in seen:
            stack.callback(os.close, place)
        stack.callback(self._watch.__exit__)  # before that, as it looks at them
        self._seen = seen
        self._watch.allow(self.seconds)

    def __exit__(self, *_) -> None:
        self._after.close()

    def run(self, cell: int) -> str:
        """Run a cell; return what it raised, or an empty text. Raises Stopped."""
        return str(self._ask({"run": cell}).get("error", ""))[:200]

    def answer(self, cell: int, position: int, arguments: list | None) -> dict:
        """Return ``{"value": ...}`` of a cell's answer, called if there are arguments, or ``{"wrong": ...}``.

        Raises Stopped.
        """
        return self._ask({"answer": [cell, position], "arguments": arguments})

    def named(self, name: str, arguments: list | None = None, keywords: dict | None = None) -> dict:
        """Return ``{"value": ...}`` of a name, ``{"function": True}``, or ``{"raised": ...}``.

        arguments, keywords: of a call; then of what it returns. All values are packed (``transport``). Raises
        Stopped.
        """
        return self._ask({"name": name, "arguments": arguments, "keywords": keywords})

    def _ask(self, command: dict) -> dict:
        try:  # one that does not listen is ended by the watch, and with it the waiting
            self._channel.sendall(json.dumps(command).encode() + b"\n")
        except OSError:
            raise self._gone() from None
        reply = self._reply()
        # a full folder is an error in there: what was answered so far may be of its making
        try:
            ended = self._look()
        except OSError:
            raise self._gone() from None
        if ended:
            raise Stopped(ended[1])
        return reply

    def _reply(self) -> dict:
        try:
            line = self._replies.readline(_MAX_REPLY)
        except OSError:
            line = b""
        if len(line) == _MAX_REPLY:
            raise Stopped(f"一个答案超过了 {_MAX_REPLY / 1e6:g} MB")
        if not line.endswith(b"\n"):
            raise self._gone()
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict):
            raise Stopped("进程的回答看不懂")
        return reply

    @property
    def ended(self) -> str:
        """Why the watch has ended the process; empty if it has not."""
        return self._watch.ended[1] if self._watch.ended else ""

    def _gone(self) -> Stopped:
        return Stopped(self.ended or "进程自己结束了（退出，或者被杀掉）")

    def _look(self) -> tuple[str, str] | None:
        if not self._seen:
            return None
        room, processes = os.fstatvfs(self._seen[0]), os.scandir(self._seen[1])
        with processes:  # those in its own /proc: quick, also where there are thousands
            count = sum(entry.name.isdigit() for entry in processes)
        if count > MAX_PROCESSES:
            return "processes", f"开了 {count} 个进程，最多 {MAX_PROCESSES} 个"
        # the file system's own count: deleted files that are open, and those at any depth, are in it
        written, files = (room.f_blocks - room.f_bfree) * room.f_frsize, room.f_files - room.f_ffree
        if written > 0.99 * jail.ROOM or files > jail.MAX_FILES:
            return "room", f"写下的文件太多（最多 {jail.ROOM / 1e6:g} MB、{jail.MAX_FILES} 个文件）"
        return None


def _environment() -> dict[str, str]:
    """Return all the variables that the process gets; none are inherited."""
    own = ("HOME", "TMPDIR", "IPYTHONDIR", "MPLCONFIGDIR", "TIANJI_OUTPUT_DIR")
    return dict.fromkeys(own, jail.HOME) | {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
