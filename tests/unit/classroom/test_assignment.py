"""Assignments: what students get of a source, what its tests see, and what students see of the tests."""

import json
import os
from datetime import datetime, timezone
from random import Random

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from submissions import patient

from tianji_helpers.errors import CourseError
from tianji_toolbox import cli
from tianji_toolbox.classroom import assignment, gradebook, grading, handed_in, jail

lockable = pytest.mark.skipif(bool(jail.why_not()), reason=jail.why_not())

SOLUTION = """
def unique(items):
    ### BEGIN SOLUTION
    return tuple(dict.fromkeys(items))
    ### END SOLUTION"""
TEST = """# 去重: 3 分
assert unique([1, 1, 2]) == (1, 2)
### BEGIN HIDDEN TESTS
assert unique(["secret", "secret"]) == ("secret",), "a secret"
try:
    unique(None)
except TypeError:
    pass
else:
    raise AssertionError
### END HIDDEN TESTS"""
COUNTED = """def count(text):
    return {letter: text.count(letter) for letter in text}  # SOLUTION"""
PARTLY = """# count: 4 points
right = [math.isclose(count(text)["a"], number) for text, number in (("a", 1), ("aa", 2))]
### BEGIN HIDDEN TESTS
right += [count("ba") == {"b": 1, "a": 1}, count("") == {}]
### END HIDDEN TESTS
sum(right)"""
ESSAY = "<!-- 心得: 2 分 -->\n写一写。\n### BEGIN SOLUTION\n都对。\n### END SOLUTION"


def source(*cells):
    cells = [
        new_markdown_cell(text) if text.startswith(("<", "文")) else new_code_cell(text) for text in cells
    ]
    return new_notebook(
        cells=cells,
        metadata={"path": "/home/teacher", "kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )


WHOLE = ("文", "%matplotlib inline\nimport math", SOLUTION, TEST, COUNTED, PARTLY, ESSAY)


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    file = tmp_path_factory.mktemp("master") / "作业一.ipynb"
    nbformat.write(source(*WHOLE), file)
    return file


def test_the_students_version_gives_nothing_away(master, tmp_path):
    notebook = nbformat.read(master, as_version=4)
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="都对")]
    nbformat.write(notebook, tmp_path / "1.ipynb")
    student, copy = assignment.write(tmp_path / "1.ipynb", tmp_path / "out")
    text = student.read_text(encoding="utf-8")
    assert not [
        word
        for word in ("secret", "fromkeys", "text.count", "都对", "/home", "SOLUTION", "HIDDEN")
        if word in text
    ]
    cells = nbformat.read(student, as_version=4).cells
    assert cells[2].source == "\ndef unique(items):\n    # 写在这里\n    ..."
    assert cells[3].source == "# 去重: 3 分\nassert unique([1, 1, 2]) == (1, 2)"
    assert cells[4].source == "def count(text):\n    ..."
    assert cells[6].source == "<!-- 心得: 2 分 -->\n写一写。\n（在这里写你的回答）"
    assert [cell.metadata.get("editable") for cell in cells] == [None, None, None, False, None, False, None]
    assert assignment.load(copy).questions == assignment.load(master).questions


def test_a_version_that_somebody_changed_is_kept(tmp_path, capsys):
    file = tmp_path / "work.ipynb"
    nbformat.write(source(), file)
    written = assignment.write(file, tmp_path / "out")
    assert assignment.write(file, tmp_path / "out") == written and capsys.readouterr().out == ""
    for path in written:
        path.write_text("changed", encoding="utf-8")
    assert assignment.write(file, tmp_path / "out") == written
    assert [path.with_name("work.ipynb.kept-1").read_text() for path in written] == ["changed"] * 2
    assert capsys.readouterr().out.count("留作 work.ipynb.kept-1") == 2
    assert sorted(item.name for item in written[0].parent.iterdir()) == ["work.ipynb", "work.ipynb.kept-1"]


