"""The class list that a learning platform exports, and the same with the grades filled in, to import.

Canvas: the exported gradebook; Moodle: the assignment's grading worksheet; Chinese platforms: the list or
the template that they give, as .xlsx or CSV. All that is not a grade stays as it was, as imports look at it
(Moodle at the time of the last change, Canvas at the number behind a column's name), but for what their own
importers would misread. Their rules, as their code has them: Canvas in lib/gradebook_importer.rb (00b222d7);
Moodle in feedback/offline/importgradeslib.php (806e2d49) and locallib.php (0bd8f1fd; 04975560 is older) of
mod/assign, and in lib/csvlib.class.php (0963d225).
"""

import html
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tianji_helpers import records
from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import gradebook

# what stands above the columns: what nobody shares, names, and what is filled in
_IDS = ("ID", "SIS User ID", "SIS Login ID", "ID number", "Username", "Email address", "Email")
_IDS += ("学号", "学号/工号", "学生学号", "用户名", "账号", "邮箱", "电子邮件地址", "编号")
_PARTICIPANTS = ("Identifier", "标识符", "识别码")  # Moodle: Participant 77, 参与人77
_IDS += _PARTICIPANTS
_NAME_PARTS = ("LastName", "FirstName")  # Canvas's, if one asks for it
_NAMES = ("Student", "Full name", "姓名", "学生姓名", "学生", "全名")
_GRADES = ("Grade", "成绩", "分数", "得分", "总分")
_MOST = ("Maximum grade", "Maximum Grade", "满分", "最高成绩", "最高分")
_COMMENTS = ("Feedback comments", "评语反馈", "评语", "批语", "反馈", "反馈评论")
_CHANGED = ("Last modified (grade)", "上次修改（评分）", "最后修改（教师）")  # no other list has it
_POSSIBLE = "Points Possible"  # a line of Canvas's, in the place of a student
_ABOVE = 10  # lines that may stand above the columns' names


@dataclass
class Roster:
    """A class list.

    rows: all of the file. names: of the columns, which stand in the row ``header``. students: by
    submission, the index of the row. missing: who handed in nothing.
    """

    file: Path
    rows: list[list[str]]
    names: list[str]
    header: int
    students: dict[str, int]
    missing: list[str]

    def column(self, wanted: tuple[str, ...]) -> int | None:
        """Return the index of the first column that has one of these names."""
        return next((self.names.index(name) for name in wanted if name in self.names), None)


def load(file: Path, submissions: list[str]) -> Roster:
    """Read a class list, and find who handed in what.

    A submission is a student's if its name, or a part of it between underscores (as platforms name what they
    collect), is one of the student's own: number, login, address, name.
    Raises CourseError for a file that is no class list, a student who stands there twice, and a submission
    that is nobody's, or may be of two, or of one who has another.
    """
    rows = _read(file)
    known, names, header = {*_IDS, *_NAMES}, [], 0
    for row in rows[:_ABOVE]:
        names = [name.strip().strip("*").strip() for name in row]  # templates mark what must be filled in
        if known.intersection(names):
            break
        header += 1
    else:
        raise CourseError(
            f"{file} 的前 {_ABOVE} 行里没有列名，例如“学号”或“姓名”；Canvas 和 Moodle 导出的不用改。"
        )
    # a number behind "Participant" is the name that Moodle gives to files
    numbered = _PARTICIPANTS + (("ID", "编号") if {*_CHANGED}.intersection(names) else ())
    owners: dict[str, list[int]] = {}
    people: dict[int, str] = {}
    seen: dict[str, int] = {}
    for at, row in enumerate(rows[header + 1 :], header + 1):
        cells = [(name, cell.strip()) for name, cell in zip(names, row, strict=False) if cell.strip()]
        own = [(name, cell) for name, cell in cells if name in known]
        if not own or _POSSIBLE in row[0]:
            continue
        called = [cell for name, cell in own if name in _NAMES]
        given = dict(cells)
        if given.keys() >= {*_NAME_PARTS}:
            last, first = (given[part] for part in _NAME_PARTS)
            called += [f"{last}, {first}", f"{last}{first}", f"{first} {last}"]
        people[at] = (called or [own[0][1]])[0]
        ids = {cell.casefold() for name, cell in own if name in _IDS}
        for key in sorted(ids):
            if (other := seen.setdefault(key, at)) != at:
                raise CourseError(
                    f"{file} 里 {key} 出现了两次（第 {other + 1} 和 {at + 1} 行）。一个学生只能有一行。"
                )
        numbers = (re.fullmatch(r"\D+(\d+)", cell) for name, cell in own if name in numbered)
        for key in ids | {found[1] for found in numbers if found} | {name.casefold() for name in called}:
            owners.setdefault(key, []).append(at)
    if not people:
        raise CourseError(f"{file} 里一个学生也没有。")
    students: dict[str, int] = {}
    nobody = []
    for name in submissions:
        parts = {part.casefold() for part in re.split(r"[_\s]+", name)} & owners.keys()
        found = owners.get(name.casefold().strip()) or sorted({at for part in parts for at in owners[part]})
        if len(found) > 1:
            who = "、".join(f"{people[at]}（第 {at + 1} 行）" for at in found)
            raise CourseError(f"{name} 可能是花名册里的 {who}。请用学号给它改名。")
        if found and found[0] in students.values():
            other = next(one for one, at in students.items() if at == found[0])
            raise CourseError(f"{other} 和 {name} 是花名册里的同一个人（第 {found[0] + 1} 行）。请只留一份。")
        if found:
            students[name] = found[0]
        else:
            nobody.append(name)
    if nobody:
        some = "、".join(nobody[:20])
        raise CourseError(
            f"花名册 {file} 里没有这些人：{some}（一共 {len(nobody)} 个）。请用学号或者花名册里的"
            "名字给文件改名。"
        )
    missing = [name for at, name in people.items() if at not in students.values()]
    return Roster(file, rows, names, header, students, missing)


