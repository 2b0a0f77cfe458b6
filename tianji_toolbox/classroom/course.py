"""Run the course: the notebooks in order through papermill, each with the parameters it knows.

Executed copies stand in ``<run>/notebooks/``. A copy that ran through carries a key: the hash of
the notebook's code, its parameters, the package with its data and configs, and the keys of the
notebooks before it. When the course is run again, a notebook whose key still holds and whose files
are still there is passed over, so a course that stopped goes on from where it stopped.
"""

import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from tianji_helpers import locks, paths, threads
from tianji_helpers.errors import CourseError
from tianji_helpers.parameters import assign, contents, defaults, with_whole_paths
from tianji_helpers.records import atomic_writer, make_way
from tianji_toolbox import doctor

KERNEL = "python3"
ADDED = ("07",)  # lessons beside the course: run by their number only
_UNREADABLE = (OSError, ValueError, nbformat.ValidationError)  # what nbformat.read raises
# the kernel process warns that loopback is not encrypted, and of being stopped; what goes wrong in a
# cell arrives as a message all the same
KERNEL_ARGUMENTS = ["--log-level=CRITICAL"]
# seconds for what a cell showed to arrive after it has ended; with nbclient's 4, a busy machine loses it
IOPUB_TIMEOUT = 600


@dataclass(frozen=True)
class Lesson:
    """A notebook of the course, the parameters somebody set for it, and its executed copy."""

    path: Path
    notebook: nbformat.NotebookNode
    given: dict[str, Any]
    copy: Path

    @property
    def name(self) -> str:
        """The file name without its ending."""
        return self.path.stem


def run_course(
    only: str | None = None,
    start: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    output_dir: str | Path = "",
    folder: Path = paths.NOTEBOOKS,
) -> list[str]:
    """Execute the notebooks of the course and return the names of those that were executed.

    only, start: a notebook's number (``"05"``): run just that one, or that one and all after it,
    even where they are done. parameters: values by name, as text or typed; each of these notebooks
    gets those that it has. output_dir: the run's folder (see ``paths.run_dir``). folder: where the
    notebooks lie.

    Raises CourseError before any work for an unknown notebook, parameter or value, for too little
    disk or memory, and where another course is at work in the same folder; later, when a notebook
    fails.
    """
    run = paths.run_dir(output_dir)
    files = find_notebooks(folder)
    chosen = _choose(files, only, start)
    lessons = _lessons(chosen, parameters or {}, run)
    require(*doctor.resources(run))
    executed = []

    def key(lesson: Lesson) -> str:
        earlier = files[: files.index(lesson.path)]
        return _key(lesson, [_record(_copy(file, run)).get("key") for file in earlier])

    def is_done(lesson: Lesson) -> bool:
        record = _record(lesson.copy)
        if only or start or record.get("key") != key(lesson):
            return False
        return all((run / file).exists() for file in record["files"])

    os.environ.update(threads.with_defaults())  # the kernels inherit it
    # it warns of parameters that its own inspection overlooks
    logging.getLogger("papermill").setLevel(logging.ERROR)
    with alone(run, ".course.lock", "课程"):
        (run / "notebooks").mkdir(exist_ok=True)
        for lesson in lessons:
            if not is_done(lesson):
                _try_parameters(lesson, run)
        for lesson in lessons:
            number = files.index(lesson.path) + 1
            label = f"[{number}/{max(number, len(_usual(files)))}] {lesson.name}"
            if is_done(lesson):
                print(f"{label}：之前已经完成，跳过", flush=True)
                continue
            began, made_from = time.monotonic(), key(lesson)
            with make_way(lesson.copy, run):  # somebody may have tried something out in it
                _execute(lesson, lesson.notebook, run, lesson.copy, label)
                _write_record(lesson, made_from, run)
            executed.append(lesson.name)
            print(f"{label}：完成，{(time.monotonic() - began) / 60:.1f} 分钟", flush=True)
    print(f"全部完成。带输出的笔记本在 {paths.told(run / 'notebooks')}", flush=True)
    return executed


def find_notebooks(folder: Path = paths.NOTEBOOKS) -> list[Path]:
    """Return the notebooks of the course in order. Raises CourseError if there are none."""
    files = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not files:
        raise CourseError(f"{folder} 里没有课程的笔记本（形如 01_….ipynb）。请在完整的课程文件夹里运行。")
    return files


def read(file: Path) -> nbformat.NotebookNode:
    """Return a notebook. Raises CourseError if it cannot be read."""
    try:
        return nbformat.read(file, as_version=4)
    except _UNREADABLE as error:
        raise CourseError(
            f"读不了笔记本 {file}：{error}。课程的可用 git checkout -- {paths.told(file)} 恢复。"
        ) from error


def _usual(files: list[Path]) -> list[Path]:
    return [file for file in files if file.stem[:2] not in ADDED]


def _choose(files: list[Path], only: str | None, start: str | None) -> list[Path]:
    wanted = start if only is None else only
    if wanted is None:
        return _usual(files)
    for index, file in enumerate(files):
        if wanted.zfill(2) in (file.stem[:2], file.stem):
            return [file] if only is not None else [file, *_usual(files[index + 1 :])]
    numbers = "、".join(file.stem[:2] for file in files)
    raise CourseError(f"没有编号为 {wanted} 的课。可选：{numbers}。")


def _lessons(files: list[Path], parameters: Mapping[str, Any], run: Path) -> list[Lesson]:
    if "output_dir" in parameters:
        raise CourseError("结果文件夹请用 --output 指定，不用 -p output_dir=…")
    notebooks = {file: read(file) for file in files}
    known = {file.stem: defaults(notebook, file.name) for file, notebook in notebooks.items()}
    takes_folder = [name for name, values in known.items() if values.pop("output_dir", None) is not None]
    given = assign(parameters, known)
    given = {name: with_whole_paths(values) for name, values in given.items()}
    for name in takes_folder:
        given[name]["output_dir"] = str(run)
    return [
        Lesson(file, notebook, given[file.stem], _copy(file, run)) for file, notebook in notebooks.items()
    ]