def test_what_nbgrader_has_noted_is_understood(tmp_path):
    solution = new_code_cell("x = 1", metadata={"nbgrader": {"solution": True, "grade_id": "a"}})
    test = {"grade": True, "solution": False, "points": 2, "grade_id": "test_x"}
    by_hand = {"grade": True, "solution": True, "points": 3, "grade_id": "essay"}
    cells = [solution, new_code_cell("assert x == 1", metadata={"nbgrader": test})]
    cells.append(new_markdown_cell("都对", metadata={"nbgrader": by_hand}))
    nbformat.write(new_notebook(cells=cells), tmp_path / "1.ipynb")
    questions = assignment.load(tmp_path / "1.ipynb").questions
    assert {name: (one.points, one.needs) for name, one in questions.items()} == {
        "test_x": (2, ("x",)),
        "essay": (3, ()),
    }
    stripped = [cell.source for cell in assignment.student_version(tmp_path / "1.ipynb").cells]
    assert stripped == [assignment.STUB, "assert x == 1", assignment.TEXT_STUB]


SOLVED = "### BEGIN SOLUTION\nx = 1\n### END SOLUTION"
BAD = {
    "没有 END": ["### BEGIN SOLUTION\nx = 1", "# q: 1 分\nassert x"],
    "不成对": ["x = 1\n### END SOLUTION", "# q: 1 分\nassert x"],
    "不成对，": ["### BEGIN SOLUTION\n### BEGIN HIDDEN TESTS\n### END SOLUTION\n### END HIDDEN TESTS"],
    "不认识 ### BEGIN SOLUTON": ["### BEGIN SOLUTON\nx = 1\n### END SOLUTON", "# q: 1 分\nassert x"],
    "题目 q 出现了两次": [SOLVED, "# q: 1 分\nassert x", "# q: 2 分\nassert x"],
    "分值是 0，": [SOLVED, "# q: 0 分\nassert x"],
    "用到了 y：": [SOLVED, "y = 2", "# q: 1 分\nassert x == y"],
    "不是 Python": [SOLVED, "# q: 1 分\nassert x =="],
    "去掉看不见的测试以后": [
        SOLVED,
        "# q: 1 分\nif x:\n    ### BEGIN HIDDEN TESTS\n    assert x\n    ### END HIDDEN TESTS",
    ],
    "测试是空的": [SOLVED, "# q: 1 分"],
    "只能写在测试里": [
        SOLVED,
        "### BEGIN HIDDEN TESTS\nassert x\n### END HIDDEN TESTS",
        "# q: 1 分\nassert x",
    ],
    "没有计分的格子": [SOLVED, "assert x"],
    "import no_such_module 做不到": ["import no_such_module", SOLVED, "# q: 1 分\nassert x"],
}


@pytest.mark.parametrize("hint", BAD)
def test_a_source_that_cannot_be_graded_is_refused(hint, tmp_path):
    nbformat.write(source(*BAD[hint]), tmp_path / "1.ipynb")
    with pytest.raises(CourseError, match=hint):
        assignment.load(tmp_path / "1.ipynb")


@pytest.mark.parametrize(
    "text", ["", "[]", "{" * 9999, '{"cells": [{"cell_type": "code"}]}', '{"cells": []}']
)
def test_a_source_that_is_no_notebook_is_refused(text, tmp_path):
    (tmp_path / "1.ipynb").write_text(text)
    with pytest.raises(CourseError, match=r"1\.ipynb"):
        assignment.load(tmp_path / "1.ipynb")


GOOD = "def unique(items):\n    return tuple(dict.fromkeys(items))"
SHOWN_ONLY = "def unique(items):\n    return (1, 2)\ndef count(text):\n    return {'a': len(text)}"
# it hands what hidden tests ask for to whoever reads errors, later answers or the file beside it
SPY = """seen = []
class Secret(Exception): pass
def unique(items):
    seen.append(items)
    raise Secret(str(seen))
def count(text):
    raise KeyError(str(seen))"""
LEAKER = [
    "seen = []\n" + GOOD.replace("    return", "    seen.append(items)\n    return"),
    "# 去重: 3 分\npass",
    "raise type(str(seen), (Exception,), {})(str(seen))",
]
FORGER = """import builtins, tianji_toolbox.classroom.transport as theirs
theirs.pack = lambda value: {"value": True}
class Equal(tuple):
    __eq__ = lambda *_: True
    __hash__ = None
def unique(items):
    return Equal()
builtins.AssertionError = Exception"""
HANGING = "def unique(items):\n    while True: pass\ndef count(text):\n    return {}"
KILLER = (
    "import os\ndef unique(items):\n    if items is None: os._exit(0)\n    return tuple(dict.fromkeys(items))"
)


