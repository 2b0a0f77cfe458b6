"""The process in which the cells of a submitted notebook run: ``python -m tianji_toolbox.classroom.pupil``.

It locks itself in (see ``jail``), then reads commands from standard input and answers them on
standard output, a line of JSON each: ``run`` a cell, or say what an ``answer`` is for some arguments.
What the cells print goes to standard error, which is a file. Nothing that comes back is trusted: see
``sandbox``.
"""

import json
import os
import sys
from pathlib import Path

from tianji_helpers.errors import CourseError
from tianji_helpers.exercises.answers import Answer, Wrong, brief
from tianji_toolbox.classroom import jail


def main(folder: Path, memory: int, seconds: int) -> None:
    """Answer commands until there are no more."""
    commands = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")

    def reply(message: dict) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        jail.enter(folder, memory, seconds)
    except CourseError as error:
        reply({"refused": str(error)})
        return
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    reply({"ready": True})  # from here on the student's files matter, and the student's time runs
    os.chdir(folder)
    sys.path[0] = str(folder)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    shell = InteractiveShell.instance(config=config)
    for line in commands:
        command = json.loads(line)
        reply(_run(shell, command["run"]) if "run" in command else _answer(shell, **command))


def _run(shell, source: str) -> dict:
    result = shell.run_cell(source)
    error = result.error_before_exec or result.error_in_exec
    return {"error": f"{type(error).__name__}: {brief(error, 120)}" if error else ""}


def _answer(shell, answer: str, arguments: list | None) -> dict:
    try:
        try:
            given = Answer(eval(answer, shell.user_ns))
        except Exception as error:
            raise Wrong(f"找不到答案 {answer}：{type(error).__name__}: {brief(error, 120)}") from None
        return {"value": given.value() if arguments is None else given.call(*arguments)}
    except Wrong as wrong:
        return {"wrong": str(wrong)}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