def write(roster: Roster, book: gradebook.Book, grades: list, title: str, folder: Path) -> Path:
    """Write the class list with the grades filled in, and return the file.

    title: of the column, where the file has none for grades (Canvas's ``title (number)`` is found, too).
    Where the file says how many points there are, the grades are scaled to that. The points of an assignment
    that is there are Canvas's own and stay: an import would take ours over.
    """
    rows, items = [list(row) for row in roster.rows], book.items(grades)
    own = re.compile(rf"{re.escape(title)}( \(\d+\))?")
    column = next((at for at, name in enumerate(roster.names) if own.fullmatch(name)), roster.column(_GRADES))
    limit, comments = roster.column(_MOST), roster.column(_COMMENTS)
    most, possible, changed = book.most(items), None, {}
    canvas = any(_POSSIBLE in cell for row in rows for cell in row[:1])
    moodle, added = roster.column(_CHANGED) is not None, column is None
    if added:
        column = max(map(len, rows))
        changed[roster.header, column] = title
    for at, row in enumerate(rows):
        if any(_POSSIBLE in cell for cell in row[:1]):
            possible = _number(row, column)
            if added:
                changed[at, column] = most
    for grade in grades:
        at = roster.students[grade.student]
        of = possible or _number(rows[at], limit) or most
        changed[at, column] = round(book.total(grade, items) * of / most, 2) if most else 0
        if comments is not None:
            said = gradebook.no_formula(gradebook.summary(grade, items, book))
            if moodle:  # keeps it as HTML
                said = html.escape(said, quote=False).replace("\n", "<br>")
            changed[at, comments] = said
    if moodle:
        dates = roster.column(_CHANGED)
        for at, row in enumerate(rows):
            for place, cell in enumerate(row):
                now = changed.get((at, place), cell)
                if isinstance(now, str) and (read := _readable(now, place == dates)) != cell:
                    changed[at, place] = read
    target = folder / f"{roster.file.stem}-grades{roster.file.suffix}"
    if roster.file.suffix.lower() == ".xlsx":
        return _write_workbook(roster.file, changed, target)
    for (at, place), value in changed.items():
        rows[at] += [""] * (place + 1 - len(rows[at]))
        rows[at][place] = f"{value:g}" if isinstance(value, int | float) else value
    # Moodle refuses rows of unequal length, and Canvas takes the first three for semicolons'
    if moodle or canvas:
        width = max(map(len, rows))
        rows = [row + [""] * (width - len(row)) if row else row for row in rows]
    # Canvas counts the mark to the first name, and only LastName must be just that
    return gradebook.write_rows(folder, target.name, rows, mark=roster.names[:1] != ["LastName"])


def _readable(cell: str, dated: bool) -> str:
    """Return a cell of Moodle's worksheet as its importer can read it. dated: it holds a time.

    It takes a backslash before a quotation mark, or at the end of a cell, to hide the mark that ends the
    cell: rows run together, and are dropped. And it reads no Chinese date: whoever had a grade kept that.
    """
    if dated:
        day = r"(\d{4})年(\d{1,2})月(\d{1,2})日\s*(?:星期.|周.)?\s*(\d{1,2}:\d{2})"
        cell = re.sub(rf"^\s*{day}\s*$", r"\1-\2-\3 \4", cell)
    return re.sub(r'\\(?="|\Z)', "&#92;", cell)


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
    book = _workbook(file)
    for (row, column), value in changed.items():
        book.active.cell(row + 1, column + 1, value)
    with records.make_way(target, target.parent), records.atomic_writer(target, binary=True) as out:
        book.save(out)
    return target


def _number(row: list[str], column: int | None) -> float | None:
    """Return the number of points in a cell, if it is one; a comma may stand before the decimals."""
    try:
        value = float(re.sub(r",(\d\d?)$", r".\1", row[column].strip())) if column is not None else 0.0
    except (ValueError, IndexError):
        return None
    return value if 0 < value < 1e6 else None
