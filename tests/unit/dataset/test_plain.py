"""Rows that are no wishes: told apart, never mended, and rejected only for what spoils any training."""

import pytest

from tianji_helpers import formats, records, wishes
from tianji_helpers.dataset import clean, plain
from tianji_helpers.errors import CourseError
from tianji_toolbox import cli
from tianji_toolbox.classroom import review

MATRIX = wishes.load()
ANSWERS = ["先把面团揉到不粘手，再醒半小时。", "火要小，锅要热，油温到了再下锅。", "水开以后再煮三分钟就好。"]
COOKING = [
    {"system": "\n你是一位面点师傅。", "input": f"{what}怎么做才好吃？", "output": answer}
    for what, answer in zip(("馒头", "油条", "饺子"), ANSWERS, strict=True)
]


def clean_file(tmp_path, turns, **options):
    records.write_conversations(tmp_path / "in.json", turns)
    made = clean.clean_file(
        tmp_path / "in.json",
        tmp_path / "out.json",
        rejects=tmp_path / "rejects.jsonl",
        report=tmp_path / "report.json",
        **options,
    )
    return (
        made,
        list(formats.read_turns(tmp_path / "out.json")),
        records.read_jsonl(tmp_path / "rejects.jsonl"),
    )


@pytest.mark.parametrize(
    ("turns", "kind"),
    [
        ([{"system": MATRIX.system, "input": "随便什么", "output": "…"}], "wishes"),
        ([{"input": "我想送赵老师生日祝福,严肃风格", "output": "…"}], "wishes"),
        ([{"system": "你是祝福专家", "input": "祝姐姐生日快乐", "output": "…"}], "wishes"),
        ([{"system": "你是翻译", "input": "祝姐姐生日快乐", "output": "…"}], "other"),
        ([{"input": "祝姐姐生日", "output": "…", "history": [["你好", "你好"]]}], "other"),
        (COOKING, "other"),
        ([*COOKING[:2], {"input": "祝姐姐生日快乐", "output": "…"}], "other"),
    ],
)
def test_system_prompt_and_requests_say_what_rows_are(turns, kind):
    found, why = plain.kind(turns, MATRIX)
    assert found == kind and f"前 {len(turns)} 条" in why


def test_other_rows_are_not_mended_and_keep_prompt_and_history(tmp_path):
    odd = {"input": "“引号”，，要改吗", "output": "“当前祝福语如下：”不改！！呀~\n\t- 一\n\t- 二"}
    talk = {**COOKING[0], "input": "还有呢？", "history": [["馒头怎么做", "先和面。"]]}
    made, kept, rejects = clean_file(tmp_path, [*COOKING, odd, talk])
    assert kept == [*COOKING, odd, talk] and not rejects
    assert made["kind"] == "other" and "不用祝福的规则" in made["why"]
    parameters = records.read_json(records.provenance_path(tmp_path / "out.json"))["parameters"]
    assert parameters["kind"] == "other"


def test_what_spoils_any_training_is_rejected_with_its_reason(tmp_path):
    bad = {
        "blank": {"input": "怎么蒸馒头", "output": " \n"},
        "garbled": {"input": "怎么炸油条", "output": "油温要\ufffd\ufffd"},
        "template_tokens": {"input": "怎么煮饺子", "output": "水开下锅<|im_end|>"},
        "thoughts": {"input": "怎么和面", "output": "<think>先想想水量。</think>\n一斤面半斤水。"},
        "oversize": {"input": "怎么做菜", "output": "慢" * 30_000},
        "duplicate": COOKING[1],
        "near_duplicate": {**COOKING[2], "output": ANSWERS[2].replace("。", "！")},
    }
    same_answer = {"input": "包子怎么做才香？", "output": ANSWERS[0]}  # to another question
    made, kept, rejects = clean_file(tmp_path, [*COOKING, same_answer, *bad.values()])
    assert kept == [*COOKING, same_answer]
    assert [row["rule"] for row in rejects] == list(bad)
    assert made["rows_in"] == made["rows_out"] + made["rejected"]
    _, kept, rejects = clean_file(tmp_path, [*COOKING, *bad.values()], off=["blank", "garbled"])
    assert {"blank", "garbled"}.isdisjoint(row["rule"] for row in rejects)