@pytest.fixture(scope="module")
def class_of(master, tmp_path_factory):
    """The grades of a class, by student."""
    folder = tmp_path_factory.mktemp("class")
    given = {
        "good": [GOOD, TEST],
        "shown_only": [SHOWN_ONLY],
        "spy": [SPY],
        "forger": [FORGER],
        "empty": ["pass"],
    }
    given |= {"leaker": LEAKER, "hanging": [HANGING], "killer": [KILLER]}
    # a test is judged where it stands: a name may mean another thing further down
    given["in_place"] = [GOOD, "# 去重: 3 分\nraise SystemExit", "unique = None"]
    for name, cells in given.items():
        nbformat.write(source(*cells, "<!-- 心得: 2 分 -->\n我写的"), folder / f"{name}.ipynb")
    (folder / "damaged.ipynb").write_text("{")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grading, "Sandbox", patient("hanging"))
        found = grading.grade(folder, assignment=assignment.load(master), seconds=5, workers=2)
    return {grade.student: grade for grade in found}


@lockable
@pytest.mark.slow
@pytest.mark.parametrize(
    ("use", "ended"),
    [
        ("assert sum(1 for _ in range(n)) == 2", "超过时限"),
        ("assert sum(range(n)) == 1", "超过时限"),
        ("assert 'x' * n == 'xx'", "没有通过：assert 'x' * n"),
        ("n > 2 and __import__('os')._exit(0)", "测试的进程自己结束了"),
    ],
)
def test_a_value_that_keeps_a_test_busy_ends_with_its_notebook(use, ended, tmp_path, monkeypatch):
    answer = "def count(words):\n    return {}"
    test = f"# 数: 3 分\nn = count(['a', 'b'])\n{use}"
    solved = answer.format("len(words)").replace("    return", "    ### BEGIN SOLUTION\n    return")
    nbformat.write(source(f"{solved}\n    ### END SOLUTION", test), tmp_path / "hw.ipynb")
    given = tmp_path / "given"
    given.mkdir()
    for name, value in {"mallory": "10**15", "z_honest": "len(words)"}.items():
        nbformat.write(source(answer.format(value), test), given / f"{name}.ipynb")
    task = assignment.load(tmp_path / "hw.ipynb")
    monkeypatch.setattr(grading, "Sandbox", patient("mallory" if ended == "超过时限" else ""))
    mallory, honest = grading.grade(given, assignment=task, seconds=5, memory_gb=0.5)
    assert mallory.points == {"数": 0}
    assert any(ended in told for told in [*mallory.problems, *mallory.results["数"]])
    assert honest.points == {"数": 3} and not honest.problems


@lockable
@pytest.mark.slow
def test_points_are_what_the_tests_say(class_of):
    points = {name: tuple(grade.points.get(q) for q in ("去重", "count")) for name, grade in class_of.items()}
    assert points["good"] == (3, 0) and points["in_place"] == (3, 0)
    assert points["shown_only"] == (0, 2), "half of it"
    assert points["spy"] == points["empty"] == points["hanging"] == points["killer"] == (0, 0)
    assert points["forger"][0] == 0 and points["damaged"] == (None, None)
    assert class_of["good"].answers["心得"].endswith("我写的") and class_of["good"].problems == []
    assert "超过时限" in class_of["hanging"].problems[0] and "读不了" in class_of["damaged"].problems[0]
    assert "进程自己结束了" in class_of["killer"].results["去重"][0]


@lockable
@pytest.mark.slow
def test_a_student_reads_nothing_of_a_hidden_test(class_of, master, tmp_path):
    grades = list(class_of.values())
    files = gradebook.write(grades, tmp_path, gradebook.Book(assignment.load(master)))
    assert [file.name for file in files] == ["grades.csv", "grades.html", "comments.csv"]
    for page in [*(tmp_path / "feedback").iterdir(), *files]:
        assert "secret" not in page.read_text(encoding="utf-8"), page
    assert class_of["shown_only"].results["去重"] == [assignment.HIDDEN_FAILED]
    assert class_of["leaker"].points["去重"] == 3 and "不显示" in class_of["leaker"].problems[0]
    assert class_of["spy"].results["去重"] == ["没有通过：assert unique([1, 1, 2]) == (1, 2)"]
    assert "找不到" in class_of["empty"].results["去重"][0]


