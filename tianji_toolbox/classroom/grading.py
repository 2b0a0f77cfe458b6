"""``tianji grade``: grade a folder of submitted notebooks.

Only what stands under the heading 练习 is run, up to the next heading of that level, so a submission
takes seconds and needs neither a model nor the lesson's outputs; exercises therefore import what
they use. Each notebook is read and run in a ``Sandbox`` of its own, and its answers are judged out here, by
the same checks that the student has: code of a student can fail, but cannot hand out a grade. It can
learn from the checks, which are open, what they expect; reading the notebooks is what finds that out.
Whatever a notebook does is its own result; the others get theirs.
"""

import csv
import io
import os
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tianji_helpers import exercises, records
from tianji_helpers.errors import CourseError
from tianji_helpers.exercises import answers
from tianji_toolbox.classroom.sandbox import Sandbox, Stopped

TABLE, PAGE = "grades.csv", "grades.html"
# of a student: there are six lessons; a folder of more is no submission
MAX_NOTEBOOKS, MAX_ENTRIES, MAX_DEPTH = 12, 10_000, 8
MAX_PROBLEMS = 20  # of a notebook, that are told


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
        self.problems += map(_printable, other.problems)
        for number, missing in other.results.items():
            if self.results.get(number) != []:
                self.results[number] = [_printable(hint) for hint in missing]


class _Submitted(answers.Answer):
    """An answer that lives in a sandbox."""

    def __init__(self, sandbox: Sandbox, cell: int, position: int):
        self._sandbox, self._place = sandbox, (cell, position)

    def value(self) -> Any:
        return self._ask(None)

    def call(self, *arguments: Any) -> Any:
        return self._ask(list(arguments))

    def _ask(self, arguments: list | None) -> Any:
        reply = self._sandbox.answer(*self._place, arguments)
        if "value" not in reply:
            raise answers.Wrong(str(reply.get("wrong", "没有答案"))[:500])
        return reply["value"]


def grade(
    folder: Path,
    *,
    seconds: float = 60,
    memory_gb: float = 2,
    workers: int = 1,
    save: Callable[[list[Grade]], object] = lambda grades: None,
) -> list[Grade]:
    """Grade all submissions of a folder: a notebook, or a folder of notebooks, for each student.

    seconds, memory_gb: limits of each notebook. workers: how many notebooks run at a time. save: called
    with the students who are graded so far, whenever one more is.
    Raises CourseError if there are none, for a limit that is too small, and where this machine
    cannot lock the notebooks in.
    """
    if seconds < 5 or memory_gb < 0.5 or workers < 1:
        raise CourseError(
            f"时间限制（{seconds:g} 秒）至少 5 秒，内存限制（{memory_gb:g} GB）至少 0.5 GB，"
            f"同时运行的份数（{workers}）至少 1。"
        )
    submissions = find_submissions(folder)
    grades = {student: Grade(student, problems=found.problems) for student, found in submissions.items()}
    tasks = [(student, notebook) for student, found in submissions.items() for notebook in found.notebooks]
    with Sandbox(None, seconds, memory_gb):
        pass  # it proves that this machine can do it
    left = Counter(student for student, _ in tasks)
    pool, cancelled = ThreadPoolExecutor(workers), threading.Event()

    def start(notebook: Path) -> Sandbox:
        return Sandbox(notebook, seconds, memory_gb, beside=notebook.parent != folder, cancelled=cancelled)

    try:
        of = {pool.submit(_grade_notebook, notebook, start): student for student, notebook in tasks}
        for future in tqdm(as_completed(of), total=len(of), disable=None):
            student = of[future]
            grades[student].add(future.result())
            left[student] -= 1
            if not left[student]:
                save([grade for grade in grades.values() if not left[grade.student]])
    finally:
        cancelled.set()  # by Ctrl-C, say
        pool.shutdown(cancel_futures=True)
    return list(grades.values())


@dataclass
class Submission:
    """The notebooks of a student, and what is wrong with how they were handed in."""

    notebooks: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def find_submissions(folder: Path) -> dict[str, Submission]:
    """Return what each student handed in. Raises CourseError if there is no notebook."""
    if not folder.is_dir():
        raise CourseError(f"没有文件夹 {folder}。里面应当是每人一个笔记本，或者每人一个文件夹。")
    found: dict[str, Submission] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        if entry.is_dir():
            _search(entry, found.setdefault(_student(entry.name), Submission()))
        elif _is_notebook(entry):
            found.setdefault(_student(entry.stem), Submission()).notebooks.append(entry)
    if not any(submission.notebooks for submission in found.values()):
        raise CourseError(f"{folder} 里没有笔记本（.ipynb）。应当是每人一个笔记本，或者每人一个文件夹。")
    return found


def _search(top: Path, into: Submission) -> None:
    """Find the notebooks of a student's folder, the outermost first, within what a submission may have."""
    waiting, seen = deque([(top, 1)]), 0
    while waiting:
        folder, depth = waiting.popleft()
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            into.problems.append(f"读不了文件夹 {folder.name}（{type(error).__name__}）")
            continue
        seen += len(entries)
        into.notebooks += filter(_is_notebook, entries)
        inner = [path for path in entries if path.is_dir() and not path.is_symlink()]
        if seen > MAX_ENTRIES or (inner and depth == MAX_DEPTH):
            into.problems.append(f"文件太多或太深，后面的没有看（最多 {MAX_ENTRIES} 个、{MAX_DEPTH} 层）")
            break
        waiting += [(path, depth + 1) for path in inner]
    if not into.notebooks:
        into.problems.append("文件夹里没有笔记本（.ipynb）")
    if len(into.notebooks) > MAX_NOTEBOOKS:
        into.problems.append(f"有 {len(into.notebooks)} 个笔记本，只判了前 {MAX_NOTEBOOKS} 个")
        del into.notebooks[MAX_NOTEBOOKS:]


def _student(name: str) -> str:
    """Return a file's name as a person wrote it: archives of Chinese Windows hold GBK."""
    raw = os.fsencode(name)
    try:
        return _printable(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return _printable(raw.decode("gb18030", errors="replace"))


def _printable(text: str) -> str:
    """Return a text without what a table cannot hold: control characters, halves of characters."""
    return "".join(char if char.isprintable() else "�" for char in text)


def _is_notebook(path: Path) -> bool:
    usual = path.is_file() and not path.is_symlink()  # no pipe that never ends
    return usual and path.suffix == ".ipynb" and ".ipynb_checkpoints" not in path.parts


def _grade_notebook(notebook: Path, start: Callable[[Path], Sandbox]) -> Grade:
    """Return what one notebook gets, whatever it does."""
    result, numbers = Grade(notebook.stem), []
    try:
        with start(notebook) as sandbox:
            numbers = [number for cell in sandbox.cells for number in cell]
            for cell, handed_in in enumerate(sandbox.cells):
                error = sandbox.run(cell)
                if error and not handed_in:
                    result.problems.append(f"{notebook.name}：有一格出错了：{error}")
                for position, number in enumerate(handed_in):
                    answer = _Submitted(sandbox, cell, position)
                    missing = [f"这一格出错了：{error}"] if error else exercises.hints(number, answer)
                    result.results[number] = missing
    except Exception as error:  # also one that our own judges did not think of
        stopped = str(error) if isinstance(error, Stopped | CourseError) else f"判不了：{error!r}"
        result.problems.append(f"{notebook.name}：{stopped}")
        for number in numbers:
            result.results.setdefault(number, [f"没有判完：{stopped}"])
    del result.problems[MAX_PROBLEMS:]
    return result


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
