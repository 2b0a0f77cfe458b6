"""What came of grading: a table, a page for the class, one for each student, and what a person adds.

The instructor grades and comments by hand in ``comments.csv``: ``tianji grade`` writes a line there for each
answer that only a person can grade, and counts what was filled in the next time it runs.
"""

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tianji_helpers import exercises, records
from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom.assignment import Assignment
from tianji_toolbox.classroom.grading import Grade
from tianji_toolbox.pages import render

TABLE, PAGE, FEEDBACK, COMMENTS = "grades.csv", "grades.html", "feedback", "comments.csv"
LATE = "迟交"  # in comments.csv it stands for a question: how many days are counted
_COLUMNS = ("学生", "题目", "得分", "评语", "答案")


class Item(NamedTuple):
    """A column of the table."""

    number: str
    title: str
    points: float


@dataclass
class Book:
    """How grades are counted.

    assignment: None for the lessons' exercises, a point each. per_day: the share of the points that a day
    costs which has begun after the deadline. by_hand: what a person wrote, by student and question.
    """

    assignment: Assignment | None = None
    deadline: datetime | None = None
    per_day: float = 0.0
    by_hand: dict[tuple[str, str], tuple[float | None, str]] = field(default_factory=dict)

    @property
    def counts_points(self) -> bool:
        """Whether there are points, or only exercises that passed."""
        return bool(self.assignment or self.deadline or self.by_hand)

    def items(self, grades: Iterable[Grade]) -> list[Item]:
        """Return the columns: all questions, or the exercises of all the lessons that anybody handed in."""
        if self.assignment:
            return [Item(one.number, "", one.points) for one in self.assignment.questions.values()]
        lessons = {number[:2] for grade in grades for number in grade.results}
        known = sorted(exercises.EXERCISES.items())
        return [Item(number, one.title, 1) for number, one in known if number[:2] in lessons]

    def points(self, grade: Grade, number: str) -> float | None:
        """Return the points of one question: a person's word counts; None if nobody graded it."""
        given = self.by_hand.get((grade.student, number), (None, ""))[0]
        return grade.points.get(number) if given is None else given

    def comment(self, grade: Grade, number: str) -> str:
        """Return what a person wrote about an answer."""
        return self.by_hand.get((grade.student, number), (None, ""))[1]

    def days_late(self, grade: Grade) -> int:
        """Return the days that count as late: a person may have forgiven some."""
        given = self.by_hand.get((grade.student, LATE), (None, ""))[0]
        return grade.late if given is None else int(given)

    def total(self, grade: Grade, items: list[Item]) -> float:
        """Return a student's points, less what being late costs."""
        points = sum(self.points(grade, item.number) or 0 for item in items)
        return round(points * max(0.0, 1 - self.per_day * self.days_late(grade)), 2)

    def most(self, items: list[Item]) -> float:
        """Return the points of one who has all."""
        return sum(item.points for item in items)

    def read_comments(self, folder: Path, students: Iterable[str]) -> None:
        """Read what a person filled in; notes of their own, beyond our columns, are kept in a copy later.

        Raises CourseError for a student or a question that is not there or stands twice, and for points that
        are no number between 0 and the question's.
        """
        file, known = folder / COMMENTS, {student.strip(): student for student in students}
        if not file.exists():
            return
        most = {item.number: item.points for item in self.items([])}
        if not self.assignment:
            most = dict.fromkeys(exercises.EXERCISES, 1.0)
        most[LATE] = 1000.0
        rows = read_table(file)
        if tuple(rows[0][:4]) != _COLUMNS[:4]:
            raise CourseError(
                f"{file} 的第一行应当是 {'、'.join(_COLUMNS)}，现在是 {'、'.join(rows[0])[:80]}。"
            )
        for line, row in enumerate(rows[1:], 2):
            student, number, written, comment, *_ = [cell.strip() for cell in row] + [""] * 4
            student, where = _as_given(student), f"{file} 第 {line} 行"
            if not any(row):
                continue
            if student not in known:
                raise CourseError(
                    f"{where}：没有 {student!r} 交来的东西。请改成成绩表里的名字，或者删掉这一行。"
                )
            if number not in most:
                raise CourseError(f"{where}：没有题目 {number!r}，有的是 {'、'.join(most)}。")
            student = known[student]
            if (student, number) in self.by_hand:
                raise CourseError(f"{where}：{student} 的 {number} 写了两次，请只留一行。")
            points = None
            if written:
                try:
                    points = float(written)
                except ValueError:
                    points = -1.0
                if not 0 <= points <= most[number]:
                    raise CourseError(f"{where}：得分 {written!r} 应当是 0 到 {most[number]:g} 之间的数。")
            self.by_hand[student, number] = points, _as_given(comment)
        if not any(cell.strip() for row in rows for cell in row[len(_COLUMNS) :]):
            records.note(file, folder)  # all of it is written again; what is filled in from now on is kept

    def write_comments(self, grades: list[Grade], folder: Path) -> Path | None:
        """Write the lines that a person is to fill in; what was filled in stays. None if there is nothing."""
        answers = {
            (grade.student, number): text for grade in grades for number, text in grade.answers.items()
        }
        keys = list(dict.fromkeys([*answers, *self.by_hand]))
        if not keys:
            return None
        rows = []
        for student, number in keys:
            points, comment = self.by_hand.get((student, number), (None, ""))
            shown = "" if points is None else f"{points:g}"
            rows.append([student, number, shown, comment, answers.get((student, number), "")])
        return write_rows(folder, COMMENTS, _safe([_COLUMNS, *rows]))


