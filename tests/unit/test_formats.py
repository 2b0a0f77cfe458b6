"""Conversions between the formats: nothing lost where both have a place, a clear word where not."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianji_helpers import formats, paths, records
from tianji_helpers.errors import CourseError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SYSTEM = TEXT.filter(bool)  # an empty one is none
TURN = st.fixed_dictionaries({"input": TEXT, "output": TEXT})
ONE_SYSTEM = st.tuples(st.lists(TURN, min_size=1, max_size=4), st.none() | SYSTEM).map(
    lambda pair: pair[0] if pair[1] is None else [{"system": pair[1], **pair[0][0]}, *pair[0][1:]]
)
ANY_SYSTEM = st.lists(
    st.fixed_dictionaries({"input": TEXT, "output": TEXT}, optional={"system": SYSTEM}), min_size=1
)


@given(ONE_SYSTEM, st.permutations(formats.FORMATS))
def test_all_four_hold_the_same_conversation(turns, order):
    said = turns
    for name in order:
        row = json.loads(json.dumps(formats.from_turns(said, name), ensure_ascii=False))
        assert formats.detect(row) == name
        left_out = Counter()
        said = formats.to_turns(row, name, left_out=left_out)
        assert said == turns and not left_out


@given(ANY_SYSTEM)
def test_system_prompts_in_mid_conversation_live_in_two_formats(turns):
    for name in ("xtuner", "openai"):
        assert formats.to_turns(formats.from_turns(turns, name), name) == turns
    if any("system" in turn for turn in turns[1:]):
        for name in ("alpaca", "sharegpt"):
            with pytest.raises(CourseError, match=r"x 第 3 条：第 \d+ 轮有自己的 system"):
                formats.from_turns(turns, name, "x 第 3 条")


@settings(max_examples=25)
@given(
    st.lists(ONE_SYSTEM, min_size=1, max_size=5),
    st.sampled_from(formats.FORMATS),
    st.sampled_from(formats.FORMATS),
)
def test_files_there_and_back(tmp_path_factory, rows, one, other):
    folder = tmp_path_factory.mktemp("formats")
    source, there, back = (folder / name for name in ("source.json", "there.json", "back.json"))
    formats.write_rows(source, [formats.from_turns(turns, one) for turns in rows])
    done = formats.convert_file(source, there, other)
    assert (done.source, done.rows, done.turns) == (one, len(rows), sum(map(len, rows)))
    assert not done.left_out and not done.joined
    formats.convert_file(there, back, one)
    assert back.read_bytes() == source.read_bytes()


KEYS = ["conversation", "messages", "conversations", "instruction", "input", "output", "system", "history"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*KEYS, "role", "content", "from", "value"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON.filter(lambda value: isinstance(value, dict)), st.sampled_from(formats.FORMATS))
def test_any_object_is_read_or_refused_with_its_row(row, name):
    try:
        turns = formats.to_turns(row, name, "x.json 第 7 条")
    except CourseError as error:
        assert "x.json 第 7 条" in str(error)
    else:
        assert all(isinstance(turn[key], str) for turn in turns for key in ("input", "output"))


def said(*roles, key="role", what="content"):
    return [{key: role, what: role} for role in roles]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": []}, ("一轮对话也没有",)),
        ({"messages": {}}, ("messages", "列表")),
        ({"messages": [3]}, ("第 1 句", "int")),
        ({"messages": said("assistant")}, ("第 1 句", "轮到", "assistant")),
        ({"messages": said("user", "user", "assistant")}, ("第 2 句", "轮到 assistant")),
        ({"messages": said("user", "assistant", "user")}, ("最后一句",)),
        ({"messages": said("user", "assistant", "system")}, ("最后一句",)),
        ({"messages": said("user", "tool", "assistant")}, ("第 2 句", "role", "'tool'")),
        ({"messages": [{"role": ["user"], "content": "x"}]}, ("第 1 句", "role")),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, ("第 1 句", "content")),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, ("content", "半个")),
        ({"messages": said("user", "assistant"), "tools": [{"type": "function"}]}, ("tools", "影响训练")),
        ({"messages": [*said("user"), {"role": "assistant", "content": "a", "weight": 0}]}, ("weight",)),
        ({"conversation": [{"input": "a"}]}, ("第 1 轮", "output")),
        ({"conversation": [{"input": "a", "output": "b", "output_with_loss": False}]}, ("output_with_loss",)),
        ({"conversation": [{"input": "a", "output": "b", "system": 3}]}, ("第 1 轮", "system")),
        ({"conversation": ["a"]}, ("第 1 轮", "str")),
        ({"conversations": said("gpt", key="from", what="value")}, ("第 1 句", "assistant")),
        ({"conversations": said("function_call", key="from", what="value")}, ("from", "function_call")),
        (
            {"system": "s", "conversations": said("system", "human", "gpt", key="from", what="value")},
            ("第 2 句", "system"),
        ),
        ({"instruction": "a", "output": 3}, ("output",)),
        ({"instruction": "a", "input": 3, "output": "b"}, ("input",)),
        ({"instruction": "a", "output": "b", "history": "ab"}, ("history", "列表")),
        ({"instruction": "a", "output": "b", "history": [["a"]]}, ("history 第 1 项",)),
        ({"instruction": "a", "output": "b", "chosen": "c"}, ("chosen",)),
        ({"text": "a"}, ("看不出是哪种格式", "text")),
        ({"messages": said("user", "assistant"), "\ud83d": 1}, ("名字", "半个")),
    ],
)
def test_what_no_format_can_hold_is_named(tmp_path, row, words):
    good = {"instruction": "a", "input": "", "output": "b"} if "instruction" in row else None
    source = tmp_path / "s.jsonl"
    source.write_text("\n".join(json.dumps(line) for line in (good, row) if line), encoding="utf-8")
    target = tmp_path / "t.json"
    target.write_text("old")
    with pytest.raises(CourseError) as caught:
        formats.convert_file(source, target, "xtuner")
    assert all(word in str(caught.value) for word in (*words, f"s.jsonl 第 {2 if good else 1} 行"))
    assert target.read_text() == "old" and len(list(tmp_path.iterdir())) == 2


def test_a_coig_cqia_file_is_alpaca_and_what_stays_behind_is_counted(tmp_path):
    sample = paths.DATA / "ruozhiba" / "sample.jsonl"
    done = formats.convert_file(sample, tmp_path / "x.json", "xtuner")
    assert (done.source, done.rows, done.joined) == ("alpaca", 24, 1)
    assert done.left_out["metadata"] == done.left_out["domain"] == 24
    assert "instruction" not in done.left_out
    made = records.read_json(records.provenance_path(tmp_path / "x.json"))
    assert made["counts"]["joined"] == 1 and made["parameters"] == {"from": "alpaca", "to": "xtuner"}


def test_both_places_of_a_sharegpt_system_prompt():
    talk = said("human", "gpt", key="from", what="value")
    inside = {"conversations": [{"from": "system", "value": "s"}, *talk]}
    assert formats.to_turns({"system": "s", "conversations": talk}, "sharegpt") == formats.to_turns(
        inside, "sharegpt"
    )


def test_fields_that_datasets_filled_with_nothing_do_no_harm():
    row = {
        "conversation": [{"system": None, "input": "a", "output": "b", "output_with_loss": None}],
        "tools": None,
    }
    left_out = Counter()
    assert formats.to_turns(row, "xtuner", left_out=left_out) == [{"input": "a", "output": "b"}]
    assert not left_out


@pytest.mark.parametrize(("to", "from_"), [("parquet", ""), ("xtuner", "csv")])
def test_an_unknown_format(tmp_path, to, from_):
    with pytest.raises(CourseError, match=r"没有叫 (parquet|csv) 的格式。可选：xtuner、openai"):
        formats.convert_file(tmp_path / "a", tmp_path / "b", to, from_)


def test_an_empty_file(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(CourseError, match="没有一条"):
        formats.convert_file(tmp_path / "a.json", tmp_path / "b.json", "openai")
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("name", formats.FORMATS)
def test_datasets_reads_what_is_written_and_nothing_changes(tmp_path, name):
    from datasets import load_dataset

    one = {"input": "你好", "output": "第一行\n第二行\u2028“引号”"}
    talks = [[one], [{"system": "设定", **one}, one, one], [one, one]]
    path = tmp_path / "rows.json"
    formats.write_rows(path, [formats.from_turns(turns, name) for turns in talks])
    rows = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert [formats.to_turns(row, name) for row in rows] == talks
