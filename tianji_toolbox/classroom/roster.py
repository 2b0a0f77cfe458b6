"""The class list that a learning platform exports, and the same with the grades filled in, to import.

Canvas: the exported gradebook; Moodle: the assignment's grading worksheet; Chinese platforms: the list or
the template that they give, as .xlsx or CSV. All that is not a grade stays as it was, as imports look at it
(Moodle at the time of the last change, Canvas at the number behind a column's name).
"""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tianji_helpers import records
from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import gradebook

# what stands above the columns: what nobody shares, names, and what is filled in
_IDS = ("ID", "SIS User ID", "SIS Login ID", "Identifier", "ID number", "Username", "Email address", "Email")
_IDS += ("学号", "学号/工号", "学生学号", "用户名", "账号", "邮箱", "电子邮件地址", "编号", "标识符")
_NAMES = ("Student", "Full name", "姓名", "学生姓名", "学生", "全名")
_GRADES = ("Grade", "成绩", "分数", "得分", "总分")
_MOST = ("Maximum Grade", "满分", "最高成绩", "最高分")
_COMMENTS = ("Feedback comments", "评语", "批语", "反馈", "反馈评论")
_POSSIBLE = "Points Possible"  # a line of Canvas's, in the place of a student
_ABOVE = 10  # lines that may stand above the columns' names


@dataclass
class Roster:
    """A class list.

    rows: all of the file. header: the index of the columns' names. students: by submission, the index of
    the row.
    """

    file: Path
    rows: list[list[str]]
    header: int
    students: dict[str, int]

    @property
    def missing(self) -> list[str]:
        """Who handed in nothing."""
        found = set(self.students.values())
        return [_name(self, row) for row in _people(self) if row not in found]


def load(file: Path, submissions: list[str]) -> Roster:
    """Read a class list, and find who handed in what.

    A submission is a student's if its name, or a part of it between underscores (as platforms name what
    they collect), is one of the student's own: number, login, address, name. Raises CourseError for a file
    that is no class list, a student who stands there twice, and a submission that is nobody's, or may be of
    two, or of one who has another.
    """
    rows = _read(file)
    known = {*_IDS, *_NAMES}
    header = next((at for at, row in enumerate(rows[:_ABOVE]) if known.intersection(map(_plain, row))), None)
    if header is None:
        raise CourseError(
            f"{file} 的前 {_ABOVE} 行里没有列名，例如“学号”或“姓名”；Canvas 和 Moodle 导出的不用改。"
        )
    roster = Roster(file, rows, header, {})
    owners: dict[str, list[int]] = {}
    for row in _people(roster):
        for key in {*_keys(roster, row, _IDS), *_keys(roster, row, _NAMES)}:
            owners.setdefault(key, []).append(row)
        for key in _keys(roster, row, _IDS):
            if len(owners[key]) > 1:
                both = " 和 ".join(str(other + 1) for other in owners[key])
                raise CourseError(f"{file} 里 {key} 出现了两次（第 {both} 行）。一个学生只能有一行。")
    if not owners:
        raise CourseError(f"{file} 里一个学生也没有。")
    nobody = []
    for name in submissions:
        found = owners.get(name.casefold().strip())
        if found is None:
            parts = {part.casefold() for part in re.split(r"[_\s]+", name)} & owners.keys()
            found = sorted({row for part in parts for row in owners[part]})
        if len(found) > 1:
            who = "、".join(f"{_name(roster, row)}（第 {row + 1} 行）" for row in found)
            raise CourseError(f"{name} 可能是花名册里的 {who}。请用学号给它改名。")
        if not found:
            nobody.append(name)
            continue
        if found[0] in roster.students.values():
            other = next(one for one, row in roster.students.items() if row == found[0])
            raise CourseError(f"{other} 和 {name} 是花名册里的同一个人（第 {found[0] + 1} 行）。请只留一份。")
        roster.students[name] = found[0]
    if nobody:
        raise CourseError(
            f"花名册 {file} 里没有这些人：{'、'.join(nobody[:20])}{'……' if len(nobody) > 20 else ''}（一共 "
            f"{len(nobody)} 个）。请用学号或者花名册里的名字给文件改名。"
        )
    return roster


