"""Refreshing stored outputs: what is printed stays, what only says when or where goes."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from papermill.exceptions import PapermillExecutionError

from tianji_helpers import paths, records
from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import refresh

pytestmark = pytest.mark.slow

PROGRESS = (
    "import sys\nfrom tqdm import tqdm\nfor _ in tqdm(range(3)):\n    pass\nprint('done', file=sys.stdout)"
)


@pytest.fixture
def file(tmp_path):
    def write(*cells):
        path = tmp_path / "01_toy.ipynb"
        nbformat.write(new_notebook(cells=list(cells), metadata={"papermill": {"duration": 1}}), path)
        return path

    return write


def test_outputs_are_stored_without_the_noise(file, capsys):
    path = file(
        new_code_cell("seed = 42", metadata={"tags": ["parameters"], "papermill": {"duration": 3}}),
        new_code_cell(PROGRESS, metadata={"tags": ["nbval-ignore-output"], "execution": {"x": "1"}}),
        new_code_cell("import os\nprint('10%\\r100%')\nprint(os.getcwd() == " + repr(str(paths.ROOT)) + ")"),
        new_code_cell("import ipywidgets\nipywidgets.IntSlider(3)"),
    )
    refresh.refresh(path)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    first, progress, plain, widget = notebook.cells
    assert [cell.execution_count for cell in notebook.cells] == [1, 2, 3, 4]
    assert first.metadata == {"tags": ["parameters"]} and plain.metadata == {}
    assert [output.text for output in progress.outputs] == ["done\n"]
    assert "3/3" in capsys.readouterr().out
    assert [output.text for output in plain.outputs] == ["100%\nTrue\n"]
    assert set(widget.outputs[0].data) == {"text/plain"}


def test_only_a_folder_of_its_own_is_emptied(tmp_path, monkeypatch):
    folder = tmp_path / "refresh"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    refresh.empty(folder)
    (folder / "journal").write_text("of a refresh")
    refresh.empty(folder)
    assert [file.name for file in folder.iterdir()] == [".refresh"]
    assert (tmp_path / "refresh.kept-1" / "mine.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2
    (folder / "decisions.jsonl").write_text("added later")
    monkeypatch.setattr(records, "_LAST_MINUTE", -1)
    refresh.empty(folder)
    assert (tmp_path / "refresh.kept-2" / "decisions.jsonl").read_text() == "added later"


def test_standard_error_of_a_compared_cell_stays_to_be_seen(file):
    path = file(new_code_cell("import warnings\nwarnings.warn('mind this')"))
    refresh.refresh(path)
    (output,) = nbformat.read(path, as_version=4).cells[0].outputs
    assert output.name == "stderr" and "mind this" in output.text


def test_a_failing_notebook_stays_as_it_was(file):
    path = file(new_code_cell("1 / 0"))
    before = path.read_bytes()
    with pytest.raises(PapermillExecutionError, match="ZeroDivisionError"):
        refresh.refresh(path)
    assert path.read_bytes() == before


def test_a_notebook_that_ends_itself_stays_as_it_was(file):
    leave = new_code_cell("import sys\nsys.exit()", metadata={"tags": ["nbval-ignore-output"]})
    path = file(leave, new_code_cell("print(1)"))
    before = path.read_bytes()
    with pytest.raises(CourseError, match=r"sys\.exit"):
        refresh.refresh(path)
    assert path.read_bytes() == before


def test_two_refreshes_store_the_same_bytes(file):
    times = (
        "import time\nprint(f'训练用时 {time.monotonic():.3f} 分钟，损失 1.284')\n"
        "print(time.strftime('还要 %H:%M:%S，写到 wishes_正常_%Y-%m-%d-%H-%M-%S.json'))\ntime.sleep(1)"
    )
    path = file(new_code_cell(times, metadata={"tags": ["nbval-ignore-output"]}))
    stored = []
    for _ in range(2):
        refresh.refresh(path)
        stored.append(nbformat.read(path, as_version=4).cells[0].outputs[0].text)
    assert stored[0] == stored[1]
    assert stored[0].splitlines() == [
        "训练用时 … 分钟，损失 1.284",
        "还要 …，写到 wishes_正常_YYYY-MM-DD-HH-MM-SS.json",
    ]


@pytest.mark.parametrize(
    "code", ["from pathlib import Path\nPath.home() / 'x'", "print('作者：' + 'gnimoaix'[::-1])"]
)
def test_outputs_that_name_the_machine_are_refused(file, code, monkeypatch):
    monkeypatch.setattr(refresh.getpass, "getuser", lambda: "xiaoming")
    path = file(new_code_cell(code))
    before = path.read_bytes()
    with pytest.raises(CourseError, match="机器的路径或名字"):
        refresh.refresh(path)
    assert path.read_bytes() == before


def test_a_user_called_as_a_word_of_the_lesson_is_no_trace(file, monkeypatch):
    monkeypatch.setattr(refresh.getpass, "getuser", lambda: "user")
    refresh.refresh(file(new_code_cell("print({'role': 'user'})")))


def test_only_the_named_notebooks_are_refreshed(file, monkeypatch, capsys):
    path = file(new_code_cell("print(1)"))
    other = path.with_name("02_toy.ipynb")
    other.write_bytes(path.read_bytes())
    monkeypatch.setattr(refresh.course, "find_notebooks", lambda folder=None: [] if folder else [path, other])
    refresh.main(["02"])
    assert "02_toy.ipynb" in capsys.readouterr().out
    assert nbformat.read(other, as_version=4).cells[0].outputs
    assert not nbformat.read(path, as_version=4).cells[0].outputs
