"""Grading: honest submissions get their marks, as they come, and the tables are safe to open."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from submissions import ENDLESS, RIGHT, WRONG, notebook, patient

from tianji_helpers import paths
from tianji_helpers.exercises import EXERCISES
from tianji_toolbox import cli
from tianji_toolbox.classroom import gradebook, grading, jail

pytestmark = pytest.mark.slow

lockable = pytest.mark.skipif(bool(jail.why_not()), reason=jail.why_not())
NAMES = ["=honest()<b>.ipynb", "张三.ipynb", "\x1b[31m红\u202e.ipynb"]


@pytest.fixture(scope="module")
def submissions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("submissions")

    def hand_in(name, *sources, **options):
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        nbformat.write(notebook(*sources, **options), file)
        return file

    for name in NAMES:
        hand_in(name, "%time squeezed = 1\n" + RIGHT)
    hand_in("fails.ipynb", "1 +", 'def squeeze(text):\n    return 1 / 0\n\n\ncheck("02-2", squeeze)')
    hand_in("typo.ipynb", '1 +\ncheck("02-2", 1)')
    hand_in("unnamed.ipynb", 'check("02-2", nobody)')
    hand_in("deleted.ipynb", "nothing = 1")
    hand_in("elsewhere.ipynb", RIGHT, section="## 别的")
    mark = hand_in("marked.ipynb", RIGHT)  # as editors of Windows leave it
    mark.write_bytes(b"\xef\xbb\xbf" + mark.read_bytes())
    (folder / "linked.ipynb").symlink_to(folder / "fails.ipynb")
    (folder / "empty").mkdir()
    hand_in("twice/1.ipynb", RIGHT)
    hand_in("twice/2.ipynb", RIGHT.replace("～", ""))
    hand_in("beside/02.ipynb", "open('own.txt', 'a').write(open('data.txt').read())", RIGHT)
    (folder / "beside" / "data.txt").write_text("given")
    return folder


@pytest.fixture(scope="module")
def grades(submissions):
    before = {path: path.read_bytes() for path in submissions.rglob("*") if path.is_file()}
    found = grading.grade(submissions, workers=2)
    assert {path: path.read_bytes() for path in submissions.rglob("*") if path.is_file()} == before
    return {grade.student: grade for grade in found}


@lockable
def test_submissions_get_what_they_deserve(grades):
    for name in ("=honest()<b>", "张三", "�[31m红�", "marked", "beside", "twice"):
        assert grades[name].results == {"02-2": []} and grades[name].problems == [], name
    assert grades["=honest()<b>"].passed == 1
    assert "SyntaxError" in grades["fails"].problems[0]
    assert "ZeroDivisionError" in grades["fails"].results["02-2"][0]
    assert "SyntaxError" in grades["typo"].results["02-2"][0]
    assert "NameError" in grades["unnamed"].results["02-2"][0]
    assert "没有一个 check" in grades["deleted"].problems[0]
    assert "没有找到" in grades["elsewhere"].problems[0]
    assert "没有笔记本" in grades["empty"].problems[0]
    assert "linked" not in grades


@lockable
def test_the_table_is_safe_to_open(grades, tmp_path):
    files = gradebook.write(list(grades.values()), tmp_path)
    assert [file.name for file in files] == ["grades.csv", "grades.html"]
    text = files[0].read_bytes().decode("utf-8")
    assert text.startswith("\ufeff学生,通过,共,02-1,02-2,02-3,02-4,02-5,备注")
    rows = {row[0]: row for row in csv.reader(io.StringIO(text[1:]))}
    assert rows["'=honest()<b>"][1:5] == ["1", "5", "", "1"]
    assert not [cell for row in rows.values() for cell in row if cell.startswith(("=", "+", "-", "@"))]
    page = files[1].read_text(encoding="utf-8")
    assert "=honest()&lt;b&gt;" in page and "<b>" not in page and "没有一个 check" in page
    assert "src=" not in page and "http:" not in page and "https:" not in page


@lockable
def test_the_command_accepts_the_solutions_and_rejects_the_stubs(tmp_path, capsys):
    shutil.copytree(paths.NOTEBOOKS / "solutions", tmp_path / "class" / "答案")
    (tmp_path / "class" / "空白").mkdir()
    for file in paths.NOTEBOOKS.glob("0*.ipynb"):
        shutil.copy(file, tmp_path / "class" / "空白")
    assert cli.main(["grade", str(tmp_path / "class"), "--output", str(tmp_path), "--workers", "2"]) == 0
    printed = capsys.readouterr().out
    every = len(EXERCISES)
    assert f" {every} / {every}  答案\n" in printed and f"  0 / {every}  空白\n" in printed
    assert (tmp_path / "grades.csv").is_file() and (tmp_path / "grades.html").is_file()


@lockable
def test_ctrl_c_ends_what_is_running_and_keeps_what_is_graded(tmp_path):
    nbformat.write(notebook(RIGHT), tmp_path / "1.ipynb")
    nbformat.write(notebook(ENDLESS, RIGHT), tmp_path / "2.ipynb")
    table = tmp_path / "out" / "grades.csv"
    tianji = [sys.executable, "-m", "tianji_toolbox.cli", "grade", str(tmp_path)]
    grader = psutil.Popen([*tianji, "--output", str(table.parent)], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while not table.is_file() or "2.ipynb" not in str(
        [process.cmdline() for process in grader.children(recursive=True)]
    ):
        assert time.monotonic() < until and grader.poll() is None
        time.sleep(0.1)
    started = grader.children(recursive=True)
    grader.send_signal(signal.SIGINT)
    assert "已中断" in grader.communicate(timeout=120)[1] and grader.returncode == 130
    assert not psutil.wait_procs(started, timeout=120)[1]
    assert [line.split(",")[0] for line in table.read_text(encoding="utf-8-sig").splitlines()] == [
        "学生",
        "1",
    ]


@lockable
def test_one_that_never_ends_is_stopped_and_the_others_are_graded(tmp_path, monkeypatch):
    monkeypatch.setattr(grading, "Sandbox", patient("1", cell=2))
    nbformat.write(notebook(WRONG, ENDLESS, RIGHT), tmp_path / "1.ipynb")
    nbformat.write(notebook(RIGHT), tmp_path / "2.ipynb")
    saved = []
    endless, honest = grading.grade(tmp_path, seconds=5, save=lambda some: saved.append(len(some)))
    assert endless.problems == ["1.ipynb：超过时限 5 秒"]
    assert endless.results["02-2"] == ["没有判完：超过时限 5 秒"] and "不该动" in endless.results["02-1"][0]
    assert honest.results == {"02-2": []} and saved == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [(["nowhere"], "没有文件夹"), (["."], "没有笔记本"), ([".", "--timeout", "1"], "至少 5 秒")],
)
def test_what_cannot_be_graded_is_refused(arguments, hint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["grade", *arguments]) == (2 if "nowhere" in arguments else 1)
    assert hint in capsys.readouterr().err


@lockable
def test_a_file_of_any_content_has_a_reason(tmp_path):
    cells = {"code": {"cell_type": "code"}, "number": {"cell_type": "code", "source": 3}, "one": 1}
    texts = {name: json.dumps({"nbformat": 4, "cells": [cell]}) for name, cell in cells.items()}
    texts |= {"empty": "", "list": "[]", "deep": "{" * 100_000, "deeper": "[" * 10**6, "none": "{}"}
    texts |= {"half": "\x00\ud800", "huge": " " * 21_000_000}
    for name, text in texts.items():
        (tmp_path / f"{name}.ipynb").write_text(text, encoding="utf-8", errors="surrogatepass")
    for grade in grading.grade(tmp_path, workers=2):
        assert grade.results == {} and len(grade.problems) == 1
        reason = "超过 20 MB" if grade.student == "huge" else "读不了这个笔记本"
        assert reason in grade.problems[0], grade


def test_a_folder_without_end_is_looked_at_within_limits(tmp_path):
    many, deep, wide = (tmp_path / name for name in ("many", "deep", "wide"))
    for number in range(grading.MAX_NOTEBOOKS + 5):
        (many / str(number)).mkdir(parents=True)
        (many / str(number) / "1.ipynb").write_text("{}")
    deep.mkdir()
    (deep / "1.ipynb").write_text("{}")
    here = os.open(deep, os.O_RDONLY)
    for _ in range(2000):  # below what a path can name
        os.mkdir("inner", dir_fd=here)
        here, above = os.open("inner", os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(here)
    wide.mkdir()
    for number in range(grading.MAX_ENTRIES + 1):
        (wide / str(number)).touch()
    found = grading.find_submissions(tmp_path)
    assert len(found["many"].notebooks) == grading.MAX_NOTEBOOKS and "只判了前" in found["many"].problems[0]
    assert len(found["deep"].notebooks) == 1 and "太深" in found["deep"].problems[0]
    assert found["wide"].notebooks == [] and "太多" in found["wide"].problems[0]
    subprocess.run(["rm", "-rf", deep], check=True)  # Python of today cannot


def test_a_name_from_a_chinese_archive_is_read(tmp_path):
    folder = tmp_path / os.fsdecode("李四".encode("gbk"))
    folder.mkdir()
    (folder / "1.ipynb").write_text("{}")
    assert list(grading.find_submissions(tmp_path)) == ["李四"]


def test_two_submissions_of_one_name_are_told(tmp_path):
    (tmp_path / "王五").mkdir()
    for file in ("王五/1.ipynb", "王五.ipynb", "赵六.ipynb"):
        (tmp_path / file).write_text("{}")
    found = grading.find_submissions(tmp_path)
    assert len(found["王五"].notebooks) == 2 and found["赵六"].problems == []
    assert found["王五"].problems == ["还有一份 王五.ipynb 也写着这个名字，算在了一起"]


@lockable
@pytest.mark.skipif(os.geteuid() != 0, reason="只有 root 能把文件交给别人")
def test_root_grades_what_only_its_owner_may_read(tmp_path):
    """As a class's exchange folder has it: each student's own files, for nobody else."""
    inner = tmp_path / "class" / "小明"
    inner.mkdir(parents=True)
    nbformat.write(notebook(RIGHT), inner / "02.ipynb")
    alone = tmp_path / "class" / "小红.ipynb"
    nbformat.write(notebook(RIGHT), alone)
    for path in (inner / "02.ipynb", inner, alone):
        try:
            os.chown(path, 12345, 12345)
        except OSError as error:  # root of a user namespace, as tests/offline.py makes one, has no others
            pytest.skip(f"这里的 root 不能把文件交给别人：{error.strerror}")
        path.chmod(0o700 if path.is_dir() else 0o600)
    for grade in grading.grade(tmp_path / "class"):
        assert grade.passed == 1 and not grade.problems, grade.problems
    assert alone.stat().st_mode & 0o777 == 0o600 and alone.stat().st_uid == 12345
