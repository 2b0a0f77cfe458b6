"""``tianji grade``: grade a folder of submitted notebooks.

Only what stands under the heading 练习 is run, up to the next heading of that level, so a submission
takes seconds and needs neither a model nor the lesson's outputs; exercises therefore import what
they use. Each notebook runs in a copy, in a ``Sandbox``, and its answers are judged out here, by the
same checks that the student has: code of a student can fail, but cannot hand out a grade. It can
learn from the checks, which are open, what they expect; reading the notebooks is what finds that out.
"""

import ast
import csv
import io
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from tqdm import tqdm

from tianji_helpers import exercises, records
from tianji_helpers.errors import CourseError
from tianji_helpers.exercises import answers
from tianji_toolbox.classroom.sandbox import Sandbox, Stopped

SECTION = "## 练习"
TABLE, PAGE = "grades.csv", "grades.html"
MAX_NOTEBOOK = 20_000_000  # bytes
MAX_SUBMISSION = 200_000_000  # bytes


@dataclass
class Grade:
    """What one student handed in: for each exercise what is missing, and what kept a notebook back."""

    student: str
    results: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> int:
        """How many exercises are right."""
        return sum(not missing for missing in self.results.values())

    def add(self, other: "Grade") -> None:
        """Add what another notebook of the student got; of two answers the better one counts."""
        self.problems += other.problems
        for number, missing in other.results.items():
            if self.results.get(number) != []:
                self.results[number] = missing


class _Submitted(answers.Answer):
    """An answer that lives in a sandbox."""

    def __init__(self, sandbox: Sandbox, expression: str):
        self._sandbox, self._expression = sandbox, expression

    def value(self) -> Any:
        return self._ask(None)

    def call(self, *arguments: Any) -> Any:
        return self._ask(list(arguments))

    def _ask(self, arguments: list | None) -> Any:
        reply = self._sandbox.answer(self._expression, arguments)
        if "value" not in reply:
            raise answers.Wrong(str(reply.get("wrong", "没有答案"))[:500])
        return reply["value"]


def grade(folder: Path, *, seconds: float = 60, memory_gb: float = 2, workers: int = 1) -> list[Grade]:
    """Grade all submissions of a folder: a notebook, or a folder of notebooks, for each student.

    seconds, memory_gb: limits of each notebook. workers: how many notebooks run at a time.
    Raises CourseError if there are none, for a limit that is too small, and where this machine
    cannot lock the notebooks in.
    """
    if seconds < 5 or memory_gb < 0.5 or workers < 1:
        raise CourseError(
            f"时间限制（{seconds:g} 秒）至少 5 秒，内存限制（{memory_gb:g} GB）至少 0.5 GB，"
            f"同时运行的份数（{workers}）至少 1。"
        )
    submissions = find_submissions(folder)
    memory = int(memory_gb * 1e9)
    tasks = [(student, notebook) for student, notebooks in submissions.items() for notebook in notebooks]
    grades = {
        student: Grade(student, problems=[] if notebooks else ["文件夹里没有笔记本（.ipynb）"])
        for student, notebooks in submissions.items()
    }
    pool, cancelled = ThreadPoolExecutor(workers), threading.Event()

    def sandbox(work: Path) -> Sandbox:
        return Sandbox(work, seconds, memory, cancelled)

    try:
        graded = pool.map(lambda task: _grade_notebook(task[1], folder, sandbox), tasks)
        for (student, _), found in zip(tasks, tqdm(graded, total=len(tasks), disable=None), strict=True):
            grades[student].add(found)
    finally:
        cancelled.set()  # by Ctrl-C, say
        pool.shutdown(cancel_futures=True)
    return list(grades.values())


def find_submissions(folder: Path) -> dict[str, list[Path]]:
    """Return the notebooks of each student. Raises CourseError if there are none."""
    if not folder.is_dir():
        raise CourseError(f"没有文件夹 {folder}。里面应当是每人一个笔记本，或者每人一个文件夹。")
    found: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        if entry.is_dir():
            notebooks = found.setdefault(entry.name, [])
            notebooks += [path for path in sorted(entry.rglob("*")) if _is_notebook(path)]
        elif _is_notebook(entry):
            found.setdefault(entry.stem, []).append(entry)
    if not any(found.values()):
        raise CourseError(f"{folder} 里没有笔记本（.ipynb）。应当是每人一个笔记本，或者每人一个文件夹。")
    return found


def _is_notebook(path: Path) -> bool:
    usual = path.is_file() and not path.is_symlink()  # no pipe that never ends
    return usual and path.suffix == ".ipynb" and ".ipynb_checkpoints" not in path.parts


