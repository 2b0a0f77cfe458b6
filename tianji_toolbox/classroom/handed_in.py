"""What a notebook hands in: the code cells under the heading 练习, and the answers in them."""

import ast
import json
from pathlib import Path
from types import CodeType

from IPython.core.inputtransformer2 import TransformerManager

from tianji_helpers import exercises
from tianji_helpers.errors import CourseError

SECTION = "## 练习"
MAX_NOTEBOOK = 20_000_000  # bytes


def read_section(notebook: Path) -> list[str]:
    """Return the code cells of a notebook's exercises. Raises CourseError if it cannot be read."""
    if notebook.stat().st_size > MAX_NOTEBOOK:
        raise CourseError(f"笔记本超过 {MAX_NOTEBOOK / 1e6:g} MB，清空输出后再交")
    chosen, inside = [], False
    try:
        # plain JSON: importing nbformat takes 2 s, for every notebook. utf-8-sig: some editors of Windows put
        # a mark before the text
        for cell in json.loads(notebook.read_text(encoding="utf-8-sig"))["cells"]:
            source = "".join(cell["source"])  # a text or its lines
            first = source.lstrip().partition("\n")[0]
            if cell["cell_type"] == "markdown" and first.startswith("## "):
                inside = first.rstrip() == SECTION
            elif inside and cell["cell_type"] == "code":
                chosen.append(source)
    except Exception as error:  # whatever is in the file
        raise CourseError(f"读不了这个笔记本（{type(error).__name__}）") from error
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
