"""One notebook in a process of its own, with limits, for whoever must not be taken down by it.

``run_notebook`` starts a child (this module as a program) that executes the notebook through papermill.
What the child should do comes on its standard input, which then stays open as a lifeline: when it
closes, because a limit was reached or because whoever started the run is gone (SIGKILL included), the
child kills all that stands below it and ends. As a "subreaper" it keeps even processes that tried to
leave the tree. How far it is comes back line by line through a pipe.

The executed notebook appears whole, with the outputs so far, also where a run was stopped.
"""

import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tianji_helpers import paths, threads
from tianji_helpers.errors import CourseError
from tianji_toolbox import doctor

DONE = "done"
ERROR = "error"  # a cell raised
DIED = "died"  # the kernel, or the whole process, was ended from outside or ended itself
TIME, MEMORY, OUTPUT = "time", "memory", "output"  # a limit was reached
STOPPED = "stopped"  # by ``stop``

_SCRATCH = "tianji-run-"
_TICK = 0.25  # seconds between two looks at time and memory
_GRACE = 15  # seconds in which a stopped child writes down what there is
_NOTE_EVERY = 0.5  # seconds between two notes of what a cell prints


@dataclass(frozen=True)
class Limits:
    """What one run may take.

    minutes: of wall time. memory_gb: of all its processes together, what they share counted once.
    output_mb: of what its cells print and show; the log keeps as much.
    """

    minutes: float = 60.0
    memory_gb: float = doctor.MEMORY_GB
    output_mb: float = 20.0


@dataclass(frozen=True)
class RunResult:
    """How a run of a notebook ended.

    status: ``done``, ``error``, ``died``, ``time``, ``memory``, ``output`` or ``stopped``. reason: in
    Chinese, for a person; empty where it is done. cell: the code cell, counted from 1 as in ``[1]``, in
    which it ended before its end, or None. peak_memory_gb: as in ``Limits``.
    """

    status: str
    reason: str
    minutes: float
    peak_memory_gb: float
    cell: int | None = None


