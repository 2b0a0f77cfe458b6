"""One run of a batch: its notebooks one after another in a folder of its own.

The folder is a run of the course (stages, ``notebooks/``) with ``run.json`` (what was asked for),
``log.txt``, ``metrics.json`` (what came out, see ``metrics``) and ``status.json``, the journal: it says
``running`` from the first moment and gets its last word when all else is written. So whatever a crash
leaves behind counts as not done. A run always begins with an empty folder.

As a program this module does one run that standard input names, for engines on other machines. The
input then stays open: when it closes, the run is stopped.
"""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tianji_helpers import paths, records
from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import runs
from tianji_toolbox.classroom.batch_plan import Run
from tianji_toolbox.classroom.batch_store import Store
from tianji_toolbox.classroom.runs import Limits

WAITING, RUNNING = "waiting", "running"


@dataclass(frozen=True)
class Status:
    """Where a run is. status: ``waiting``, ``running``, or as a ``RunResult``'s. notebook, cell: where it
    is, or where it failed. minutes, peak_memory_gb: of the whole run.
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
        return self.is_over and self.status not in (runs.DONE, runs.STOPPED)


def read_status(folder: Path) -> Status:
    """Return the status that a run's folder holds; ``waiting`` where there is none that can be read."""
    try:
        return Status(**json.loads((folder / "status.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Status(folder.name)


def write_status(folder: Path, status: Status) -> Status:
    """Write a run's status, at once or not at all, and return it."""
    records.write_json(folder / "status.json", asdict(status))
    return status


def execute(
    run: Run,
    folder: Path,
    limits: Limits,
    *,
    threads: int,
    on_note: Callable[[dict], None] = lambda note: None,
    stop: threading.Event | None = None,
) -> Status:
    """Do a run from its beginning in ``folder``, and return how it ended.

    threads: how many its computations may use. on_note: as in ``run_notebook``, and with ``{"notebook"}``
    when one begins. The time limit is for the whole run.
    """
    from filelock import FileLock

    from tianji_toolbox.classroom import batch_metrics

    folder.parent.mkdir(parents=True, exist_ok=True)
    # an engine may begin a run again while what it killed is still ending
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.exists():
            if any(folder.iterdir()) and not (folder / "status.json").is_file():
                raise CourseError(
                    f"{folder} 里有不是批次留下的东西，不会删掉。请换一个 --output，或把它移走。"
                )
            shutil.rmtree(folder)
        (folder / "notebooks").mkdir(parents=True)
        status = write_status(folder, Status(run.name, RUNNING, key=run.key))
        asked = {"name": run.name, "parameters": run.given, "limits": asdict(limits), "threads": threads}
        records.write_json(folder / "run.json", asked)
        environment = os.environ | {"TIANJI_OUTPUT_DIR": str(folder), "OMP_NUM_THREADS": str(threads)}
        began, steps = time.monotonic(), []
        for notebook in run.notebooks:
            on_note({"notebook": notebook.stem})
            spent = (time.monotonic() - began) / 60
            result = runs.run_notebook(
                notebook,
                folder / "notebooks" / notebook.name,
                parameters=run.given[notebook.stem],
                limits=replace(limits, minutes=limits.minutes - spent),
                log=folder / "log.txt",
                environment=environment,
                writable=[folder, *_caches()],
                on_note=on_note,
                stop=stop,
            )
            steps.append({"notebook": notebook.stem, "minutes": result.minutes})
            timed_out = f"超过时限 {limits.minutes:g} 分钟"
            status = replace(
                status,
                status=result.status,
                reason=timed_out if result.status == runs.TIME else result.reason,
                notebook="" if result.status == runs.DONE else notebook.stem,
                cell=result.cell,
                minutes=(time.monotonic() - began) / 60,
                peak_memory_gb=max(status.peak_memory_gb, result.peak_memory_gb),
            )
            if result.status != runs.DONE:
                break
        records.write_json(folder / "metrics.json", {"steps": steps, **batch_metrics.gather(folder)})
        return write_status(folder, status)


def _caches() -> list[Path]:
    """Return where libraries keep what they share between runs (fonts, kernels)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [cache] if cache.is_dir() else []


def request(run: Run, store: Store, limits: Limits, threads: int) -> dict:
    """Return a run as JSON, for ``main``."""
    return {
        "root": str(paths.ROOT),
        "run": asdict(run) | {"notebooks": [str(notebook) for notebook in run.notebooks]},
        "store": {"folder": str(store.folder), "address": store.address},
        "limits": asdict(limits),
        "threads": threads,
    }


def main() -> None:
    """Do the run that standard input names, and print its status as the last line."""
    asked = json.loads(sys.stdin.readline())
    run = Run(**asked["run"] | {"notebooks": tuple(map(Path, asked["run"]["notebooks"]))})
    store = Store(Path(asked["store"]["folder"]), asked["store"]["address"])
    stop = threading.Event()

    def hold_on() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=hold_on, daemon=True).start()
    status = execute(
        run, store.run_dir(run.name), Limits(**asked["limits"]), threads=asked["threads"], stop=stop
    )
    if not stop.is_set():
        store.push_run(run.name)
    print(json.dumps({"status": asdict(status)}, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