@lockable
@pytest.mark.slow
def test_the_command_tries_the_solution_and_the_blank(master, tmp_path, capsys):
    assert cli.main(["assignment", str(master), "--output", str(tmp_path)]) == 0
    assert "答案得 7 分，学生版原样交上来得 0 分" in capsys.readouterr().out
    wrong = json.loads(master.read_text(encoding="utf-8").replace("tuple(dict", "list(dict"))
    nbformat.write(nbformat.from_dict(wrong), tmp_path / "wrong.ipynb")
    assert cli.main(["assignment", str(tmp_path / "wrong.ipynb"), "--output", str(tmp_path)]) == 1
    assert "去重：没有通过" in capsys.readouterr().err


# --- deadlines, comments, class lists ------------------------------------------------------------------

NINE = datetime(2026, 12, 1, 9, tzinfo=timezone.utc)
AT = {"early": -3600, "hour": 3600, "day": 86400, "two": 86401}


def test_days_late_are_counted_from_the_exchange_or_the_file(tmp_path):
    for name, seconds in AT.items():
        file = tmp_path / f"{name}.ipynb"
        file.write_text("{}")
        os.utime(file, (NINE.timestamp() + seconds,) * 2)
    stamped = {
        "stamp": "2026-12-02 08:00:00.123456 UTC",
        "zone": "2026-12-01 16:59:00 Asia/Shanghai",
        "odd": "x",
    }
    for name, text in stamped.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.ipynb").write_text("{}")
        os.utime(tmp_path / name / "1.ipynb", (NINE.timestamp() + 3 * 86400,) * 2)
        (tmp_path / name / "timestamp.txt").write_text(text)
    late = {name: one.days_after(NINE) for name, one in grading.find_submissions(tmp_path).items()}
    assert late == {"early": 0, "hour": 1, "day": 1, "two": 2, "stamp": 1, "zone": 0, "odd": 3}


def test_a_stamp_that_the_file_speaks_against_is_believed_and_told(tmp_path):
    for name, stamp, seconds in (
        ("honest", "2026-12-01 08:00:00 UTC", -7200),
        ("forged", "2026-12-01 16:00:00 Asia/Shanghai", 7200),
        ("late", "2026-12-01 10:00:00 UTC", 7200),  # it says so itself
        ("no stamp", "", 7200),
        ("far", "0001-01-01 00:00:00 Asia/Shanghai", 1e12),
    ):
        (tmp_path / name).mkdir()
        for number, before in ((1, 3600), (2, 0)):
            (tmp_path / name / f"{number}.ipynb").write_text("{}")
            os.utime(tmp_path / name / f"{number}.ipynb", (NINE.timestamp() + seconds - before,) * 2)
        if stamp:
            (tmp_path / name / "timestamp.txt").write_text(stamp)
    found = grading.find_submissions(tmp_path)
    assert {name: one.days_after(NINE) for name, one in found.items()} == {
        "honest": 0,
        "forged": 0,
        "late": 1,
        "no stamp": 1,
        "far": 0,
    }
    doubts = {name: one.doubts(NINE) for name, one in found.items()}
    assert not (doubts["honest"] or doubts["late"] or doubts["no stamp"] or found["forged"].doubts(None))
    assert doubts["forged"] == [
        "2.ipynb：timestamp.txt 说是 2026-12-01 16:00 交的，文件却在 2026-12-01 19:00（Asia/Shanghai）改过，"
        "晚于截止时间；迟交按前一个时间算，请核对"
    ]
    assert "请核对" in doubts["far"][0]


def test_a_deadline_that_is_none_is_refused(tmp_path, capsys):
    for text in ("", "明天", "2026-13-01", "9" * 99, "0001-01-01"):
        with pytest.raises(SystemExit) as exited:
            cli.main(["grade", str(tmp_path), "--deadline", text])
        assert exited.value.code == 2 and "--deadline" in capsys.readouterr().err


