"""One notebook in a kernel of its own, with limits, for whoever must not be taken down by it.

Where bubblewrap is there, the kernel is locked in (``jail``): it writes only where it may, and the Linux
kernel ends all that it started, wherever that went, also when whoever began the run is killed. Elsewhere
the processes that it left are looked for. The executed notebook appears whole, with the outputs so far, also
where a run was stopped.
"""

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from tianji_helpers import paths, threads
from tianji_helpers.errors import CourseError
from tianji_helpers.records import atomic_writer
from tianji_toolbox import doctor
from tianji_toolbox.classroom import course, jail
from tianji_toolbox.classroom.watch import MEMORY, STOPPED, TIME, Watch  # statuses of a run

WAITING, RUNNING = "waiting", "running"  # in a batch
DONE = "done"
ERROR = "error"  # a cell raised
DIED = "died"  # the kernel was ended from outside or ended itself
OUTPUT = "output"  # it printed more than it may
WORDS = {
    WAITING: "等待",
    RUNNING: "运行中",
    DONE: "完成",
    ERROR: "出错",
    DIED: "中途结束",
    TIME: "超时",
    MEMORY: "内存超限",
    OUTPUT: "输出超限",
    STOPPED: "被中断",
}

_LOG = logging.getLogger(__name__)
_LOG.setLevel(logging.CRITICAL + 1)  # that a kernel died is a result, told once


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
class Status:
    """Where a run is, or how it ended.

    name: of a batch's run. status: ``waiting``, ``running``; ``done``, ``error``, ``died``, ``time``,
    ``memory``, ``output`` or ``stopped``. reason: in Chinese, for a person; empty where it is done. notebook,
    cell: where it is, or where it failed; cells of code are counted from 1, as in ``[1]``. peak_memory_gb: as
    in ``Limits``. key: of what a batch's run was made from.
    """

    name: str
    status: str = WAITING
    reason: str = ""
    notebook: str = ""
    cell: int | None = None
    minutes: float = 0.0
    peak_memory_gb: float = 0.0
    key: str = ""

    @property
    def is_over(self) -> bool:
        return self.status not in (WAITING, RUNNING)

    @property
    def has_failed(self) -> bool:
        return self.is_over and self.status not in (DONE, STOPPED)


def run_notebook(
    notebook: str | Path,
    executed: str | Path,
    *,
    parameters: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    log: str | Path = os.devnull,
    environment: Mapping[str, str] | None = None,
    writable: Sequence[str | Path] | None = None,
    on_note: Callable[[dict], None] = lambda note: None,
    stop: threading.Event | None = None,
) -> Status:
    """Execute one notebook and return how it went; what goes wrong inside is a result, no exception.

    executed: where the notebook with its outputs goes. parameters: as papermill injects them; they are
    not checked here. log: gets what the cells print, appended. environment: all that the kernel sees
    (default: this process's). writable: the folders below which it may write, if this machine has
    bubblewrap (None: anywhere). on_note: called with ``{"cell", "cells"}`` when a code cell begins, and
    with ``{"memory_gb"}`` now, often. stop: set it from another thread to end the run.

    Raises CourseError if the notebook is not there.
    """
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    notebook, executed = Path(notebook).resolve(), Path(executed).resolve()
    if not notebook.is_file():
        raise CourseError(f"找不到笔记本 {notebook}。请检查路径。")
    executed.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix="tianji-run-")
    began = time.monotonic()
    run = None
    try:
        with Path(log).open("ab") as file:
            nb = load_notebook_node(str(notebook))
            if parameters:
                options = {"kernel_name": course.KERNEL, "language": "python"}
                nb = parameterize_notebook(nb, dict(parameters), **options)
            run = _Run(nb, file, limits or Limits(), on_note, stop)
            folders = ["/"] if writable is None else [scratch, *(Path(item).resolve() for item in writable)]
            run.km.launcher = [] if jail.why_not() else jail.for_batch(folders)
            status, reason = run.end(_environment(environment, scratch))
            with atomic_writer(executed) as target:
                course.nbformat.write(nb, target)
    except Exception as error:  # no notebook, no kernel …: this run's failure, whatever it is
        status, reason = ERROR, f"{type(error).__name__}: {error}"
    finally:
        _sweep(scratch)
        shutil.rmtree(scratch, ignore_errors=True)
    peak, cell = (run.peak_gb, run.cell) if run else (0.0, None)
    cell = None if status == DONE else cell
    minutes = (time.monotonic() - began) / 60
    return Status("", status, reason, cell=cell, minutes=minutes, peak_memory_gb=peak)


