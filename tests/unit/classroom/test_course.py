"""The runner of the course, on small real notebooks through the real papermill."""

import fcntl
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tianji_helpers import parameters, paths
from tianji_helpers.errors import CourseError
from tianji_toolbox import doctor
from tianji_toolbox.classroom import course as course_module
from tianji_toolbox.classroom.course import run_course

pytestmark = pytest.mark.slow

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def write_lesson(folder, name, parameters, *code):
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), *map(new_code_cell, code)]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": KERNELSPEC}), folder / f"{name}.ipynb")


@pytest.fixture
def course(tmp_path):
    """Two lessons; the second reads what the first wrote, and stops while its flag file is missing."""
    folder, run = tmp_path / "notebooks", tmp_path / "run"
    folder.mkdir()
    write_lesson(
        folder,
        "01_write",
        'output_dir = ""\nseed = 42\nrate = 2e-3\nstyles = ["正常"]',
        "from tianji_helpers import paths\nfrom tianji_helpers.errors import CourseError\n"
        "if rate < 0:\n    raise CourseError(f'rate = {rate}，应当不小于 0')",
        'out = paths.stage_dir("01", output_dir)\n(out / "seed.txt").write_text(str(seed))',
        'log = out / "log.txt"\nwith log.open("a") as file:\n    file.write("ran\\n")\nprint(rate, styles)',
    )
    write_lesson(
        folder,
        "02_read",
        'output_dir = ""\nseed = 42\nshout = False',
        "from tianji_helpers import paths",
        'seed_file = paths.stage_dir("01", output_dir) / "seed.txt"\n'
        'assert (paths.run_dir(output_dir) / "ready").exists(), "not ready"\n'
        "print(seed_file.read_text(), shout)",
    )

    def start(**options):
        return run_course(output_dir=run, folder=folder, **options)

    start.folder, start.run = folder, run
    (run / "ready").parent.mkdir()
    (run / "ready").touch()
    return start


def printed(course, name):
    notebook = nbformat.read(course.run / "notebooks" / f"{name}.ipynb", as_version=4)
    return "".join(
        output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output
    )


def test_parameters_reach_the_notebooks_that_have_them_in_their_types(course):
    given = {"seed": "7", "rate": "1e-4", "styles": "[小红书, 严肃]", "shout": "true"}
    assert course(parameters=given) == ["01_write", "02_read"]
    assert printed(course, "01_write") == "0.0001 ['小红书', '严肃']\n"
    assert printed(course, "02_read") == "7 True\n"


def test_a_failing_notebook_stops_the_course_which_then_goes_on_from_there(course):
    (course.run / "ready").unlink()
    with pytest.raises(
        CourseError, match=r"\[2/2\] 02_read：停在代码格 \[4\]。\nAssertionError: not ready\n-+> 2 assert"
    ):
        course()
    (course.run / "ready").touch()
    assert course() == ["02_read"]
    assert course() == []
    assert (course.run / "01_synthesis" / "log.txt").read_text() == "ran\n"


def test_a_copy_in_which_somebody_wrote_is_kept(course, capsys):
    (course.run / "ready").unlink()
    for _ in range(2):
        with pytest.raises(CourseError, match="not ready"):
            course()
    (course.run / "ready").touch()
    course(), course(parameters={"seed": "7"})
    copy = course.run / "notebooks" / "02_read.ipynb"
    assert not list(course.run.rglob("*.kept-*")) and "留作" not in capsys.readouterr().out
    copy.write_text(copy.read_text().replace("shout)", "shout)  # mine"))
    course(only="02")
    assert "# mine" in copy.with_name("02_read.ipynb.kept-1").read_text() and "mine" not in copy.read_text()
    assert "留作 02_read.ipynb.kept-1" in capsys.readouterr().out


def test_a_notebook_runs_again_when_what_it_depends_on_changed(course):
    course()
    assert course(parameters={"shout": "true"}) == ["02_read"]
    assert course(parameters={"seed": "7", "shout": "true"}) == ["01_write", "02_read"]
    notebook = nbformat.read(course.folder / "01_write.ipynb", as_version=4)
    notebook.cells[1].source += "\npass"
    nbformat.write(notebook, course.folder / "01_write.ipynb")
    assert course(parameters={"seed": "7", "shout": "true"}) == ["01_write", "02_read"]


def test_a_lesson_run_alone_with_another_parameter_makes_the_later_ones_stale(course):
    course()
    assert course(only="01", parameters={"seed": "7"}) == ["01_write"]
    assert course(only="02") == ["02_read"]
    assert printed(course, "02_read") == "7 False\n"
    assert course() == ["01_write", "02_read"]


def test_a_lost_result_file_is_made_again(course):
    course()
    (course.run / "01_synthesis" / "seed.txt").unlink()
    assert course()[0] == "01_write"


def test_only_and_from_run_even_what_is_done(course):
    course()
    assert course(only="1") == ["01_write"]
    assert course(start="02") == ["02_read"]
    with pytest.raises(CourseError, match="没有编号为 09 的课。可选：01、02"):
        course(only="09")
    for nothing in ({"only": ""}, {"start": ""}):  # an empty variable of a script is no wish for the whole
        with pytest.raises(CourseError, match="没有编号为"):
            course(**nothing)