def _grade_notebook(notebook: Path, root: Path, start: Callable[[Path], Sandbox]) -> Grade:
    """Return what one notebook gets. Raises CourseError only if it cannot be locked in."""
    result = Grade(notebook.stem)
    try:
        cells = read_section(notebook)
        numbers = [number for source in cells for number, _ in answers_in(source)]
        if not numbers:
            raise Stopped(f"“{SECTION}”一节里没有一个 check(…)")
    except Stopped as stopped:
        result.problems.append(f"{notebook.name}：{stopped}")
        return result
    with tempfile.TemporaryDirectory(prefix="tianji-grade-", ignore_cleanup_errors=True) as temporary:
        work = Path(temporary) / "work"
        try:
            _copy(notebook, root, work)
            with start(work) as sandbox:
                for source in cells:
                    error = sandbox.run(source)
                    if error and not answers_in(source):
                        result.problems.append(f"{notebook.name}：有一格出错了：{error}")
                    result.results.update(_judge(source, error, sandbox))
        except Stopped as stopped:
            result.problems.append(f"{notebook.name}：{stopped}")
            for number in numbers:
                result.results.setdefault(number, [f"没有判完：{stopped}"])
    return result


def _copy(notebook: Path, root: Path, work: Path) -> None:
    """Copy a notebook, with what lies beside it if the student has a folder."""
    if notebook.parent == root:
        work.mkdir()
        shutil.copy(notebook, work)
        return
    try:
        size = sum(path.lstat().st_size for path in notebook.parent.rglob("*"))
        if size > MAX_SUBMISSION:
            raise Stopped(f"交来的文件有 {size / 1e6:.0f} MB，最多 {MAX_SUBMISSION / 1e6:g} MB")
        shutil.copytree(notebook.parent, work, symlinks=True)
    except OSError as error:  # pipes and the like
        raise Stopped(f"交来的文件复制不了（{type(error).__name__}）") from error


def _judge(source: str, error: str, sandbox: Sandbox) -> Iterator[tuple[str, list[str]]]:
    """Yield what is missing in each answer of a cell that was run, and raised ``error``."""
    for number, expression in answers_in(source):
        if error:
            yield number, [f"这一格出错了：{error}"]
        else:
            yield number, exercises.hints(number, _Submitted(sandbox, expression))


def read_section(notebook: Path) -> list[str]:
    """Return the code cells of a notebook's exercises. Raises Stopped if it cannot be read."""
    if notebook.stat().st_size > MAX_NOTEBOOK:
        raise Stopped(f"笔记本超过 {MAX_NOTEBOOK / 1e6:g} MB，清空输出后再交")
    chosen, inside = [], False
    try:
        for cell in nbformat.read(notebook, as_version=4).cells:
            first = cell.source.lstrip().partition("\n")[0]
            if cell.cell_type == "markdown" and first.startswith("## "):
                inside = first.rstrip() == SECTION
            elif inside and cell.cell_type == "code":
                chosen.append(cell.source)
    except Exception as error:  # whatever is in the file
        raise Stopped(f"读不了这个笔记本（{type(error).__name__}）") from error
    if not chosen:
        raise Stopped(f"没有找到“{SECTION}”一节")
    return chosen


def answers_in(source: str) -> list[tuple[str, str]]:
    """Return the exercises that a cell hands in: number, and the expression of the answer.

    >>> answers_in('answer = 1\\ncheck("01-1", answer)')
    [('01-1', 'answer')]
    """
    try:  # magics are no Python yet
        nodes = list(ast.walk(ast.parse(TransformerManager().transform_cell(source))))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [(number, "...") for number in exercises.EXERCISES if f'check("{number}"' in source]
    return [
        (call.args[0].value, ast.unparse(call.args[1]))
        for call in nodes
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "check"
        and len(call.args) == 2
        and isinstance(call.args[0], ast.Constant)
        and call.args[0].value in exercises.EXERCISES
    ]


def columns(grades: list[Grade]) -> list[answers.Exercise]:
    """Return the exercises of all the lessons that anybody handed in."""
    lessons = {number[:2] for grade in grades for number in grade.results}
    return [item for number, item in sorted(exercises.EXERCISES.items()) if number[:2] in lessons]


def write(grades: list[Grade], folder: Path) -> list[Path]:
    """Write the grades as CSV (for Excel too) and as a page, and return both paths."""
    files = [folder / TABLE, folder / PAGE]
    for file, text in zip(files, (to_csv(grades), to_html(grades)), strict=True):
        with records.atomic_writer(file) as target:
            target.write(text)
    return files


def to_csv(grades: list[Grade]) -> str:
    """Return the grades as CSV with a byte order mark; a cell never starts like a formula."""
    asked = columns(grades)
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["学生", "通过", "共", *(item.number for item in asked), "备注"])
    for grade in grades:
        marks = [_mark(grade, item.number) for item in asked]
        row = [grade.student, grade.passed, len(asked), *marks, "；".join(grade.problems)]
        table.writerow([_no_formula(cell) if isinstance(cell, str) else cell for cell in row])
    return "\ufeff" + text.getvalue()


def _mark(grade: Grade, number: str) -> int | str:
    return int(not grade.results[number]) if number in grade.results else ""


def _no_formula(text: str) -> str:
    risky = text[:1] in ("\t", "\r", "\n") or text.lstrip().startswith(("=", "+", "-", "@"))
    return "'" + text if risky else text


def to_html(grades: list[Grade]) -> str:
    """Return the grades as one page that needs nothing else."""
    from jinja2 import Environment, FileSystemLoader

    asked = columns(grades)
    passed = {item.number: sum(_mark(grade, item.number) == 1 for grade in grades) for item in asked}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("grades.html.j2").render(grades=grades, exercises=asked, passed=passed)