def read_table(file: Path) -> list[list[str]]:
    """Return the rows of a table of values between commas, semicolons or tabs; in UTF-8, or as Excel saves
    it.

    Raises CourseError if it cannot be read or is empty.
    """
    try:
        raw = file.read_bytes()
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:  # Excel's CSV on a Chinese Windows
            text = raw.decode("gb18030")
        first = text.partition("\n")[0]
        rows = list(csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count), strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise CourseError(f"读不了表格 {file}：{error}。请另存为“CSV UTF-8（逗号分隔）”。") from error
    if not rows:
        raise CourseError(f"表格 {file} 是空的。")
    return rows


def write_rows(folder: Path, name: str, rows: Iterable[Iterable], mark: bool = True) -> Path:
    """Write rows as CSV with a byte order mark, which Excel needs (and ``mark=False`` leaves out)."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return write_text(folder, name, "\ufeff" * mark + text.getvalue())


def _safe(rows: Iterable[Iterable[str]]) -> list[list[str]]:
    return [list(map(no_formula, row)) for row in rows]


def no_formula(text: str) -> str:
    """Return a text that a spreadsheet does not compute."""
    risky = text[:1] in ("\t", "\r", "\n") or text.lstrip().startswith(("=", "+", "-", "@"))
    return "'" + text if risky else text


def _as_given(text: str) -> str:
    return text[1:] if text.startswith("'") and no_formula(text[1:]) == text else text


def write(grades: list[Grade], folder: Path, book: Book | None = None, whole: bool = True) -> list[Path]:
    """Write the table and the class's page, and each student's page and the comments; return the files.

    whole: False leaves the latter out, as long as others are being graded.
    """
    book = book or Book()
    items = book.items(grades)
    pages = {grade.student: f"{FEEDBACK}/{_file_name(grade.student)}.html" for grade in grades}
    shared = {"book": book, "items": items, "late": LATE}
    page = render("classroom/grades.html", grades=grades, pages=pages, **shared)
    files = [
        write_rows(folder, TABLE, _safe(_table(grades, items, book))),
        write_text(folder, PAGE, page),
    ]
    for grade in grades if whole else ():
        write_text(folder, pages[grade.student], render("classroom/feedback.html", grade=grade, **shared))
    comments = book.write_comments(grades, folder) if whole else None
    return [*files, comments] if comments else files


def summary(grade: Grade, items: list[Item], book: Book) -> str:
    """Return a student's result in one line, for a platform's column of comments."""
    parts = []
    for item in items:
        points = book.points(grade, item.number)
        said = [*grade.results.get(item.number, []), book.comment(grade, item.number)]
        shown = "–" if points is None else f"{points:g}"
        parts.append(f"{item.number}：{shown}/{item.points:g} {' '.join(filter(None, said))}".strip())
    if book.days_late(grade):
        parts.append(f"{LATE} {book.days_late(grade)} 天")
    return "；".join([*parts, *grade.problems])


def _table(grades: list[Grade], items: list[Item], book: Book) -> list[list[str]]:
    names = ("得分", "满分") if book.counts_points else ("通过", "共")
    rows = [["学生", *names, *(item.number for item in items), *([LATE] if book.deadline else []), "备注"]]
    for grade in grades:
        marks = [book.points(grade, item.number) for item in items]
        shown = ["" if mark is None else f"{mark:g}" for mark in marks]
        late = [str(book.days_late(grade))] if book.deadline else []
        total = [f"{book.total(grade, items):g}", f"{book.most(items):g}"]
        rows.append([grade.student, *total, *shown, *late, "；".join([*grade.doubts, *grade.problems])])
    return rows


def write_text(folder: Path, name: str, text: str) -> Path:
    """Write a text, with ``?`` for half characters; what a person wrote or changed under the name is kept.

    name: below the folder.
    """
    file = folder / name
    with records.make_way(file, folder), records.atomic_writer(file) as target:
        target.write(text.encode(errors="replace").decode())
    return file


def _file_name(student: str) -> str:
    """Return a student's name as that of a file: GBK's names get longer in UTF-8."""
    short = student.encode()[:200].decode(errors="ignore")
    return short if short == student else f"{short}-{hashlib.sha256(student.encode()).hexdigest()[:8]}"
