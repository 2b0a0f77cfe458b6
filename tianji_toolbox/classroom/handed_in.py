"""What a notebook hands in: the cells under the heading 练习 and the answers in them, or all cells."""

import ast
import json
import re
from pathlib import Path
from types import CodeType
from typing import NamedTuple

from IPython.core.inputtransformer2 import TransformerManager

from tianji_helpers import exercises
from tianji_helpers.errors import CourseError

SECTION = "## 练习"
MAX_NOTEBOOK = 20_000_000  # bytes
# the first line of a graded cell: its question, and how many points it is worth
_WORTH = r"\s*([\w-]+)\s*[:：]\s*(\d+(?:\.\d+)?)\s*(?:points?|分)\s*"
HEADER = {"code": re.compile(rf"#{_WORTH}(?:\n|$)"), "markdown": re.compile(rf"<!--{_WORTH}-->")}


class Cell(NamedTuple):
    """A cell of a notebook: code or markdown, its text, and the question that it belongs to."""

    kind: str
    source: str
    question: str


def read_cells(notebook: Path) -> list[Cell]:
    """Return all cells of a notebook. Raises CourseError if it cannot be read."""
    if notebook.stat().st_size > MAX_NOTEBOOK:
        raise CourseError(f"笔记本超过 {MAX_NOTEBOOK / 1e6:g} MB，清空输出后再交")
    try:
        # plain JSON: importing nbformat takes 2 s, for every notebook. utf-8-sig: some editors of Windows put
        # a mark before the text
        cells = json.loads(notebook.read_text(encoding="utf-8-sig"))["cells"]
        # a source is a text or its lines
        return [
            Cell(cell["cell_type"], text := "".join(cell["source"]), question(cell, text)) for cell in cells
        ]
    except Exception as error:  # whatever is in the file
        raise CourseError(f"读不了这个笔记本（{type(error).__name__}）") from error


def question(cell: dict, source: str) -> str:
    """Return the name of the question that a cell is graded for; empty if it is not.

    >>> question({"cell_type": "code"}, "# 去重: 3 分\\nassert unique([1, 1]) == [1]")
    '去重'
    """
    marked = nbgrader(cell)
    if marked.get("grade") or marked.get("task"):
        return str(marked.get("grade_id"))
    kind = next((kind for kind in HEADER if kind == cell["cell_type"]), None)
    found = kind and HEADER[kind].match(source)
    return found[1] if found else ""


def nbgrader(cell: dict) -> dict:
    """Return what nbgrader has noted of a cell, if that can be read."""
    found = cell.get("metadata")
    found = found.get("nbgrader") if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def read_section(notebook: Path) -> list[str]:
    """Return the code cells of a notebook's exercises. Raises CourseError if it cannot be read."""
    chosen, inside = [], False
    for kind, source, _ in read_cells(notebook):
        first = source.lstrip().partition("\n")[0]
        if kind == "markdown" and first.startswith("## "):
            inside = first.rstrip() == SECTION
        elif inside and kind == "code":
            chosen.append(source)
    if not chosen:
        raise CourseError(f"没有找到“{SECTION}”一节")
    return chosen


def answers_in(source: str) -> list[tuple[str, CodeType]]:
    """Return the exercises that a cell hands in: number, and the code of the answer, for ``eval``.

    >>> [(number, eval(code)) for number, code in answers_in('check("01-1", 1 + 1)')]
    [('01-1', 2)]
    """
    if "check" not in source:  # most cells; magics take long
        return []
    try:  # magics are no Python yet
        nodes = ast.walk(ast.parse(TransformerManager().transform_cell(source)))
        return [
            (call.args[0].value, compile(ast.Expression(call.args[1]), "answer", "eval"))
            for call in nodes
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id == "check"
            and len(call.args) == 2
            and isinstance(call.args[0], ast.Constant)
            and call.args[0].value in list(exercises.EXERCISES)  # a list: the constant may have no hash
        ]
    except Exception:  # no Python, or too deep; running the cell will say so
        stub = compile("...", "answer", "eval")
        return [(number, stub) for number in exercises.EXERCISES if f'check("{number}"' in source]