def _copy(file: Path, run: Path) -> Path:
    return run / "notebooks" / file.name


def require(*checks: doctor.Check) -> None:
    """Raise CourseError if one of the checks failed."""
    failed = [check for check in checks if check.status == doctor.FAIL]
    if failed:
        raise CourseError("；".join(f"{check.name}：{check.message}。{check.fix}" for check in failed) + "。")


@contextmanager
def alone(folder: Path, lock: str, what: str) -> Iterator[None]:
    """Hold a folder, which is made, so that two of the same kind don't write over each other.

    lock: the name of a file in it. what: the kind, in Chinese. Raises CourseError if another holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locks.alone(folder / lock, timeout=0):
            yield
    except locks.Held:
        raise CourseError(
            f"另一个{what}正在 {paths.told(folder)} 里运行。等它结束，或用 --output 换一个文件夹。"
        ) from None


def _try_parameters(lesson: Lesson, run: Path) -> None:
    """Run a notebook up to the cell that validates its parameters, if somebody set any.

    So a value that lesson 5 refuses is refused before lesson 1 has worked.
    """
    if not lesson.given.keys() - {"output_dir"}:
        return
    cells = lesson.notebook.cells
    first = next(i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    code = [i for i, cell in enumerate(cells) if cell.cell_type == "code" and i > first]
    head = nbformat.from_dict({**lesson.notebook, "cells": cells[: code[0] + 1] if code else cells})
    _execute(lesson, head, run, None, f"{lesson.name} 检查参数")


def _execute(
    lesson: Lesson, notebook: nbformat.NotebookNode, run: Path, output: Path | None, label: str
) -> None:
    """Execute a notebook into ``output``. Raises CourseError with what stopped it, in short."""
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    bar = {"desc": label, "leave": False} if sys.stderr.isatty() else False
    again = ""
    if output:
        again = (
            f"\n完整记录：{paths.told(output)}"
            "\n前面的结果都留着；处理好之后，再运行一次 tianji course 就从这一课接着走。"
        )
    try:
        execute(notebook, output, parameters=lesson.given, progress_bar=bar)
    except CourseError as error:
        raise CourseError(f"{label}：{error}{again}") from None
    except PapermillExecutionError as error:
        raise CourseError(f"{label}：停在代码格 [{error.exec_count}]。\n{reason(error)}{again}") from error
    except DeadKernelError as error:
        raise CourseError(
            f"{label}：笔记本的内核被系统结束了，多半是内存不够"
            f"（现在{doctor.check_memory().message}）。关掉别的程序，或把训练量调小。{again}"
        ) from error


def execute(
    notebook: nbformat.NotebookNode, output: Path | None = None, **options: Any
) -> nbformat.NotebookNode:
    """Execute a copy of a notebook from the top folder of the course, and return the copy.

    output: where it is also written, after every cell. options: as papermill's ``execute_notebook`` takes
    them. Raises what that raises, and CourseError for a cell that ends the notebook by itself.
    """
    import papermill

    # papermill fills {names} into paths
    target = None if output is None else str(output).replace("{", "{{").replace("}", "}}")
    done = papermill.execute_notebook(
        notebook,
        target,
        kernel_name=KERNEL,
        cwd=paths.ROOT,
        start_timeout=300,
        iopub_timeout=IOPUB_TIMEOUT,
        extra_arguments=KERNEL_ARGUMENTS,
        **options,
    )
    if done.metadata.papermill.exception:  # to papermill, sys.exit() is no error
        raise CourseError("有一格用 sys.exit() 结束了笔记本，后面的都没有运行。请删掉它。")
    return done


def reason(error) -> str:
    """Return what a person needs of a papermill error: our own words, or the line and what it raised."""
    from papermill.exceptions import strip_color

    if error.ename == "CourseError":
        return error.evalue.strip()
    lines = strip_color("\n".join(error.traceback)).splitlines()
    place = [line.strip() for line in lines if re.match(r"-+> \d", line)][:1]
    return "\n".join([f"{error.ename}: {error.evalue}".strip(), *place])


def _key(lesson: Lesson, earlier: list[str | None]) -> str:
    given = contents({name: value for name, value in lesson.given.items() if name != "output_dir"})
    sources = [cell.source for cell in lesson.notebook.cells if cell.cell_type == "code"]
    text = json.dumps([sources, given, package_hash(), earlier], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def package_hash() -> str:
    """Return the hash of everything of ours that a notebook may use."""
    digest = hashlib.sha256()
    for top in (paths.HELPERS, paths.DATA, paths.CONFIGS):
        for file in sorted(top.rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                digest.update(str(file.relative_to(top)).encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


def _record(copy: Path) -> dict:
    """Return what ``_write_record`` left in an executed copy; nothing where it did not run through."""
    try:
        return nbformat.read(copy, as_version=4).metadata.get("tianji", {})
    except _UNREADABLE:
        return {}


def _write_record(lesson: Lesson, key: str, run: Path) -> None:
    notebook = nbformat.read(lesson.copy, as_version=4)
    files = [
        file.relative_to(run).as_posix()
        for stage in sorted(run.glob(f"{lesson.name[:2]}_*"))
        for file in sorted(stage.rglob("*"))
        if file.is_file()
    ]
    notebook.metadata["tianji"] = {"key": key, "files": files}
    with atomic_writer(lesson.copy) as file:
        nbformat.write(notebook, file)