def class_book(master, **options):
    book = gradebook.Book(assignment.load(master), NINE, 0.1, **options)
    points = {"去重": 3.0, "count": 1.5}
    grades = [grading.Grade("=张三", points=dict(points), late=2, answers={"心得": "-我写的"})]
    return book, [*grades, grading.Grade("李四", points=points, late=2)]


def test_what_a_person_fills_in_counts_and_stays(master, tmp_path):
    book, grades = class_book(master)
    gradebook.write(grades, tmp_path, book)
    file = tmp_path / gradebook.COMMENTS
    written = file.read_text(encoding="utf-8-sig")
    assert written.splitlines() == ["学生,题目,得分,评语,答案", "'=张三,心得,,,'-我写的"]
    filled = written.replace("心得,,,", "心得,1.5,=很好,") + "李四,迟交,0,病假\r\n李四,count,4,改判\r\n"
    file.write_bytes(filled.encode("gb18030"))  # Excel saves so
    book, grades = class_book(master)
    book.read_comments(tmp_path, ["=张三", "李四"])
    items = book.items(grades)
    assert [book.total(grade, items) for grade in grades] == [pytest.approx(6 * 0.8), 7]
    for _ in range(2):
        gradebook.write(grades, tmp_path, book)
    rows = gradebook.read_table(file)
    assert ["'=张三", "心得", "1.5", "'=很好", "'-我写的"] in rows and [
        "李四",
        "迟交",
        "0",
        "病假",
        "",
    ] in rows
    page = (tmp_path / "feedback" / "=张三.html").read_text(encoding="utf-8")
    assert "4.8 / 9" in page and "=很好" in page and "迟交 2 天" in page and "我写的" not in page
    table = gradebook.read_table(tmp_path / gradebook.TABLE)
    assert table[1] == ["'=张三", "4.8", "9", "3", "1.5", "1.5", "2", ""]


def test_what_a_teacher_corrected_in_the_results_is_kept(master, tmp_path, capsys):
    book, grades = class_book(master)
    gradebook.write(grades, tmp_path, book)
    files = [tmp_path / gradebook.TABLE, tmp_path / gradebook.PAGE, tmp_path / "feedback" / "李四.html"]
    before = [file.read_bytes() for file in files]
    gradebook.write(grades[:1], tmp_path, book, whole=False)  # ours: replaced without a word
    assert capsys.readouterr().out == "" and not list(tmp_path.rglob("*.kept-*"))
    for file in files:
        file.write_text(f"改过的 {file.name}", encoding="utf-8")
    for _ in range(2):
        gradebook.write(grades, tmp_path, book)
    kept = [file.with_name(f"{file.name}.kept-1") for file in files]
    assert [file.read_text(encoding="utf-8") for file in kept] == [f"改过的 {file.name}" for file in files]
    assert sorted(tmp_path.rglob("*.kept-*")) == sorted(kept) and [f.read_bytes() for f in files] == before
    assert capsys.readouterr().out.count("留作") == 3


def test_comments_that_would_not_be_written_again_are_kept(master, tmp_path, capsys):
    book, grades = class_book(master)
    gradebook.write(grades, tmp_path, book)
    file = tmp_path / gradebook.COMMENTS
    empty = file.read_text(encoding="utf-8-sig")
    filled = empty.replace("心得,,,", "心得,1.5,很好,")

    def grade_again(text, meanwhile=""):
        file.write_text(text, encoding="utf-8")
        again, _ = class_book(master)
        again.read_comments(tmp_path, ["=张三", "李四"])
        if meanwhile:  # grading takes its time
            file.write_text(meanwhile, encoding="utf-8")
        gradebook.write(grades, tmp_path, again)
        return [item.read_text(encoding="utf-8") for item in sorted(tmp_path.glob("comments.csv.kept-*"))]

    assert grade_again(filled) == [], "all that was filled in is written again"
    assert "1.5" in file.read_text(encoding="utf-8")
    assert grade_again(empty, meanwhile=filled) == [filled]
    noted = filled.replace("我写的", "我写的,去年也交过")  # a column of the teacher's own
    assert grade_again(noted) == [filled, noted]
    assert grade_again(file.read_text(encoding="utf-8")) == [filled, noted]
    assert capsys.readouterr().out.count("留作 comments.csv.kept-") == 2


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("王五,心得,1,", "没有 '王五' 交来的东西"),
        ("李四,心,1,", "没有题目 '心'"),
        ("李四,心得,1,\n李四,心得,2,", "第 3 行：李四 的 心得 写了两次"),
        ("李四,心得,3,", "应当是 0 到 2 之间"),
        ("李四,心得,nan,", "应当是 0 到 2 之间"),
        ("李四,心得,很好,", "应当是 0 到 2 之间"),
    ],
)
def test_a_wrong_line_of_comments_is_named(line, hint, master, tmp_path):
    (tmp_path / gradebook.COMMENTS).write_text(f"学生,题目,得分,评语\n{line}\n", encoding="utf-8")
    with pytest.raises(CourseError, match=hint):
        class_book(master)[0].read_comments(tmp_path, ["李四"])


