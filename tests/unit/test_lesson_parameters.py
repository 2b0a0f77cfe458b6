"""What papermill or a student leaves in a lesson's parameters is looked at before the lesson begins."""

import json
import subprocess
import sys

import nbformat
import pytest

from tianji_helpers import parameters, paths
from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom.course import find_notebooks


def known(lesson):
    (file,) = (file for file in find_notebooks() if file.stem.startswith(lesson))

    return parameters.defaults(nbformat.read(file, as_version=4), file.name)


@pytest.mark.parametrize("lesson", ["01", "02", "03", "04", "05", "06", "07"])
def test_the_defaults_are_as_they_should_be(lesson):
    assert parameters.checked(lesson, known(lesson) | {"unrelated": object()}) == known(lesson)


@pytest.mark.parametrize(
    ("lesson", "name", "given", "expected"),
    [
        ("05", "lr", "2e-4", 2e-4),
        ("05", "lora_r", "8", 8),
        ("04", "train_ratio", 1, 1.0),
        ("04", "shuffle", "true", True),
    ],
)
def test_text_that_yaml_made_of_a_number_becomes_one(lesson, name, given, expected):
    found = parameters.checked(lesson, known(lesson) | {name: given})[name]
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("lesson", "name", "value", "words"),
    [
        ("05", "lr", "fast", "lr.*'fast'.*1e-4"),
        ("05", "lr", [1], "lr.*小数"),
        ("05", "max_rows", "ten", "max_rows.*整数"),
        ("05", "max_rows", 1.5, "max_rows.*1.5"),
        ("01", "styles", "正常", "styles.*列表"),
        ("02", "data", 3, "data.*文字"),
        ("04", "shuffle", 1, "shuffle.*true"),
        ("06", "chat_temperature", float("nan"), "chat_temperature"),
        ("05", "lr", 10**400, "lr.*小数"),
        ("05", "seed", -1, "seed.*0 到 4294967295"),
        ("01", "prompt_seed", 2**32, "prompt_seed.*0 到 4294967295"),
        ("02", "rules_off", [1], "rules_off.*列表"),
        ("02", "rules_off", [["slots"]], "rules_off.*列表"),
        ("01", "styles", ["\ud83d"], "styles.*列表"),
        ("02", "data", "a\0b", "data.*文字"),
        ("03", "output_dir", "\ud83d", "output_dir.*文字"),
    ],
)
def test_what_is_of_another_kind_is_named(lesson, name, value, words):
    with pytest.raises(CourseError, match=words):
        parameters.checked(lesson, known(lesson) | {name: value})


@pytest.mark.parametrize("name", ["file", "x" * 300])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, name):
    (tmp_path / "file").write_text("private")
    with pytest.raises(CourseError, match=r"output_dir 的值 .*建不了文件夹"):
        parameters.checked("03", known("03") | {"output_dir": str(tmp_path / name)})


def test_an_address_is_no_folder(monkeypatch):
    with pytest.raises(CourseError, match=r"参数 output_dir 的值 's3://x' 不对.*是网址"):
        parameters.checked("03", known("03") | {"output_dir": "s3://x"})
    monkeypatch.setenv("TIANJI_OUTPUT_DIR", "s3://x")
    with pytest.raises(CourseError, match=r"环境变量 TIANJI_OUTPUT_DIR 's3://x' 是网址"):
        parameters.checked("03", known("03"))
    assert not (paths.ROOT / "s3:").exists()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("train_ratio", -1.0, "训练集比例是 -1.0"), ("validation_ratio", 1.0, "验证集比例是 1.0")],
)
def test_lesson_4_names_a_share_that_is_none_before_it_begins(tmp_path, name, value, words):
    (file,) = paths.NOTEBOOKS.glob("04_*.ipynb")
    given, look = [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"][:2]
    namespace = {}
    exec(given.source, namespace)
    namespace |= {"output_dir": str(tmp_path), name: value}
    with pytest.raises(CourseError, match=words):
        exec(look.source, namespace)


@pytest.mark.slow
def test_papermill_shows_it_in_the_first_cell(tmp_path):
    (tmp_path / "given.yaml").write_text("train_ratio: much\n", encoding="utf-8")
    (file,) = paths.NOTEBOOKS.glob("04_*.ipynb")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "papermill",
            file,
            tmp_path / "out.ipynb",
            "-f",
            tmp_path / "given.yaml",
            "-k",
            "python3",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "train_ratio 的值 'much' 不对" in done.stderr
    cells = json.loads((tmp_path / "out.ipynb").read_text(encoding="utf-8"))["cells"]
    assert sum(1 for cell in cells if cell.get("execution_count")) == 3
