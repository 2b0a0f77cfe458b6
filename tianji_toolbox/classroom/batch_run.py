"""One run of a batch: its notebooks one after another in a folder of its own.

The folder is a run of the course (stages, ``notebooks/``) with ``run.json`` (what was asked for),
``log.txt``, ``metrics.json`` (what came out, see ``batch_metrics``) and ``status.json``, the journal: it says
``running`` from the first moment and gets its last word when all else is written. So whatever a crash
leaves behind counts as not done. A run always begins with an empty folder; what somebody else put or changed
there is kept beside it.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec

from tianji_helpers import locks, paths, records
from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import runs
from tianji_toolbox.classroom.batch_plan import Run
from tianji_toolbox.classroom.runs import RUNNING, Limits, Status

_MADE_BY = "tianji batch"
_LAST = ("run.json", "status.json")  # what is written last
_PULSE = 10  # seconds between two signs of life


def read_status(folder: Path) -> Status:
    """Return the status that a run's folder holds; ``waiting`` where there is none that can be read."""
    status = read(folder / "status.json", Status)
    return status if status and status.status in runs.WORDS else Status(folder.name)


def read(file: Path, kind: Any) -> Any:
    """Return a JSON file as ``kind``; None where it cannot be read or is something else."""
    try:
        if not file.is_file():  # a pipe, which would not end
            return None
        return msgspec.convert(json.loads(file.read_text(encoding="utf-8")), kind)
    except (OSError, ValueError, RecursionError, msgspec.ValidationError):
        return None


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
    when one begins. The time limit is for the whole run. What another batch finished meanwhile is not done
    again. Raises locks.Held if one is at work on it.
    """
    from tianji_toolbox.classroom import batch_metrics

    folder.parent.mkdir(parents=True, exist_ok=True)
    with locks.alone(folder.with_name(f".{folder.name}.lock"), timeout=0):
        earlier = read_status(folder)
        if earlier.status == runs.DONE and earlier.key == run.key:
            return earlier
        kept = _make_room(folder)
        (folder / "notebooks").mkdir(parents=True)
        asked = {"name": run.name, "parameters": run.given, "limits": asdict(limits), "threads": threads}
        records.write_json(folder / "run.json", {"made_by": _MADE_BY, **asked})
        status = write_status(folder, Status(run.name, RUNNING, key=run.key))
        if kept:
            (folder / "log.txt").write_text(f"原来在这里的东西移到了 {kept}\n", encoding="utf-8")
        environment = os.environ | {"TIANJI_OUTPUT_DIR": str(folder), "OMP_NUM_THREADS": str(threads)}
        alive = _signs_of_life(folder / "run.json", on_note)
        status, steps = _work(run, folder, limits, status, environment, alive, stop)
        records.write_json(folder / "metrics.json", {"steps": steps, **batch_metrics.gather(folder)})
        records.write_json(folder / "run.json", {"made_by": _MADE_BY, **asked, "files": _listing(folder)})
        return write_status(folder, status)


def _signs_of_life(file: Path, on_note: Callable[[dict], None]) -> Callable[[dict], None]:
    """Return ``on_note``, which then also touches a file, now and then: it shows until when the run lived."""
    last = time.monotonic()

    def note(said: dict) -> None:
        nonlocal last
        if time.monotonic() - last > _PULSE:
            last = time.monotonic()
            with suppress(OSError):
                os.utime(file)
        on_note(said)

    return note


def _work(
    run: Run,
    folder: Path,
    limits: Limits,
    status: Status,
    environment: dict[str, str],
    on_note: Callable[[dict], None],
    stop: threading.Event | None,
) -> tuple[Status, list[dict]]:
    """Do the notebooks one after another, as far as they go; return how it ended, and what each took."""
    # where libraries keep what they share between runs (fonts, kernels)
    home = paths.home()
    caches = [Path(text)] if (text := os.environ.get("XDG_CACHE_HOME")) else [home / ".cache"] if home else []
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
            writable=[folder, *filter(Path.is_dir, caches)],
            on_note=on_note,
            stop=stop,
        )
        steps.append({"notebook": notebook.stem, "minutes": result.minutes})
        timed_out = f"超过时限 {limits.minutes:g} 分钟"
        status = replace(
            result,
            name=run.name,
            key=run.key,
            reason=timed_out if result.status == runs.TIME else result.reason,
            notebook="" if result.status == runs.DONE else notebook.stem,
            minutes=(time.monotonic() - began) / 60,
            peak_memory_gb=max(status.peak_memory_gb, result.peak_memory_gb),
        )
        if result.status != runs.DONE:
            break
    return status, steps


def _make_room(folder: Path) -> Path | None:
    """Remove what an earlier run left; what else lies there is kept, under the name that is returned."""
    if not folder.exists():
        return None
    names = {item.name for item in folder.iterdir()}
    if names == {"status.json"}:  # of one that did not begin
        ours = read_status(folder) != Status(folder.name)
    elif names:
        ours = _is_ours(folder)
    if names and not ours:
        return records.set_aside(folder)
    shutil.rmtree(folder)
    return None


def _is_ours(folder: Path) -> bool:
    """Whether all in a folder is a run's: what was there when it ended, or when it was cut off."""
    try:
        made = records.read_json(folder / "run.json")
    except CourseError:
        return False
    if not isinstance(made, dict) or made.get("made_by") != _MADE_BY:
        return False
    if "files" not in made:
        return records.is_untouched(folder, folder / "run.json", but=_LAST)
    return made["files"] == _listing(folder)


def _listing(folder: Path) -> dict[str, int | str]:
    """Return what a run's folder holds, but the files that are written last."""
    return {name: what for name, what in records.listing(folder).items() if name not in _LAST}