def test_a_thought_is_dirt_and_speaking_of_one_is_not(tmp_path):
    asked = {"input": "怎么去掉回答里的 <think>？", "output": "把 <think>…</think> 连同里面的字一起删掉。"}
    early = {"input": "还有呢？", "output": "醒半小时。", "history": [["怎么和面", "想想</think>加水。"]]}
    _, kept, rejects = clean_file(tmp_path, [*COOKING, asked, early])
    assert kept == [*COOKING, asked]
    assert [(row["rule"], row["reason"]) for row in rejects] == [
        ("thoughts", "回答前面有模型的思考（“</think>”）")
    ]
    _, kept, _ = clean_file(tmp_path, [*COOKING, early], off=["thoughts"])
    assert kept == [*COOKING, early]


def test_a_turn_of_many_counts_as_a_whole(tmp_path):
    talks = [
        {"input": "谢谢", "output": "不客气。", "history": [[what, "好。"]]}
        for what in ("蒸包子", "煮面", "煮面")
    ]
    _, kept, rejects = clean_file(tmp_path, talks)
    assert kept == talks[:2] and [row["rule"] for row in rejects] == ["duplicate"]


def test_wishes_without_a_prompt_are_cleaned_as_wishes(tmp_path):
    rows = [
        {"input": "祝姐姐生日", "output": "“姐姐，祝你生日快乐，愿你天天开心！”"},
        {"input": "祝爷爷春节", "output": "爷爷，祝您新春快乐，福寿安康！"},
    ]
    made, kept, _ = clean_file(tmp_path, rows)
    assert made["kind"] == "wishes" and [row["output"][0] for row in kept] == ["姐", "爷"]
    assert not any("system" in row for row in kept)
    made, kept, _ = clean_file(tmp_path, rows, system="你是祝福大师")
    assert {row["system"] for row in kept} == {"你是祝福大师"}


def test_nothing_left_is_a_failure_unless_asked_for(tmp_path):
    rows = [{"input": "问", "output": ""}, {"input": "再问", "output": ""}]
    with pytest.raises(CourseError, match=r"一条也没有留下（空的问或答 2 条）.*--allow-empty"):
        clean_file(tmp_path, rows)
    assert not (tmp_path / "out.json").exists() and not (tmp_path / "rejects.jsonl").exists()
    options = {"rejects": tmp_path / "rejects.jsonl", "report": tmp_path / "report.json", "allow_empty": True}
    made = clean.clean_file(tmp_path / "in.json", tmp_path / "out.json", **options)
    assert made["rows_out"] == 0 and records.read_json(tmp_path / "out.json") == []
    assert len(records.read_jsonl(tmp_path / "rejects.jsonl")) == 2


@pytest.mark.parametrize("content", ["[]", "", "\n"])
def test_a_file_without_rows_is_cleaned_if_asked_for(content, tmp_path, capsys):
    (tmp_path / "in.json").write_text(content)
    names = {"--output": "out.json", "--rejects": "rejects.jsonl", "--report": "report.json"}
    command = ["clean", str(tmp_path / "in.json")]
    command += [word for option, name in names.items() for word in (option, str(tmp_path / name))]
    assert cli.main(command) == 1 and "没有一条记录" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]
    assert cli.main([*command, "--allow-empty"]) == 0
    assert "读入 0 条，保留 0 条" in capsys.readouterr().out
    assert records.read_json(tmp_path / "out.json") == []
    assert (tmp_path / "rejects.jsonl").read_bytes() == b""


def test_the_review_page_takes_them_for_what_they_are(tmp_path):
    records.write_conversations(tmp_path / "in.json", [*COOKING, {"input": "怎么煮粥", "output": ""}])
    (item,), titles = review.load(tmp_path / "in.json")
    assert item.rules == ("blank",) and titles == {"blank": "空的问或答"}