def test_two_hundred_damaged_notebooks_are_read_or_refused(master, tmp_path):
    """Each is its own result: cells, or one reason; with damage at any place, of bytes and of structure."""
    whole, random = master.read_bytes(), Random(42)
    file, refused = tmp_path / "1.ipynb", 0
    values = [None, 3, "x", [], {}, [[]], {"nbgrader": 1}, {"nbgrader": {"grade": True}}, 1e999]
    for number in range(200):
        if number % 2:
            cells = json.loads(whole)["cells"]
            cells[number % len(cells)][random.choice(list(cells[0]))] = values[number % len(values)]
            damaged = json.dumps({"cells": cells}).encode()
        else:
            place = random.randrange(len(whole))
            damaged = whole[:place] + random.choice([b"", b"\0", b"\xff", b'"', b"{"]) + whole[place + 1 :]
        file.write_bytes(damaged)
        try:
            assert all(cell.question is not None for cell in handed_in.read_cells(file))
        except CourseError as error:
            refused += 1
            assert str(error).startswith("读不了这个笔记本")
    assert 50 < refused < 190


@lockable
@pytest.mark.slow
def test_the_command_grades_and_fills_the_list(master, tmp_path, capsys):
    (tmp_path / "class").mkdir()
    nbformat.write(source(GOOD, "<!-- 心得: 2 分 -->\n我写的"), tmp_path / "class" / "0001.ipynb")
    os.utime(tmp_path / "class" / "0001.ipynb", (NINE.timestamp() + 60,) * 2)
    people = tmp_path / "名单.csv"
    people.write_text("学号,姓名,成绩\n0001,张三,\n0002,李四,\n", encoding="gb18030")
    line = ["grade", str(tmp_path / "class"), "--assignment", str(master), "--output", str(tmp_path / "out")]
    line += ["--roster", str(people), "--deadline", NINE.isoformat(), "--late", "0.5"]
    assert cli.main(line) == 0
    said = capsys.readouterr().out
    assert "1.5 / 9  0001" in said and "没有交的 1 人：李四" in said
    filled = gradebook.read_table(tmp_path / "out" / "名单-grades.csv")
    assert filled == [["学号", "姓名", "成绩"], ["0001", "张三", "1.5"], ["0002", "李四", ""]]
    people.write_text("学号,姓名\n0003,王五\n", encoding="utf-8")
    comments = tmp_path / "out" / "comments.csv"
    comments.write_text("学生,题目,得分,评语\n王五,心得,1,\n", encoding="utf-8")
    before = (tmp_path / "out" / "grades.csv").stat().st_mtime_ns
    assert cli.main(line) == 1 and "没有 '王五' 交来的东西" in capsys.readouterr().err
    comments.unlink()
    assert cli.main(line) == 1 and "没有这些人：0001" in capsys.readouterr().err
    assert (tmp_path / "out" / "grades.csv").stat().st_mtime_ns == before


def test_odd_cells_keep_no_notebook_back(tmp_path):
    odd = [{"cell_type": [], "source": "x"}, {"cell_type": "code", "source": "x", "metadata": [1]}]
    odd += [{"cell_type": None, "source": [], "metadata": {"nbgrader": 3}}]
    section = [{"cell_type": "markdown", "source": handed_in.SECTION}, {"cell_type": "code", "source": "y"}]
    (tmp_path / "1.ipynb").write_text(json.dumps({"cells": [*odd, *section]}), encoding="utf-8")
    assert handed_in.read_section(tmp_path / "1.ipynb") == ["y"]
