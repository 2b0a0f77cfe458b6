"""A later notebook finds what it needs, made once."""

import inspect
import json

import nbformat
import pytest
from phrasebook import Phrasebook

from tianji_helpers import formats, paths, records, wishes
from tianji_helpers.dataset import decisions, rebuild, ruozhiba, self_cognition, splits
from tianji_helpers.errors import CourseError
from tianji_helpers.parameters import defaults


def test_wishes_are_made_once_from_the_rounds(tmp_path):
    rounds = [paths.stage_dir("01", tmp_path)]
    with pytest.raises(CourseError, match="第 1 课"):
        rebuild.ensure_wishes(rounds, tmp_path)
    matrix = wishes.load()
    book = Phrasebook(matrix)
    rows = []
    for recipient, scene in matrix.pairs():
        turn = dict.fromkeys(records.RAW_FIELDS, "")
        turn |= {"system": matrix.system, "input": matrix.request(recipient, scene, "正常")}
        rows.append({"conversation": [turn | {"output": book.compose(recipient, scene, "正常")}]})
    file = rounds[0] / "wishes_正常_2026-01-01-00-00-00.json"
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")

    assert rebuild.ensure_wishes(rounds, tmp_path)
    out = paths.stage_dir("02", tmp_path)
    whole, *parts = (
        len(records.read_conversations(out / f"wishes{part}.json"))
        for part in ("", "_train", "_validation", "_test")
    )
    assert whole == sum(parts) > 300 and min(parts) > 15
    assert not rebuild.ensure_wishes(rounds, tmp_path)

    first = records.read_conversations(out / "merged.json")[0]
    decisions.append(out / decisions.FILE, decisions.key_of(first), "reject")
    (out / "wishes.json").unlink()
    assert rebuild.ensure_wishes(rounds, tmp_path)
    assert {"row": 1, "rule": "human"}.items() <= records.read_jsonl(out / "rejects.jsonl")[0].items()


def test_the_other_two(tmp_path):
    assert rebuild.ensure_self_cognition(tmp_path)
    assert not rebuild.ensure_self_cognition(tmp_path)
    for part in ("validation", "test"):
        assert records.read_conversations(paths.stage_dir("03", tmp_path) / f"self_cognition_{part}.json")
    assert rebuild.ensure_ruozhiba(tmp_path)
    assert not rebuild.ensure_ruozhiba(tmp_path)
    sizes = [
        len(records.read_jsonl(paths.stage_dir("04", tmp_path) / f"ruozhiba_{part}.jsonl"))
        for part in splits.PARTS
    ]
    assert sizes == [16, 2, 5]  # the sixth question of the test stands in the training part
    (apart,) = records.read_jsonl(paths.stage_dir("04", tmp_path) / "ruozhiba_test_leaked.jsonl")
    assert apart["train_row"] == 8 and "洗衣机" in str(apart["row"])


def own_file(path, system="", rows=40):
    """Questions about dishes, as a table; every fourth row is one that cleaning takes away."""
    dishes, ways = ("馒头", "油条", "饺子", "汤圆", "烧饼"), ("蒸", "炸", "煮", "烤", "煎", "烙", "炖", "焖")
    lines = ["question,answer,system"]
    for number in range(rows):
        dish, way = dishes[number % 5], ways[number // 5 % 8]
        answer = "" if number % 4 == 3 else f"{dish}要先备料，{way}的时候火候要稳，第{number}步收尾。"
        lines.append(f"{dish}能{way}吗？分{number}步说,{answer},{system}")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_own_rows_are_cleaned_and_split_once_and_again_when_they_change(tmp_path):
    lines = []
    data = own_file(tmp_path / "菜.csv", "你是一名厨师")
    assert rebuild.ensure_own(data, tmp_path / "run", report=lines.append)
    assert "菜.csv：表格，40 条（0 条有几轮），系统提示都一样" in lines[0] and "不用祝福的规则" in lines[0]
    assert "留下 30 条" in lines[1] and "弃用 10 条" in lines[1]
    out = rebuild.wishes_dir(tmp_path / "run", data)
    parts = [list(formats.read_turns(out / f"own_{part}.json")) for part in splits.PARTS]
    assert sum(map(len, parts)) == 30 and all(parts)
    assert {turn["system"] for part in parts for turn in part} == {"你是一名厨师"}
    assert not rebuild.ensure_own(data, tmp_path / "run")

    own_file(data, rows=36)
    assert rebuild.ensure_own(data, tmp_path / "run", report=lines.append)
    assert "36 条" in lines[2] and "没有系统提示" in lines[2]
    assert not any("system" in turn for turn in formats.read_turns(out / "own.json"))
    assert not (
        paths.stage_dir("02", tmp_path / "run") / "wishes.json"
    ).exists()  # the course's own lie apart


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", ("字段是 a、b", "input,output")),
        ("input,output\n问,\n", ("一条也没有留下", "空的问或答 1 条")),
        ("input,output\n问,答\n", ("分不成", "多准备")),
    ],
)
def test_own_rows_that_cannot_be_used_are_named_before_anything_is_trained(tmp_path, text, words):
    (tmp_path / "own.csv").write_text(text, encoding="utf-8")
    with pytest.raises(CourseError) as caught:
        rebuild.ensure_own(tmp_path / "own.csv", tmp_path / "run", report=lambda line: None)
    assert all(word in str(caught.value) for word in words)


def test_files_from_before_there_was_a_validation_part_are_made_again(tmp_path):
    rebuild.ensure_self_cognition(tmp_path)
    folder = paths.stage_dir("03", tmp_path)
    (folder / "self_cognition_validation.json").rename(folder / "self_cognition_heldout.json")
    assert rebuild.ensure_self_cognition(tmp_path)
    assert (folder / "self_cognition_validation.json").is_file()


def test_defaults_are_those_of_the_notebooks():
    def parameters(name):
        return defaults(nbformat.read(paths.NOTEBOOKS / name, as_version=4), name)

    wishes_lesson = parameters("02_merge_clean.ipynb")
    assert wishes_lesson["threshold"] == rebuild.THRESHOLD
    assert wishes_lesson["validation_share"] == splits.VALIDATION_SHARE
    assert wishes_lesson["test_share"] == splits.TEST_SHARE
    assert wishes_lesson["rules_off"] == []
    assert wishes_lesson["teacher"] == "small"
    persona_lesson = parameters("03_make_self_cognition.ipynb")
    names = [persona_lesson[name] for name in ("owner", "assistant", "model_name")]
    assert self_cognition.Persona(*names) == rebuild.DEFAULT_PERSONA
    build = inspect.signature(self_cognition.write).parameters
    assert all(
        persona_lesson[name] == build[name].default
        for name in ("max_questions", "wordings", "general_ratio", "repeat", "seed")
    )
    ruozhiba_lesson = parameters("04_convert_ruozhiba.ipynb")
    convert = inspect.signature(ruozhiba.convert_file).parameters
    assert ruozhiba_lesson["train_ratio"] == convert["ratio"].default
    assert ruozhiba_lesson["validation_ratio"] == convert["validation"].default
    assert not ruozhiba_lesson["shuffle"]