def run_notebook(
    notebook: str | Path,
    executed: str | Path,
    *,
    parameters: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    log: str | Path | None = None,
    cwd: str | Path = paths.ROOT,
    environment: Mapping[str, str] | None = None,
    writable: Sequence[str | Path] | None = None,
    launcher: Sequence[str] = (),
    on_note: Callable[[dict], None] = lambda note: None,
    stop: threading.Event | None = None,
) -> RunResult:
    """Execute one notebook and return how it went; what goes wrong inside is a result, no exception.

    executed: where the notebook with its outputs goes. parameters: as papermill injects them; they are
    not checked here. log: gets what the cells print, appended. environment: all that the child sees
    (default: this process's). writable: the folders below which it may write, if the kernel has
    Landlock (None: anywhere). launcher: a command in front of the child's, which must keep open files
    (``unshare …``). on_note: called with ``{"cell", "cells"}`` when a code cell begins, with
    ``{"text"}``, the last line printed, and with ``{"memory_gb"}`` now, often. stop: set it from
    another thread to end the run.

    Raises CourseError if the notebook cannot be read or the child not be started.
    """
    notebook, executed = Path(notebook).resolve(), Path(executed).resolve()
    if not notebook.is_file():
        raise CourseError(f"找不到笔记本 {notebook}。请检查路径。")
    limits = limits or Limits()
    executed.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix=_SCRATCH)
    request = {
        "notebook": str(notebook),
        "executed": str(executed),
        "parameters": dict(parameters or {}),
        "cwd": str(cwd),
        "output_bytes": int(limits.output_mb * 1e6),
        "writable": None
        if writable is None
        else [scratch, "/dev", str(executed.parent), *(str(Path(folder).resolve()) for folder in writable)],
    }
    try:
        with _Child(request, _environment(environment, scratch), launcher, log, limits) as child:
            return child.watch(limits, on_note, stop or threading.Event())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _environment(given: Mapping[str, str] | None, scratch: str) -> dict[str, str]:
    """What the child sees: its own places for all that kernels and libraries write on the side."""
    own = dict.fromkeys(("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "TRITON_CACHE_DIR"), scratch)
    environment = threads.with_defaults(dict(os.environ if given is None else given)) | own
    # the package of this process, whatever the working folder
    places = [str(paths.ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": os.pathsep.join(places), "PYTHONUNBUFFERED": "1"}


class _Child:
    """The process that executes a notebook, seen from the one that started it."""

    def __init__(self, request, environment, launcher, log, limits):
        notes, theirs = os.pipe()
        command = [*launcher, sys.executable, "-m", "tianji_toolbox.classroom.runs", str(theirs)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(theirs,),
                start_new_session=True,  # Ctrl-C at the terminal goes to us alone
            )
        except OSError as error:
            os.close(notes)
            raise CourseError(f"启动不了 {command[0]}：{error.strerror}。") from error
        finally:
            os.close(theirs)
        self._notes = os.fdopen(notes, "rb", buffering=0)
        self._log = _Log(log, int(limits.output_mb * 1e6))
        self._scratch = environment["TMPDIR"]
        self._peak = 0.0
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, *_) -> None:
        """Leave nothing running, whatever happened."""
        self._let_go()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.returncode:
            self._sweep()
        self._notes.close()
        self._process.stdout.close()
        self._log.close()

    def _sweep(self) -> None:
        """Kill what a child left that was killed itself; its processes know its scratch folder."""
        import psutil

        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("TMPDIR") == self._scratch:
                    process.kill()

    def _let_go(self) -> None:
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def watch(self, limits: Limits, on_note, stop: threading.Event) -> RunResult:
        """Wait for the end, and bring it about where a limit is reached."""
        began = time.monotonic()
        ended: tuple[str, str] | None = None  # why we ended it
        last: dict = {}
        cell = None
        deadline = began + limits.minutes * 60
        for note in self._listen():
            now = time.monotonic()
            if note is not None:
                last = note
                cell = note.get("cell", cell)
                if "status" not in note:
                    on_note(note)
                continue
            memory = self._measure()
            on_note({"memory_gb": memory})
            if ended is None:
                if stop.is_set():
                    ended = STOPPED, "被中断"
                elif now > deadline:
                    ended = TIME, f"超过时限 {limits.minutes:g} 分钟"
                elif self._log.full:  # what was written past the kernel, straight to standard output
                    ended = OUTPUT, _flood(limits.output_mb)
                elif memory > limits.memory_gb and (memory := self._measure(exactly=True)) > limits.memory_gb:
                    ended = MEMORY, f"内存用到 {memory:.1f} GB，超过上限 {limits.memory_gb:g} GB"
                if ended:
                    self._let_go()
                    deadline = now + _GRACE
            elif now > deadline:
                break
        minutes = (time.monotonic() - began) / 60
        if ended is None and last.get("status") is None:
            ended = DIED, f"进程被结束（退出码 {self._process.wait()}），多半是内存不够"
        status, reason = ended or (last["status"], last["reason"])
        return RunResult(status, reason, minutes, self._peak, None if status == DONE else cell)

    def _listen(self) -> Iterator[dict | None]:
        """Yield the child's notes, and None at every tick, until it has closed both pipes."""
        pending = b""
        with selectors.DefaultSelector() as selector:
            for pipe in (self._notes, self._process.stdout):
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ)
            tick = 0.0
            while self._notes in {key.fileobj for key in selector.get_map().values()}:
                for key, _ in selector.select(_TICK):
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is self._notes:
                        *lines, pending = (pending + data).split(b"\n")
                        yield from (json.loads(line) for line in lines)
                    else:
                        self._log.write(data)
                if time.monotonic() - tick >= _TICK:
                    tick = time.monotonic()
                    yield None

    def _measure(self, exactly: bool = False) -> float:
        """Return the memory of the tree in GB; exactly: with what is shared counted once, which is slow."""
        import psutil

        total = 0
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self._process.pid)
            for process in (top, *top.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    size = process.memory_info().rss
                    with suppress(psutil.AccessDenied):
                        size = process.memory_full_info().pss if exactly else size
                    total += size
        if not exactly:
            self._peak = max(self._peak, total / 1e9)
        return total / 1e9


def _flood(limit_mb: float) -> str:
    return f"输出超过上限 {limit_mb:g} MB"


class _Log:
    """A file that takes no more than so many bytes; without a path it only counts them."""

    def __init__(self, path: str | Path | None, limit: int):
        self._file = Path(path).open("ab") if path else None  # noqa: SIM115
        self._left = limit

    def write(self, data: bytes) -> None:
        if self.full:
            return
        kept = data[: self._left]
        self._left -= len(kept)
        if self._file is not None:
            self._file.write(kept + ("\n……输出太多，后面的没有记下。\n".encode() if self.full else b""))
            self._file.flush()

    @property
    def full(self) -> bool:
        return self._left <= 0

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


# --- the child ------------------------------------------------------------------------------------


def main(notes_fd: int) -> None:
    """Execute the notebook that standard input names, and note on ``notes_fd`` how it goes."""
    from tianji_toolbox.classroom import landlock

    request = json.loads(sys.stdin.readline())
    # a child that is orphaned below becomes ours, so that "all below" is really all (prctl(2))
    landlock.prctl(36, 1)
    with suppress(OSError):  # where memory runs out for the machine, this goes before other things
        Path("/proc/self/oom_score_adj").write_text("900")
    if request["writable"] is not None:
        landlock.restrict_writes(request["writable"])
    run = _Run(request, os.fdopen(notes_fd, "w", encoding="utf-8"))
    threading.Thread(target=run.hold_on, daemon=True).start()
    status, reason = run.execute()
    run.end()
    run.write()
    scratch = Path(os.environ["TMPDIR"])
    if scratch.name.startswith(_SCRATCH):
        shutil.rmtree(scratch, ignore_errors=True)  # if nobody is left to do it
    run.note(status=status, reason=reason)


class _Run:
    """One execution, seen from inside the child."""

    def __init__(self, request: dict, notes):
        self._request, self._notes = request, notes
        self._notebook = None  # being executed
        self._flooded = False
        self._writing = threading.Lock()

    def note(self, **fields) -> None:
        with self._writing, suppress(BrokenPipeError):
            self._notes.write(json.dumps(fields, ensure_ascii=False) + "\n")
            self._notes.flush()

    def hold_on(self) -> None:
        """Wait until the lifeline is cut; then end everything."""
        sys.stdin.read()
        until = time.monotonic() + _GRACE
        while time.monotonic() < until:
            self.end()  # again and again: the kernel may only now be starting
            time.sleep(0.1)
        os._exit(1)

    def end(self) -> None:
        """Kill all processes below this one, also those that are just being started."""
        import psutil

        while below := psutil.Process().children(recursive=True):
            for process in below:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(below, timeout=1)

    def execute(self) -> tuple[str, str]:
        """Execute the notebook through papermill; return status and reason."""
        import papermill
        from nbclient.exceptions import DeadKernelError
        from papermill.engines import papermill_engines
        from papermill.exceptions import PapermillExecutionError

        from tianji_toolbox.classroom import course

        papermill_engines.register("tianji", self._engine())
        try:
            papermill.execute_notebook(
                # papermill fills {names} into paths
                self._request["notebook"].replace("{", "{{").replace("}", "}}"),
                None,
                parameters=self._request["parameters"],
                engine_name="tianji",
                kernel_name=course.KERNEL,
                language="python",
                progress_bar=False,
                cwd=self._request["cwd"],
                start_timeout=300,
                extra_arguments=course.KERNEL_ARGUMENTS,
                stdout_file=sys.stdout,
                stderr_file=sys.stdout,
            )
        except PapermillExecutionError as error:
            return ERROR, course.reason(error)
        except (DeadKernelError, RuntimeError) as error:  # RuntimeError: died while it was starting
            if self._flooded:
                return OUTPUT, _flood(self._request["output_bytes"] / 1e6)
            return DIED, f"内核结束了：它自己退出、被结束，或内存不够（{error}）"
        except Exception as error:  # no notebook, no kernel …: this run's failure, whatever it is
            return ERROR, f"{type(error).__name__}: {error}"
        return DONE, ""

    def _engine(self):
        """Return papermill's usual engine, with our client."""
        from papermill.clientwrap import PapermillNotebookClient
        from papermill.engines import NBClientEngine

        run = self

        class Client(PapermillNotebookClient):
            """Says which cell begins, and takes no more output than allowed."""

            size = 0
            noted = 0.0

            def execute_cell(self, cell, cell_index, *args, **kwargs):
                if cell.cell_type == "code":
                    code = [index for index, one in enumerate(self.nb.cells) if one.cell_type == "code"]
                    run.note(cell=code.index(cell_index) + 1, cells=len(code))
                return super().execute_cell(cell, cell_index, *args, **kwargs)

            def process_message(self, msg, cell, cell_index):
                content = msg["content"]
                shown = content.get("text") or content.get("data") or content.get("traceback") or ""
                self.size += len(str(shown).encode(errors="replace"))
                if run._flooded:
                    return None
                if self.size > run._request["output_bytes"]:
                    run._flooded = True
                    threading.Thread(target=run.end).start()
                    return None
                lines = shown.strip().splitlines() if isinstance(shown, str) else []
                if lines and time.monotonic() - self.noted > _NOTE_EVERY:
                    self.noted = time.monotonic()
                    run.note(text=lines[-1][-200:])
                return super().process_message(msg, cell, cell_index)

        class Engine(NBClientEngine):
            @classmethod
            def execute_managed_notebook(
                cls, nb_man, kernel_name, log_output=False, start_timeout=60, **options
            ):
                run._notebook = nb_man.nb
                options.pop("input_path", None)
                client = Client(
                    nb_man, kernel_name=kernel_name, startup_timeout=start_timeout, timeout=None, **options
                )
                return client.execute()

        return Engine

    def write(self) -> None:
        """Write the executed notebook, if it came to that."""
        import nbformat

        from tianji_helpers.records import atomic_writer

        if self._notebook is not None:
            with atomic_writer(self._request["executed"]) as file:
                nbformat.write(self._notebook, file)


if __name__ == "__main__":
    main(int(sys.argv[1]))
