"""``tianji grade``: grade a folder of submitted notebooks; ``gradebook`` writes what came of it.

Of the lessons only what stands under the heading 练习 is run, up to the next heading of that level, so a
submission takes seconds and needs neither a model nor the lesson's outputs; exercises therefore import what
they use. Each notebook is read and run in a ``Sandbox`` of its own, and its answers are judged out here, by
the same checks that the student has: code of a student can fail, but cannot hand out a grade. It can learn
from the checks, which are open, what they expect; reading the notebooks is what finds that out. The tests
of an assignment (``assignment``) are not open, and all cells of it are run. Whatever a notebook does is its
own result; the others get theirs.
"""

import math
import os
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from tqdm import tqdm

from tianji_helpers import exercises
from tianji_helpers.errors import CourseError
from tianji_helpers.exercises import answers
from tianji_toolbox.classroom import assignment as assignments
from tianji_toolbox.classroom.sandbox import Sandbox, Stopped

# of a student: there are six lessons; a folder of more is no submission
MAX_NOTEBOOKS, MAX_ENTRIES, MAX_DEPTH = 12, 10_000, 8
MAX_PROBLEMS = 20  # of a notebook, that are told


@dataclass
class Grade:
    """What one student handed in.

    results: for each exercise or question, what is missing. points: what it is worth. problems: what kept a
    notebook back. doubts: what only the teacher is told. answers: the texts of what a person grades.
    late: days that have begun after the deadline.
    """

    student: str
    results: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    points: dict[str, float] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    late: int = 0

    def __post_init__(self) -> None:
        self.points = {number: float(not missing) for number, missing in self.results.items()} | self.points

    @property
    def passed(self) -> int:
        """How many exercises are right."""
        return sum(not missing for missing in self.results.values())

    def add(self, other: "Grade") -> None:
        """Add what another notebook of the student got; of two answers the better one counts."""
        self.problems += map(_printable, other.problems)
        self.answers |= other.answers
        for number, missing in other.results.items():
            self.put(number, [_printable(hint) for hint in missing], other.points[number])

    def put(self, number: str, missing: list[str], points: float) -> None:
        """Note what one exercise got, unless it got more before."""
        if points > self.points.get(number, -1):
            self.results[number], self.points[number] = missing, points


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
    before: Callable[[list[str]], object] = lambda students: None,
    save: Callable[[list[Grade]], object] = lambda grades: None,
    assignment: assignments.Assignment | None = None,
    deadline: datetime | None = None,
) -> list[Grade]:
    """Grade all submissions of a folder: a notebook, or a folder of notebooks, for each student.

    assignment: what was handed in; the lessons' exercises if None. deadline: after it a submission is late.
    seconds, memory_gb: limits of each notebook. workers: how many notebooks run at a time. before: called
    with all students before anything runs. save: called with the students who are graded so far, whenever
    one more is. Raises CourseError if there are none, for a limit that is too small, and where this machine
    cannot lock the notebooks in.
    """
    if seconds < 5 or memory_gb < 0.5 or workers < 1:
        raise CourseError(
            f"时间限制（{seconds:g} 秒）至少 5 秒，内存限制（{memory_gb:g} GB）至少 0.5 GB，"
            f"同时运行的份数（{workers}）至少 1。"
        )
    submissions = find_submissions(folder)
    before(list(submissions))
    grades = {
        student: Grade(
            student,
            problems=found.problems,
            doubts=found.doubts(deadline),
            late=found.days_after(deadline),
        )
        for student, found in submissions.items()
    }
    tasks = [(student, notebook) for student, found in submissions.items() for notebook in found.notebooks]
    with Sandbox(None, seconds, memory_gb):
        pass  # it proves that this machine can do it
    left = Counter(student for student, _ in tasks)
    pool, cancelled = ThreadPoolExecutor(workers), threading.Event()

    def start(notebook: Path) -> Sandbox:
        limits = {"seconds": seconds, "memory_gb": memory_gb, "cancelled": cancelled}
        return Sandbox(notebook, beside=notebook.parent != folder, whole=assignment is not None, **limits)

    try:
        of = {
            pool.submit(_grade_notebook, notebook, start, assignment): student for student, notebook in tasks
        }
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


def grade_one(notebook: Path, assignment: assignments.Assignment, seconds: float = 60) -> Grade:
    """Return what one notebook gets: the instructor tries an assignment. Raises CourseError as ``grade``."""
    with Sandbox(None, seconds, 2):
        pass
    return _grade_notebook(notebook, lambda file: Sandbox(file, seconds, 2, whole=True), assignment)