def _environment(given: Mapping[str, str] | None, scratch: str) -> dict[str, str]:
    """What the kernel sees: its own places for all that kernels and libraries write on the side."""
    own = dict.fromkeys(("TMPDIR", "IPYTHONDIR", "TRITON_CACHE_DIR"), scratch)
    environment = threads.with_defaults(dict(os.environ if given is None else given)) | own
    # the package of this process, whatever the working folder
    places = [str(paths.ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": os.pathsep.join(places), "PYTHONUNBUFFERED": "1"}


def _sweep(scratch: str) -> None:
    """Kill what a kernel left that was not locked in; its processes know its scratch folder."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("TMPDIR") == scratch:
                process.kill()


class _Kernel(AsyncKernelManager):
    """Starts a kernel behind another command."""

    launcher: Sequence[str] = ()

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        return [*self.launcher, *super().format_kernel_cmd(extra_arguments)]


class _Run(NotebookClient):
    """Executes a notebook, says which cell begins, and takes no more output than allowed."""

    def __init__(self, nb, log: IO[bytes], limits: Limits, on_note, stop: threading.Event | None):
        super().__init__(
            nb,
            km=_Kernel(kernel_name=course.KERNEL, log=_LOG),
            log=_LOG,
            startup_timeout=300,
            timeout=None,
            iopub_timeout=course.IOPUB_TIMEOUT,
            extra_arguments=[*course.KERNEL_ARGUMENTS],
            on_cell_execute=self._note_cell,
        )
        self.owns_km = True  # so it shuts it down
        self._file, self._limits, self._on_note, self._halt = log, limits, on_note, stop
        self._most = int(limits.output_mb * 1e6)
        self._logged = os.fstat(log.fileno()).st_size
        self._size = 0
        self.cell: int | None = None
        self.peak_gb = 0.0
        self._watch: Watch | None = None

    def end(self, environment: dict[str, str]) -> tuple[str, str]:
        """Execute the notebook to its end; return status and reason."""
        try:
            self.execute(cwd=str(paths.ROOT), env=environment, stdout=self._file, stderr=self._file)
            ended = DONE, ""
        except CellExecutionError:
            cells = [cell for cell in self.nb.cells if cell.cell_type == "code"]
            raised = [item for item in cells[self.cell - 1].outputs if item.output_type == "error"]
            ended = ERROR, course.reason(raised[-1])
        except (DeadKernelError, RuntimeError) as error:  # RuntimeError: died while it was starting
            ended = DIED, f"内核结束了：它自己退出、被结束，或内存不够（{error}）"
        finally:
            if self._watch:
                self._watch.__exit__()
                self.peak_gb = self._watch.peak_gb
            if self._printed() > self._most:
                self._file.truncate(self._logged + self._most)
                self._file.write("\n……输出太多，后面的没有记下。\n".encode())
        return (self._watch and self._watch.ended) or ended

    async def async_start_new_kernel(self, **options) -> None:
        await super().async_start_new_kernel(**options)
        self._watch = Watch(
            self.km.provisioner.pid,
            seconds=self._limits.minutes * 60,
            memory_gb=self._limits.memory_gb,
            stop=self._halt,
            more=self._look,
            on_memory=lambda memory: self._on_note({"memory_gb": memory}),
        )
        self._watch.start()

    def _printed(self) -> int:
        """Return what was printed or shown, in bytes; also past the kernel, straight to standard output."""
        return max(self._size, os.fstat(self._file.fileno()).st_size - self._logged)

    def _look(self) -> tuple[str, str] | None:
        if self._printed() > self._most:
            return OUTPUT, f"输出超过上限 {self._limits.output_mb:g} MB"
        return None

    def _note_cell(self, cell, cell_index: int) -> None:
        code = [index for index, one in enumerate(self.nb.cells) if one.cell_type == "code"]
        self.cell = code.index(cell_index) + 1
        self._on_note({"cell": self.cell, "cells": len(code)})

    def process_message(self, msg, cell, cell_index):
        content = msg["content"]
        shown = content.get("text") or content.get("data") or content.get("traceback") or ""
        self._size += len(str(shown).encode(errors="replace"))
        if self._size > self._most:
            return None
        if msg["msg_type"] == "stream":
            self._file.write(shown.encode(errors="replace"))
            self._file.flush()
        return super().process_message(msg, cell, cell_index)