def test_the_added_lesson_runs_by_its_number_only():
    files = course_module.find_notebooks()

    def chosen(**choice):
        return [
            file.stem[:2] for file in course_module._choose(files, choice.get("only"), choice.get("start"))
        ]

    assert chosen() == ["01", "02", "03", "04", "05", "06"] and chosen(start="05") == ["05", "06"]
    assert chosen(only="07") == chosen(start="07") == ["07"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"sede": "7"},
            "没有叫 sede 的参数。你是想用 seed 吗？可选：rate、seed、shout、styles",
        ),
        ({"seed": "seven"}, "参数 seed 的值 'seven' 不对，应当是整数"),
        ({"seed": "1.5"}, "参数 seed 的值 1.5 不对，应当是整数"),
        ({"rate": "nan"}, "参数 rate 的值 nan 不对"),
        ({"shout": "1"}, "参数 shout 的值 1 不对，应当是 ?true 或 false"),
        ({"styles": "小红书"}, "参数 styles 的值 '小红书' 不对，应当是列表"),
        ({"styles": "[1]"}, "参数 styles 的值 .* 不对，应当是列表"),
        ({"output_dir": "elsewhere"}, "请用 --output"),
        ({"seed": "-1"}, "参数 seed 的值 -1 不对，应当是 0 到"),
        ({"rate": "-1"}, "rate = -1.0，应当不小于 0"),
    ],
)
def test_a_wrong_parameter_is_refused_before_any_lesson_ran(course, given, message):
    with pytest.raises(CourseError, match=message):
        course(parameters=given)
    assert not (course.run / "01_synthesis").exists()


def test_a_parameter_of_another_lesson_is_unknown_to_the_selected_one(course):
    with pytest.raises(CourseError, match="没有叫 shout 的参数"):
        course(only="01", parameters={"shout": "true"})


def test_a_second_course_in_the_same_folder_is_refused(course):
    (course.run / "notebooks").mkdir()
    with (course.run / ".course.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CourseError, match=r"另一个课程正在 .* 里运行"):
            course()
    assert course() == ["01_write", "02_read"]


def test_a_killed_kernel_is_explained(course):
    write_lesson(
        course.folder, "02_read", "seed = 42", "import os, signal", "os.kill(os.getpid(), signal.SIGKILL)"
    )
    with pytest.raises(CourseError, match=r"02_read：笔记本的内核被系统结束了，多半是内存不够"):
        course()


def test_too_little_memory_or_disk_stops_the_course_before_it_starts(course, monkeypatch):
    monkeypatch.setattr(doctor, "resources", lambda folder: [doctor.check_disk(folder, needed=1e9)])
    with pytest.raises(CourseError, match=r"空闲 .* GB，需要 1e\+09 GB。清出一些空间"):
        course()
    assert not (course.run / "notebooks").exists()


@pytest.mark.parametrize("content", ['{"cells": [', '{"nbformat": 4}'])
def test_a_broken_notebook_is_named(course, content):
    (course.folder / "02_read.ipynb").write_text(content)
    with pytest.raises(CourseError, match=r"读不了笔记本 .*02_read\.ipynb"):
        course()


def test_a_notebook_without_a_parameters_cell_is_refused(course):
    nbformat.write(new_notebook(metadata={"kernelspec": KERNELSPEC}), course.folder / "02_read.ipynb")
    with pytest.raises(CourseError, match=r"02_read.ipynb 有 0 个带 parameters 标签的格子"):
        course()


def test_a_folder_without_notebooks_is_refused(tmp_path):
    with pytest.raises(CourseError, match="里没有课程的笔记本"):
        run_course(output_dir=tmp_path, folder=tmp_path)


def test_an_interrupted_course_leaves_no_kernel_behind_and_goes_on(course):
    write_lesson(
        course.folder,
        "02_read",
        'output_dir = ""',
        "import os, time\nfrom tianji_helpers import paths",
        'run = paths.run_dir(output_dir)\n(run / "pid").write_text(str(os.getpid()))\n'
        'while not (run / "go").exists():\n    time.sleep(0.1)',
    )
    code = (
        "import sys; from pathlib import Path; from tianji_helpers import paths\n"
        f"paths.NOTEBOOKS = Path({str(course.folder)!r})\n"
        "from tianji_toolbox.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "course", "--output", str(course.run)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (pid := course.run / "pid").exists() or not pid.read_text():
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 130
    assert errors.endswith("\n已中断。\n") and "错误" not in errors
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    (course.run / "go").touch()
    assert course() == ["02_read"]


def test_paths_with_braces_are_no_templates(course):
    assert run_course(only="01", output_dir=course.run / "{x}", folder=course.folder) == ["01_write"]
    assert (course.run / "{x}" / "notebooks" / "01_write.ipynb").is_file()
    assert paths.run_dir(course.run / "{x}").is_dir()


@pytest.mark.parametrize("name", parameters.PATHS)
def test_files_are_looked_for_where_the_caller_is_and_read_again_when_they_change(course, monkeypatch, name):
    write_lesson(course.folder, "02_read", f'output_dir = ""\n{name} = ""', f"print(open({name}).read())")
    there = course.run.parent / "elsewhere"
    there.mkdir()
    (there / "my.csv").write_text("one")
    monkeypatch.chdir(there)
    assert course(parameters={name: "my.csv"}) == ["01_write", "02_read"]
    assert printed(course, "02_read").strip() == "one"
    assert course(parameters={name: "my.csv"}) == []
    (there / "my.csv").write_text("two")
    assert course(parameters={name: "my.csv"}) == ["02_read"]
    with pytest.raises(CourseError, match=f"参数 {name}：路径 ~nobody-of-that-name/x 用不了"):
        course(parameters={name: "~nobody-of-that-name/x"})


def test_the_lessons_have_no_other_files_among_their_parameters():
    known = {}
    for file in course_module.find_notebooks():
        known |= parameters.defaults(course_module.read(file), file.name)
    empty = {name for name, value in known.items() if value == ""}
    assert empty - set(parameters.PATHS) == {"output_dir", "base_url", "model"}
