"""Rows with pictures: the checker names the row and the fault."""

import json

import pytest

from tianji_helpers import records
from tianji_helpers.errors import CourseError
from tianji_helpers.seeing import cards, rows
from tianji_toolbox import cli

GOOD = rows.row("1", "card.png", "这是什么？", "生日")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    cards.draw("生日").save(tmp_path / "images" / "card.png")
    (tmp_path / "images" / "fake.png").write_text("a text")
    cards.draw("春节").save(tmp_path / "outside.png")
    return tmp_path


def said(*values):
    return [{"from": ("human", "gpt")[place % 2], "value": value} for place, value in enumerate(values)]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"image": "none.png"}, "找不到图片 none.png"),
        ({"image": "fake.png"}, "fake.png 不是图片"),
        ({"image": "../outside.png"}, "不在图片文件夹里"),
        ({"image": "/etc/hostname"}, "不在图片文件夹里"),
        ({"image": "a\0b.png"}, "不在图片文件夹里"),
        ({"image": None}, "没有 image"),
        ({"conversations": said("这是什么？", "生日")}, "<image> 有 0 个"),
        ({"conversations": said("<image>\n<image>\n哪个？", "生日")}, "<image> 有 2 个"),
        (
            {"conversations": said("你好", "好", "<image>\n这是什么？", "生日")},
            "<image> 有 1 个，应当只在第一个问题里",
        ),
        ({"conversations": said("<image>\n这是什么？")}, "一问一答"),
        (
            {"conversations": [{"from": "gpt", "value": "<image>"}, {"from": "gpt", "value": "好"}]},
            "第 1 句应当是 human",
        ),
        ({"conversation": [], "conversations": None}, "一问一答"),
    ],
)
def test_the_checker_names_the_row_and_the_fault(change, fault, folder, capsys):
    file = folder / "rows.json"
    records.write_json(file, [GOOD, GOOD | change])
    with pytest.raises(CourseError, match="第 2 条：.*" + fault):
        rows.check(file, folder / "images")
    assert cli.main(["check-images", str(file), str(folder / "images")]) == 1
    assert "第 2 条" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"image": None}, "没有 image"),
        ({"conversations": None}, "一问一答"),
        ({"conversations": said("<image>\n这是什么？")}, "一问一答"),
        ({"conversations": said("<image>\n这是什么？", "\ud83d")}, "只有半个"),
        ({"conversations": said("这是什么？", "生日")}, "<image> 有 0 个"),
    ],
)
def test_a_training_names_the_row_and_the_fault_too(change, fault, folder):
    file = folder / "rows.json"
    file.write_text(json.dumps([GOOD, GOOD | change]), encoding="utf-8")
    with pytest.raises(CourseError, match=f"rows.json 第 2 条：.*{fault}"):
        rows.load_llava({"train": file})


def test_a_file_without_rows_is_no_success(folder, capsys):
    records.write_json(folder / "rows.json", [])
    assert cli.main(["check-images", str(folder / "rows.json"), str(folder / "images")]) == 1
    assert "rows.json 里一条数据也没有" in capsys.readouterr().err


def test_good_rows_pass(folder, capsys):
    records.write_json(folder / "rows.json", [GOOD, GOOD])
    assert rows.check(folder / "rows.json", folder / "images") == [GOOD, GOOD]
    assert cli.main(["check-images", str(folder / "rows.json"), str(folder / "images")]) == 0
    assert "2 条，1 张图片" in capsys.readouterr().out
