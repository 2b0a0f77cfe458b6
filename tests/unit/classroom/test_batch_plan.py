"""A batch's plan: what it becomes, and that nothing wrong in it gets as far as a run."""

from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from tianji_helpers import parameters, paths
from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import batch_plan


@pytest.fixture
def plan(tmp_path):
    """Write a plan with one notebook beside it, ``toy``, and load it."""
    cell = new_code_cell('owner = "小明"\nlr = 1e-3\nseed = 42', metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[cell, new_code_cell("print(owner)")]), tmp_path / "toy.ipynb")

    def load(text="", **keys):
        file = tmp_path / "plan.yaml"
        file.write_text(text or yaml.safe_dump({"notebooks": ["toy"]} | keys, allow_unicode=True))
        return batch_plan.load(file)

    load.notebook = tmp_path / "toy.ipynb"
    return load


def test_a_list_times_a_grid(plan):
    people = [{"name": name, "parameters": {"owner": name}} for name in ("小红", "小刚")]
    loaded = plan(runs=people, grid={"lr": [1, "1e-4"]}, parameters={"seed": 7}, minutes=3)
    assert [run.name for run in loaded.runs] == ["小红,lr=1", "小红,lr=1e-4", "小刚,lr=1", "小刚,lr=1e-4"]
    assert loaded.runs[1].given == {"toy": {"seed": 7, "owner": "小红", "lr": 0.0001}}
    assert loaded.runs[1].chosen == {"owner": "小红", "lr": "1e-4"}
    assert loaded.limits.minutes == 3 and loaded.models == frozenset()
    assert len({run.key for run in loaded.runs}) == 4


def test_one_run_without_list_and_grid(plan):
    (run,) = plan().runs
    assert (run.name, run.given) == ("run", {"toy": {}})


def test_the_key_follows_the_code(plan):
    (before,) = plan().runs
    notebook = nbformat.read(plan.notebook, as_version=4)
    notebook.cells[1].source += "\npass"
    nbformat.write(notebook, plan.notebook)
    (after,) = plan().runs
    assert before.key != after.key


def test_a_file_starts_from_the_plan_and_the_key_follows_its_content(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(paths.ROOT)
    (tmp_path / "my.csv").write_text("one")

    def run():
        (run,) = plan(notebooks=["05"], parameters={"data": "my.csv"}).runs
        return run

    before = run()
    assert before.given["05_train_qlora"]["data"] == str(tmp_path / "my.csv")
    assert run().key == before.key and before.chosen == {}
    (tmp_path / "my.csv").write_text("two")
    assert run().key != before.key


def test_lessons_are_found_by_number_and_name(plan):
    loaded = plan(notebooks=["3", "05_train_qlora"], parameters={"task": "self_cognition"})
    (run,) = loaded.runs
    assert [path.parent for path in run.notebooks] == [paths.NOTEBOOKS] * 2
    assert run.given["03_make_self_cognition"] == {} and loaded.models == {"gemma-3-270m"}
    assert not loaded.sees and plan(notebooks=["07"]).sees


@pytest.mark.parametrize(
    "file", sorted((paths.CONFIGS / "batches").glob("*.yaml")), ids=lambda file: file.stem
)
def test_the_examples_are_right(file):
    runs = batch_plan.load(file).runs
    values = [value for run in runs for given in run.given.values() for value in given.items()]
    assert runs and all(Path(value).is_file() for name, value in values if name in parameters.PATHS)


def test_the_page_of_choices_has_a_line_for_every_one_of_them():
    page = (paths.NOTEBOOKS / "choices.md").read_text(encoding="utf-8")
    runs = batch_plan.load(paths.CONFIGS / "batches" / "choices.yaml").runs
    names = {run.name.rpartition(",")[0] for run in runs}
    assert [name for name in names if f"\n| {name} |" not in page] == []


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"notebook": ["toy"]}, "不认识的字段 notebook（可用：notebooks"),
        ({"notebooks": []}, "notebooks 是空的"),
        ({"notebooks": ["08"]}, "笔记本 08 找不到"),
        ({"notebooks": ["../toy2"]}, "笔记本 ../toy2 找不到"),
        ({"notebooks": ["toy", "toy"]}, "toy 写了两次"),
        ({"parameters": {"sede": 1}}, "没有叫 sede 的参数.*seed"),
        ({"grid": {"seed": [1, "two"]}}, "运行 seed=two：参数 seed 的值 'two' 不对，应当是整数"),
        ({"grid": {"seed": []}}, "seed 一个值也没有"),
        ({"grid": {"seed": [1, 1]}}, "两次运行都叫 seed=1"),
        ({"grid": {"seed": [1]}, "parameters": {"seed": 2}}, "seed 既在 grid 里，又在别处"),
        ({"runs": [{"name": "a"}, {"name": "a"}]}, "两次运行都叫 a"),
        ({"runs": [{"name": "../a"}]}, "不能当文件夹名"),
        ({"runs": [{"name": "/etc"}]}, "不能当文件夹名"),
        ({"runs": [{"name": ".."}]}, "不能当文件夹名"),
        ({"grid": {"owner": ["a/b"]}}, "不能当文件夹名.*起个名字"),
        ({"parameters": {"output_dir": "/tmp"}}, "output_dir 由批次决定"),
        ({"minutes": 0}, "minutes 是 0.0，应当大于 0"),
        ({"memory_gb": float("nan")}, "memory_gb 是 nan"),
        ({"grid": {"seed": list(range(1001))}}, "一共 1001 次运行，最多 1000 次"),
        ({"text": "notebooks: [toy]\nnotebooks: [toy]"}, "“notebooks”写了两次"),
        ({"text": "- toy"}, "plan.yaml：应当是“字段: 值”"),
        ({"text": "notebooks: ["}, "plan.yaml"),
    ],
)
def test_what_is_wrong_is_refused(plan, keys, message):
    with pytest.raises(CourseError, match=message):
        plan(**keys)


def test_a_notebook_without_parameters_is_refused(plan):
    nbformat.write(new_notebook(cells=[]), plan.notebook)
    with pytest.raises(CourseError, match=r"toy\.ipynb 有 0 个带 parameters 标签的格子"):
        plan()