@dataclass
class Submission:
    """The notebooks of a student, and what is wrong with how they were handed in."""

    notebooks: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def days_after(self, deadline: datetime | None) -> int:
        """Return how many days after the deadline have begun when the last of it was handed in."""
        if deadline is None or not self.notebooks:
            return 0
        late = (max(map(_handed_in_at, self.notebooks)) - deadline).total_seconds()
        return max(0, math.ceil(late / 86400))

    def doubts(self, deadline: datetime | None) -> list[str]:
        """Return what speaks against a stamp that says in time: whoever hands in a folder can write one."""
        if deadline is None:
            return []
        stamps = [(_changed_at(notebook), _handed_in_at(notebook), notebook) for notebook in self.notebooks]
        if not (odd := [one for one in stamps if one[1] <= deadline < one[0]]):
            return []
        changed, stamp, notebook = max(odd)
        changed = changed.astimezone(stamp.tzinfo)
        return [
            f"{_student(notebook.name)}：timestamp.txt 说是 {stamp:%Y-%m-%d %H:%M} 交的，文件却在 "
            f"{changed:%Y-%m-%d %H:%M}（{stamp.tzinfo}）改过，晚于截止时间；迟交按前一个时间算，请核对"
        ]


def _handed_in_at(notebook: Path) -> datetime:
    """Return the time that nbgrader's exchange wrote beside a notebook, else when the file was changed."""
    stamp = notebook.parent / "timestamp.txt"
    try:
        if stamp.is_file() and not stamp.is_symlink() and stamp.stat().st_size < 100:
            day, clock, *zone = stamp.read_text(encoding="utf-8").split()
            return datetime.fromisoformat(f"{day} {clock[:8]}").replace(
                tzinfo=ZoneInfo(zone[0] if zone else "UTC")
            )
    except (OSError, ValueError, LookupError):
        pass
    return _changed_at(notebook)


def _changed_at(notebook: Path) -> datetime:
    far = 2**34  # seconds; a file may say a year that datetime does not know
    return datetime.fromtimestamp(min(max(notebook.stat().st_mtime, -far), far), timezone.utc)


def find_submissions(folder: Path) -> dict[str, Submission]:
    """Return what each student handed in. Raises CourseError if there is no notebook."""
    if not folder.is_dir():
        raise CourseError(f"没有文件夹 {folder}。里面应当是每人一个笔记本，或者每人一个文件夹。")
    found: dict[str, Submission] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        if not (entry.is_dir() or _is_notebook(entry)):
            continue
        student = _student(entry.name if entry.is_dir() else entry.stem)
        if student in found:
            found[student].problems.append(f"还有一份 {_student(entry.name)} 也写着这个名字，算在了一起")
        submission = found.setdefault(student, Submission())
        if entry.is_dir():
            _search(entry, submission)
        else:
            submission.notebooks.append(entry)
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


def _grade_notebook(
    notebook: Path, start: Callable[[Path], Sandbox], assignment: assignments.Assignment | None
) -> Grade:
    """Return what one notebook gets, whatever it does."""
    result, numbers = Grade(notebook.stem), []
    try:
        with start(notebook) as sandbox:
            if assignment:
                numbers = list(assignment.tests)
                _grade_assignment(sandbox, result, notebook, assignment)
            else:
                numbers = [number for cell in sandbox.cells for number in cell]
                _grade_exercises(sandbox, result, notebook)
    except Exception as error:  # also one that our own judges did not think of
        stopped = str(error) if isinstance(error, Stopped | CourseError) else f"判不了：{error!r}"
        result.problems.append(f"{notebook.name}：{stopped}")
        for number in numbers:
            result.put(number, [f"没有判完：{stopped}"], 0)
    del result.problems[MAX_PROBLEMS:]
    return result


def _grade_exercises(sandbox: Sandbox, result: Grade, notebook: Path) -> None:
    for cell, handed_in in enumerate(sandbox.cells):
        error = sandbox.run(cell)
        if error and not handed_in:
            result.problems.append(f"{notebook.name}：有一格出错了：{error}")
        for position, number in enumerate(handed_in):
            answer = _Submitted(sandbox, cell, position)
            missing = [f"这一格出错了：{error}"] if error else exercises.hints(number, answer)
            result.results[number], result.points[number] = missing, float(not missing)


def _grade_assignment(
    sandbox: Sandbox, result: Grade, notebook: Path, assignment: assignments.Assignment
) -> None:
    """Run all cells, and in the place of a test's cell the source's test; at the end those that are gone."""
    by_hand = assignment.questions.keys() - assignment.tests.keys()
    result.answers = {name: str(text) for name, text in sandbox.texts.items() if name in by_hand}
    tests = dict(assignment.tests)
    for cell, names in enumerate(sandbox.cells):
        found = [name for name in names if name in assignment.tests]
        error = "" if found else sandbox.run(cell)
        if error:  # what was asked in a hidden test could be in it
            shown = f"：{error}" if tests == assignment.tests else "（在测试之后，不显示原因）"
            result.problems.append(f"{notebook.name}：有一格出错了{shown}")
        for name in found:
            points, missing = assignments.judge(assignment.tests[name], assignment.imports, sandbox)
            result.put(name, missing, points)
            tests.pop(name, None)
    for name, test in tests.items():
        points, missing = assignments.judge(test, assignment.imports, sandbox)
        result.put(name, missing, points)
