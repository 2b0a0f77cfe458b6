"""The process in which the cells of a submitted notebook run: ``python -m tianji_toolbox.classroom.pupil``.

``jail`` locked it in; it proves that, and sends out the folder where it may write, and its ``/proc``, so that
both can be watched. Then it reads the notebook, says which cells hand in which exercises, and answers
commands, a line of JSON each: ``run`` a cell, or say what an ``answer`` is for some arguments. What the cells
print goes nowhere. Nothing that comes back is trusted: see ``sandbox``.
"""

import ctypes
import json
import mmap
import os
import platform
import resource
import shutil
import socket
import sys
from functools import partial
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from tianji_helpers import paths
from tianji_helpers.errors import CourseError
from tianji_helpers.exercises.answers import Answer, Wrong, brief
from tianji_toolbox.classroom import handed_in, jail, transport

MAX_FILE = 100_000_000  # bytes
MAX_TEXT = 10_000  # characters of an answer that a person will read
MAX_RETURNED = 200_000  # characters of what a function returns, as JSON
_MAX_OPEN_FILES = 128  # a socket holds up to 0.2 MB that nobody else sees
_MAX_ADDRESSES = 64_000_000_000  # bytes; the page tables of more would be large themselves
_KEYCTL = 250 if platform.machine() == "x86_64" else 219  # as everywhere else


def main(name: str, memory: int, seconds: int, whole: bool) -> None:
    """Answer commands until there are no more.

    name: of the notebook; empty if only the confinement is to be proved. memory: bytes of data, seconds: of
    computing, that one process may use. whole: whether all cells are handed in, or the exercises only.
    """
    _limit(memory, seconds)
    prove()
    channel = socket.socket(fileno=os.dup(0))
    silence = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(silence, standard)
    seen_from_outside = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY) for folder in (jail.HOME, "/proc")]
    socket.send_fds(channel, [b"+"], seen_from_outside)
    for folder in seen_from_outside:
        os.close(folder)
    if name:  # from here on the student's time runs
        _serve(channel.makefile("rw", encoding="utf-8", errors="replace"), name, whole)


def _limit(memory: int, seconds: int) -> None:
    for what, most in {
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_AS: _MAX_ADDRESSES,
        resource.RLIMIT_CPU: seconds,  # should nobody be left to watch it
        resource.RLIMIT_FSIZE: MAX_FILE,
        resource.RLIMIT_NOFILE: _MAX_OPEN_FILES,
        resource.RLIMIT_NPROC: jail.MAX_TASKS,
        resource.RLIMIT_MEMLOCK: 0,  # so none of memfd_secret, which older libseccomps cannot refuse
        resource.RLIMIT_CORE: 0,
    }.items():
        resource.setrlimit(what, (most, most))


def prove() -> None:
    """Raise CourseError if anything that must be closed is open: nothing runs half protected."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(function, *arguments) -> None:
        if function(*arguments) < 0:
            raise OSError(ctypes.get_errno(), "")

    def others() -> None:
        if {path.name for path in Path("/proc").glob("[0-9]*")} == {"1"}:
            raise OSError

    def write(place) -> None:
        if not os.access(place, os.W_OK):
            raise OSError

    doors = {
        **{f"写 {place}": partial(write, place) for place in ("/", "/dev", "/usr", paths.DATA)},
        "改系统设置": lambda: os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY),
        "改设备": lambda: Path("/dev/null").chmod(0o666),
        "读课程以外的文件": lambda: os.open(paths.NOTEBOOKS, os.O_RDONLY),
        "读系统的文件": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "看别的进程": others,
        "联网": socket.socket,
        "读密钥": lambda: call(libc.syscall, _KEYCTL, 0, -3, 0),
        "用不计数的内存": lambda: os.memfd_create("x"),
        "用不计数的共享内存": lambda: mmap.mmap(-1, mmap.PAGESIZE),
        "再建命名空间": lambda: call(libc.unshare, 0x10000000),
    }
    for name, door in doors.items():
        try:
            door()
        except OSError:
            continue
        raise CourseError(f"还能{name}")


def _serve(channel, name: str, whole: bool) -> None:
    def reply(message: dict) -> None:
        channel.write(json.dumps(message, ensure_ascii=False) + "\n")
        channel.flush()

    work = f"{jail.HOME}/work"  # beside what libraries write at home
    try:
        shutil.copytree(jail.HANDED_IN, work, symlinks=True)
        os.chdir(work)
        texts = {}
        if whole:
            read = handed_in.read_cells(Path(name))
            cells = [cell.source for cell in read if cell.kind == "code"]
            answers = [
                [(cell.question, None)] if cell.question else [] for cell in read if cell.kind == "code"
            ]
            texts = {cell.question: cell.source[:MAX_TEXT] for cell in read if cell.question}
        else:
            cells = handed_in.read_section(Path(name))
            answers = [handed_in.answers_in(source) for source in cells]
            if not any(answers):
                raise CourseError(f"“{handed_in.SECTION}”一节里没有一个 check(…)")
    except CourseError as error:
        return reply({"failed": str(error)})
    except (OSError, RecursionError) as error:  # pipes, no room, no permission, folders without end
        return reply({"failed": f"交来的文件复制不了（{type(error).__name__}），最多 {jail.ROOM / 1e6:g} MB"})
    reply({"cells": [[number for number, _ in found] for found in answers], "texts": texts})
    sys.path[0] = work
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    shell = InteractiveShell.instance(config=config)
    for line in channel:
        command = json.loads(line)
        if "run" in command:
            reply(_run(shell, cells[command["run"]]))
        elif "name" in command:
            reply(_named(shell, **command))
        else:
            cell, position = command["answer"]
            reply(_answer(shell, answers[cell][position][1], command["arguments"]))


def _run(shell, source: str) -> dict:
    result = shell.run_cell(source)
    error = result.error_before_exec or result.error_in_exec
    return {"error": f"{type(error).__name__}: {brief(error, 120)}" if error else ""}


def _named(shell, name: str, arguments: list | None, keywords: dict | None) -> dict:
    """Return what stands under a name, or what the function of that name returns; or what it raised."""
    try:
        value = eval(name, shell.user_ns)
        if arguments is None:
            return {"function": True} if callable(value) else {"value": transport.pack(value)}
        returned = transport.pack(value(*transport.unpack(arguments), **transport.unpack(keywords)))
        if len(json.dumps(returned)) > MAX_RETURNED:
            raise OverflowError
        return {"value": returned}
    except BaseException as error:  # SystemExit too
        return {"raised": type(error).__name__}


def _answer(shell, code, arguments: list | None) -> dict:
    try:
        try:
            given = Answer(eval(code, shell.user_ns))
        except Exception as error:
            raise Wrong(f"找不到答案：{type(error).__name__}: {brief(error, 120)}") from None
        return {"value": given.value() if arguments is None else given.call(*arguments)}
    except Wrong as wrong:
        return {"wrong": str(wrong)}


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "whole")
    except CourseError as error:
        sys.exit(str(error))