def write(roster: Roster, book: gradebook.Book, grades: list, title: str, folder: Path) -> Path:
    """Write the class list with the grades filled in, and return the file.

    title: of the column, where the file has none for grades (Canvas's ``title (number)`` is found, too).
    Where the file says how many points there are, the grades are scaled to that.
    """
    rows = [list(row) for row in roster.rows]
    names = [_plain(name) for name in rows[roster.header]]
    own = re.compile(rf"{re.escape(title)}( \(\d+\))?")
    column = next((at for at, name in enumerate(names) if own.fullmatch(name)), None)
    column = _column(names, _GRADES) if column is None else column
    items = book.items(grades)
    most, changed = book.most(items), {}
    if column is None:
        column = max(len(row) for row in rows)
        changed[roster.header, column] = title
    limit, comments = _column(names, _MOST), _column(names, _COMMENTS)
    possible = None
    for at, row in enumerate(rows):
        if at > roster.header and row and _POSSIBLE in row[0]:
            possible = _number(_cell(row, column))
            if possible is None:
                changed[at, column] = most
    for grade in grades:
        at = roster.students[grade.student]
        of = possible or (_number(_cell(rows[at], limit)) if limit is not None else None) or most
        changed[at, column] = round(book.total(grade, items) * of / most, 2) if most else 0
        if comments is not None:
            changed[at, comments] = gradebook.no_formula(gradebook.summary(grade, items, book))
    target = folder / f"{roster.file.stem}-grades{roster.file.suffix}"
    if roster.file.suffix.lower() == ".xlsx":
        return _write_workbook(roster.file, changed, target)
    for (at, place), value in changed.items():
        rows[at] += [""] * (place + 1 - len(rows[at]))
        rows[at][place] = f"{value:g}" if isinstance(value, int | float) else value
    return gradebook.write_rows(target, rows)


def _read(file: Path) -> list[list[str]]:
    if file.suffix.lower() != ".xlsx":
        return gradebook.read_table(file)
    sheet = _workbook(file).active
    return [["" if cell is None else str(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]


def _workbook(file: Path) -> Any:
    import openpyxl

    try:
        return openpyxl.load_workbook(file)
    except Exception as error:  # whatever is in the file
        raise CourseError(f"读不了 {file}（{type(error).__name__}）。请另存为 .xlsx 或 CSV。") from error


def _write_workbook(file: Path, changed: dict[tuple[int, int], Any], target: Path) -> Path:
    book, buffer = _workbook(file), io.BytesIO()
    for (row, column), value in changed.items():
        book.active.cell(row + 1, column + 1, value)
    book.save(buffer)
    with records.atomic_writer(target, binary=True) as out:
        out.write(buffer.getvalue())
    return target


def _people(roster: Roster) -> list[int]:
    """Return the indexes of the rows that are a student's."""
    rows = range(roster.header + 1, len(roster.rows))
    possible = [row for row in rows if not any(_POSSIBLE in cell for cell in roster.rows[row][:1])]
    return [row for row in possible if _keys(roster, row, (*_IDS, *_NAMES))]


def _keys(roster: Roster, row: int, columns: tuple[str, ...]) -> set[str]:
    """Return what a row has in some columns; of Moodle's ``Participant 123`` also the number."""
    found = set()
    for name, cell in zip(roster.rows[roster.header], roster.rows[row], strict=False):
        if _plain(name) in columns and cell.strip():
            found.add(cell.strip().casefold())
            if number := re.fullmatch(r"\D+ ?(\d+)", cell.strip()):
                found.add(number[1])
    return found


def _name(roster: Roster, row: int) -> str:
    column = _column([_plain(name) for name in roster.rows[roster.header]], (*_NAMES, *_IDS))
    return _cell(roster.rows[row], column)


def _plain(name: str) -> str:
    return name.strip().strip("*").strip()  # templates mark what must be filled in


def _column(names: list[str], wanted: tuple[str, ...]) -> int | None:
    return next((names.index(name) for name in wanted if name in names), None)


def _cell(row: list[str], column: int | None) -> str:
    return row[column] if column is not None and column < len(row) else ""


def _number(text: str) -> float | None:
    try:
        return float(text) if 0 < float(text) < 1e6 else None
    except ValueError:
        return None
