"""Submissions with damage at any place: what it did not reach keeps its verdict."""

import json
from random import Random

import nbformat
import pytest
from submissions import RIGHT, WRONG, notebook

from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import grading, handed_in, jail

lockable = pytest.mark.skipif(bool(jail.why_not()), reason=jail.why_not())
WHOLE = notebook(RIGHT, WRONG)
PLACES = {"02-2": 4, "02-1": 5}  # cells with an answer
VALUES = [None, 3, "x", [], {}, [[]], {"nbgrader": 1}, {"nbgrader": {"grade": True}}, 1e999]


def damage(number: int) -> bytes:
    """Return the notebook with a byte lost or changed, a part of another kind, or an end that is cut off."""
    random, whole = Random(number), nbformat.writes(WHOLE).encode()
    place = random.randrange(len(whole))
    if number % 4 == 0:
        return whole[:place] + random.choice([b"", b"\0", b"\xff", b'"', b"{"]) + whole[place + 1 :]
    if number % 4 == 1 and number % 8 == 1:
        return whole[:place]
    read = json.loads(whole)
    part = random.choice([read, *read["cells"]])
    part[random.choice([*part, "metadata", "outputs", "attachments"])] = random.choice(VALUES)
    return json.dumps(read).encode()


def told(cell: dict) -> tuple:
    """What a cell hands in."""
    return cell["cell_type"], "".join(cell["source"]), handed_in.nbgrader(cell)


def unharmed(damaged: bytes) -> int:
    """Return how many cells, from the first, hand in what they did."""
    for number, (cell, before) in enumerate(zip(json.loads(damaged)["cells"], WHOLE.cells, strict=False)):
        if told(cell) != told(before):
            return number
    return len(WHOLE.cells)


def is_notebook(damaged: bytes) -> bool:
    """Whether Jupyter's own reader takes it."""
    try:
        nbformat.validate(nbformat.reads(damaged.decode(), as_version=4))
    except Exception:
        return False
    return True


def test_two_hundred_are_read_or_refused_as_jupyter_does(tmp_path):
    file, refused = tmp_path / "1.ipynb", 0
    for damaged in map(damage, range(200)):
        file.write_bytes(damaged)
        try:
            assert all(cell.question is not None for cell in handed_in.read_cells(file))
        except CourseError as error:
            refused += 1
            assert str(error).startswith("读不了这个笔记本") and not is_notebook(damaged), damaged
    assert 50 < refused < 150


@lockable
@pytest.mark.slow
def test_they_keep_their_verdicts(tmp_path):
    (tmp_path / "whole.ipynb").write_text(nbformat.writes(WHOLE), encoding="utf-8")
    for number in range(200):
        (tmp_path / f"{number}.ipynb").write_bytes(damage(number))
    grades = {grade.student: grade for grade in grading.grade(tmp_path, workers=2)}
    whole, kept = grades.pop("whole"), 0
    assert whole.points == {"02-2": 1, "02-1": 0} and not whole.problems
    for number, grade in grades.items():
        damaged = (tmp_path / f"{number}.ipynb").read_bytes()
        if any("读不了" in problem for problem in grade.problems):
            assert not grade.results and not is_notebook(damaged), number
            continue
        assert not any("判不了" in problem for problem in grade.problems), grade.problems
        assert grade.points.keys() <= PLACES.keys() and not grade.points.get("02-1"), number
        for exercise, place in PLACES.items():
            if place < unharmed(damaged):
                kept += 1
                assert grade.results[exercise] == whole.results[exercise], (number, grade)
    assert len(grades) == 200 and kept > 100
