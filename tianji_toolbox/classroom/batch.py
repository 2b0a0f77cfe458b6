"""Many runs of notebooks: a plan carried out in parallel, within what the machine has.

Each run works in ``<batch>/runs/<name>`` (see ``batch_run``). A run begins only if the memory that it is
expected to need is free, beside what those at work may still take: the largest peak of the runs that
ended, and the plan's ``memory_gb`` as long as none has. The cores are divided among the workers.

What is done, by its key, is not done again; what failed or was cut off is. Several machines share a plan as
shards, in one folder that all of them reach: each does its own runs, and whoever begins a run locks it.
"""

import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from tianji_helpers import locks, records
from tianji_helpers.errors import CourseError
from tianji_toolbox import doctor
from tianji_toolbox.classroom import batch_plan, batch_run, course, runs
from tianji_toolbox.classroom.batch_plan import WHOLE, Plan, Run, Shard
from tianji_toolbox.classroom.runs import Status

DISK_GB = 2.0  # free space below which no run begins; one run of lessons 3, 5 and 6 takes 1
_SPARE = 1.1  # of the largest peak so far


@dataclass
class Progress:
    """A run as the live table shows it. folder: where it works, once it has begun on this machine."""

    run: Run
    status: Status
    cells: int = 0
    folder: Path | None = None
    memory_gb: float = 0.0
    began: float | None = None  # time.monotonic()
    fresh: bool = True  # to be done in this batch
    stop: threading.Event = field(default_factory=threading.Event)

    def note(self, said: dict) -> None:
        """Take a note of ``batch_run.execute``."""
        if "notebook" in said:
            self.status = replace(self.status, notebook=said["notebook"], cell=None)
        self.status = replace(self.status, cell=said.get("cell", self.status.cell))
        self.cells = said.get("cells", self.cells)
        self.memory_gb = said.get("memory_gb", self.memory_gb)


Show = Callable[[list[Progress]], None]


def run_batch(
    plan: Plan,
    folder: Path,
    *,
    workers: int | None = None,
    only_failed: bool = False,
    shard: Shard = WHOLE,
    show: Show = lambda rows: None,
) -> list[Status]:
    """Carry out a plan, or a shard of it, and return the status of each of its runs, in the plan's order.

    folder: where the results go. workers: how many runs at a time, at most; by default one for every two
    cores. only_failed: what was never begun stays so. shard: see ``batch_plan.share``. show: called with
    all runs, some times a second. A run that another batch is at work on in the same folder is left to it;
    its status is ``running``.

    Raises CourseError before the first run for a shard that the plan does not have, for the same shard at
    work in the folder, or too little memory or disk for one run. An interrupt stops the runs at work, which
    then count as not done.
    """
    from tianji_helpers.training import models

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = workers or max(1, cores // 2)
    number, of = shard
    batch_plan.share(plan, shard)
    lock = ".batch.lock" if shard == WHOLE else f".batch-{number}-{of}.lock"
    what = "批次" if shard == WHOLE else f"第 {number}/{of} 份批次"
    with course.alone(folder, lock, what):
        rows = survey(plan, folder, only_failed, shard)
        todo = [row for row in rows if row.fresh]
        course.require(doctor.check_disk(folder, DISK_GB), doctor.check_memory(_need(plan, rows)))
        runs_of_plan = [{"name": run.name, "chosen": run.chosen} for run in plan.runs]
        records.write_json(folder / "batch.json", {"title": plan.title, "runs": runs_of_plan})
        for name in sorted(plan.models) if todo else ():  # runs cannot write there, and would all wait
            models.prepare(name)
        if plan.sees and todo:
            from tianji_helpers.seeing import tower

            models.prepare()
            tower.prepare()
        threads = max(1, cores // min(workers, max(1, len(todo))))
        _work(plan, folder, rows, workers, threads, show)
    return [row.status for row in rows]


def _execute(plan: Plan, folder: Path, row: Progress, threads: int) -> Status:
    """Do one run; what goes wrong is how it ended."""
    place = row.folder = folder / "runs" / row.run.name
    options = {"threads": threads, "on_note": row.note, "stop": row.stop}
    try:
        return batch_run.execute(row.run, place, plan.limits, **options)
    except locks.Held:
        return Status(row.run.name, runs.RUNNING, "另一个批次正在做它。")
    except (CourseError, OSError) as error:  # this run's; a full disk stops the next line too
        return _write_end(folder, row, runs.ERROR, str(error))


def survey(plan: Plan, folder: Path, only_failed: bool = False, shard: Shard = WHOLE) -> list[Progress]:
    """Return where each run of a shard is, and which are to be done (``fresh``)."""
    rows = []
    for run in batch_plan.share(plan, shard):
        status = batch_run.read_status(folder / "runs" / run.name)
        is_done = status.status == runs.DONE and status.key == run.key
        fresh = status.has_failed if only_failed else not is_done
        rows.append(Progress(run, Status(run.name) if fresh else status, fresh=fresh))
    return rows


def _work(plan: Plan, folder: Path, rows: list[Progress], workers: int, threads: int, show: Show) -> None:
    """Do the fresh runs, as many at a time as there are workers and memory for."""
    waiting = [row for row in rows if row.fresh]
    active: dict[Future, Progress] = {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            while waiting or active:
                while waiting and len(active) < workers and _fits(plan, folder, rows, active):
                    row = waiting.pop(0)
                    row.began = time.monotonic()
                    row.status = Status(row.run.name, runs.RUNNING)
                    active[pool.submit(_execute, plan, folder, row, threads)] = row
                if not active:
                    try:
                        course.require(
                            doctor.check_memory(_need(plan, rows)), doctor.check_disk(folder, DISK_GB)
                        )
                    except CourseError as short:  # not even one run alone
                        row = waiting.pop(0)
                        row.status = _write_end(folder, row, runs.MEMORY, f"没有开始，{short}")
                done, _ = wait(active, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    active.pop(future).status = future.result()
                show(rows)
        finally:
            for row in active.values():
                row.stop.set()
    show(rows)


def _need(plan: Plan, rows: list[Progress]) -> float:
    """Return how many GB the next run is expected to take."""
    peaks = [row.status.peak_memory_gb for row in rows if row.status.status == runs.DONE]
    return min(max(peaks) * _SPARE, plan.limits.memory_gb) if peaks else plan.limits.memory_gb


def _fits(plan: Plan, folder: Path, rows: list[Progress], active: dict[Future, Progress]) -> bool:
    """Is there memory for one more run, when those at work take all that they are expected to?"""
    need = _need(plan, rows)
    promised = sum(max(0.0, need - row.memory_gb) for row in active.values())
    free, _ = doctor.free_memory()
    return free - promised >= need and shutil.disk_usage(folder).free / 1e9 >= DISK_GB


def _write_end(folder: Path, row: Progress, status: str, reason: str) -> Status:
    """Write down how a run ended that did not do so itself."""
    ended = Status(row.run.name, status, reason, key=row.run.key)
    return batch_run.write_status(folder / "runs" / row.run.name, ended)
