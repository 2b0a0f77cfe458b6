"""Submissions with damage at any place: all that can be read is judged as before."""

import json
from random import Random

import nbformat
import pytest
from submissions import RIGHT, WRONG, notebook

from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import grading, handed_in, jail

lockable = pytest.mark.skipif(bool(jail.why_not()), reason=jail.why_not())
WHOLE = notebook(RIGHT, WRONG)
for place, cell in enumerate(WHOLE.cells):
    cell.id = f"cell-{place}"  # the same in every run
SECTION, ANSWERS = 2, {"02-2": 4, "02-1": 5}  # cells
VALUES = [None, 3, "x", [], {}, [[]], {"nbgrader": 1}, {"nbgrader": {"grade": True}}, 1e999]


def damage(number: int) -> bytes:
    """Return the notebook with a byte lost or changed, cut off, or with a part that is of another kind."""
    random, whole = Random(number), nbformat.writes(WHOLE).encode()
    place = random.randrange(len(whole))
    if number % 4 == 0:
        return whole[:place] + random.choice([b"", b"\0", b"\xff", b'"', b"{"]) + whole[place + 1 :]
    if number % 8 == 1:
        return whole[:place]
    read = json.loads(whole)
    part = random.choice([read, *read["cells"]])
    part[random.choice([*part, "metadata", "outputs", "attachments"])] = random.choice(VALUES)
    return json.dumps(read).encode()


def cells_of(damaged: bytes) -> list[tuple] | None:
    """Return what each cell hands in: kind, text, what nbgrader noted; None where one of them has none."""
    try:
        cells = json.loads(damaged.decode())["cells"]
    except (ValueError, LookupError):
        return None
    if not isinstance(cells, list):
        return None
    found = []
    for cell in cells:
        kind, text, about = (cell.get(name) for name in ("cell_type", "source", "metadata"))
        lines = text if isinstance(text, list) else [text]
        if "cell_type" not in cell or not all(isinstance(line, str) for line in lines):
            return None
        found.append((kind, "".join(lines), about.get("nbgrader") if isinstance(about, dict) else None))
    return found


def test_all_that_can_be_read_is_read(tmp_path):
    file, readable, refused = tmp_path / "1.ipynb", 0, 0
    for number in range(200):
        file.write_bytes(damaged := damage(number))
        expected = cells_of(damaged)
        try:
            found = [(cell.kind, cell.source) for cell in handed_in.read_cells(file)]
        except CourseError as error:
            refused += 1
            assert expected is None and str(error).startswith("读不了这个笔记本"), number
        else:
            readable += expected is not None
            assert expected is None or found == [cell[:2] for cell in expected], number
    assert readable > 120 and refused > 50


@lockable
@pytest.mark.slow
def test_they_keep_their_verdicts(tmp_path):
    (tmp_path / "whole.ipynb").write_text(nbformat.writes(WHOLE), encoding="utf-8")
    for number in range(200):
        (tmp_path / f"{number}.ipynb").write_bytes(damage(number))
    grades = {grade.student: grade for grade in grading.grade(tmp_path, workers=2)}
    whole, kept = grades.pop("whole"), 0
    assert whole.points == {"02-2": 1, "02-1": 0} and not whole.problems
    before = cells_of(nbformat.writes(WHOLE).encode())
    for number in range(200):
        grade, cells = grades.pop(str(number)), cells_of(damage(number))
        assert not any("判不了" in problem for problem in grade.problems), grade.problems
        assert grade.points.keys() <= ANSWERS.keys() and not grade.points.get("02-1"), number
        assert grade.results or grade.problems, "one that gets nothing is told why"
        for exercise, place in ANSWERS.items():
            if cells and cells[SECTION : place + 1] == before[SECTION : place + 1]:
                kept += 1
                assert grade.results[exercise] == whole.results[exercise], (number, grade)
    assert not grades and kept > 200
