"""``make notebooks``: execute the notebooks of the repository in place, and store what they print.

Stored outputs are compared cell by cell in the tests and read as text by people, so all that only
says when, where or by which release they were made is taken out: two refreshes differ only where
training itself does. Outputs that name this machine are refused.
"""

import getpass
import os
import re
import shutil
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import nbformat

from tianji_helpers import paths, records, threads
from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import course

SOLUTIONS = paths.NOTEBOOKS / "solutions"
MARK = ".refresh"  # in the folder that the lessons work in; as old as what the last of them left
WIDGET = "application/vnd.jupyter.widget-view+json"

# how long something took, and when: another value in every run
PASSING = (
    (re.compile(r" +\d+(?:\.\d+)? 词元/秒  预计还要 .*"), ""),  # the end of a training's line
    (re.compile(r"\b\d+:\d\d:\d\d\b"), "…"),
    (re.compile(r"\d+(?:\.\d+)? (分钟|秒|词元/秒)"), r"… \1"),
    (re.compile(r"(?<!\d)\d{4}(?:-\d\d){5}(?!\d)"), "YYYY-MM-DD-HH-MM-SS"),  # in names of files
)


def refresh(file: Path) -> None:
    """Execute a notebook with its default parameters and write it back, without the noise.

    Raises as ``course.execute`` if a cell fails, CourseError if an output names this machine;
    the file stays as it was.
    """
    # coalescing also resolves carriage returns
    notebook = course.execute(course.read(file), progress_bar=False, coalesce_streams=True)
    for line in strip(notebook):
        print(f"    {file.name}：不保存 {line}")
    if traces := find_traces(notebook):
        raise CourseError(
            f"{file.name} 的输出里有这台机器的路径或名字：{'、'.join(traces)}。请改成相对路径。"
        )
    with records.atomic_writer(file) as target:
        nbformat.write(notebook, target)


def strip(notebook: nbformat.NotebookNode) -> list[str]:
    """Take the noise out of an executed notebook; return the lines of standard error it dropped.

    Dropped are cell metadata but the tags, language and widget details of this machine, live widget
    views (their text stays) and, in cells that are not compared, standard error (progress bars) and
    times.
    """
    dropped = []
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": course.KERNEL},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr" and "nbval-ignore-output" in tags:
                dropped += output.text.strip().splitlines()
                continue
            if "data" in output:
                output.data.pop(WIDGET, None)
            if output.output_type == "stream" and "nbval-ignore-output" in tags:
                for pattern, instead in PASSING:
                    output.text = pattern.sub(instead, output.text)
            kept.append(output)
        cell.outputs = kept
    return dropped


def find_traces(notebook: nbformat.NotebookNode) -> list[str]:
    """Return which folders and names of this machine (its user, its host) the outputs hold.

    A name that the lesson itself writes (``user``, say) is no trace.
    """
    told = "\n".join(cell.source for cell in notebook.cells)
    text = "\n".join(
        str(output.get("text", "") or output.get("traceback", "") or output.get("data", ""))
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    folders = set(map(str, filter(None, (paths.ROOT, paths.home()))))
    user = ""
    with suppress(KeyError, OSError):  # a user without a name
        user = getpass.getuser()
    names = {name for name in (user, socket.gethostname()) if len(name) > 3 and name not in told}
    found = [folder for folder in folders if folder in text]
    return sorted(found + [name for name in names if re.search(rf"\b{re.escape(name)}\b", text)])


def empty(folder: Path) -> None:
    """Make a folder anew; what is there goes only if it was made here, and is kept beside it otherwise."""
    mark = folder / MARK
    if mark.is_file() and records.is_untouched(folder, mark):
        shutil.rmtree(folder)
    elif folder.exists():
        records.set_aside(folder)
    folder.mkdir(parents=True)
    mark.touch()


def main(names: list[str]) -> None:
    """Refresh the named notebooks (numbers such as ``05``), or all of them, in order; solutions too.

    They work in a folder of their own, empty at the start of the first notebook: what an earlier run
    left would show in the outputs (answers that are in the journal are not asked for again).
    """
    folder = paths.resolve("outputs/refresh")
    os.environ.update(threads.with_defaults(), TIANJI_OUTPUT_DIR=str(folder))
    if not names or "01" in names:
        empty(folder)
    for file in (*course.find_notebooks(), *course.find_notebooks(SOLUTIONS)):
        if not names or file.stem[:2] in names:
            began, mark = time.monotonic(), folder / MARK
            ours = mark.is_file() and records.is_untouched(folder, mark)
            try:
                refresh(file)
            finally:
                if ours:  # and what has come since
                    mark.touch()
            print(f"{paths.show(file)}：{(time.monotonic() - began) / 60:.1f} 分钟", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
