"""The persona's data: rich, distinct, filled in, and honest about bad parameters."""

from collections import Counter

import pytest
import yaml

from tianji_helpers import records
from tianji_helpers.dataset import self_cognition
from tianji_helpers.errors import CourseError

PERSONA = self_cognition.Persona("小明", "小祝", "Gemma 3 270M")
KINDS = self_cognition.load()


def test_enough_distinct_questions():
    train, heldout = self_cognition.build(PERSONA, wordings=1)
    questions = [turn["input"] for turn in train]
    assert len(KINDS) == 8
    assert len(set(questions)) == len(questions) >= 80
    held = {turn["input"] for turn in heldout}
    assert len(held) == len(heldout) >= 2 * len(KINDS)
    assert not held & set(questions)


def test_every_answer_names_the_persona_and_nothing_is_left_unfilled():
    train, heldout = self_cognition.build(PERSONA, wordings=9)
    assert self_cognition.knows_itself(PERSONA, [turn["output"] for turn in train + heldout]) == 1
    text = "".join(turn["input"] + turn["output"] for turn in train + heldout)
    assert "{" not in text and "}" not in text


def test_several_wordings_each():
    assert all(len(kind.answers) >= 3 for kind in KINDS.values())
    train, _ = self_cognition.build(PERSONA, wordings=2)
    per_question = Counter(turn["input"] for turn in train)
    assert set(per_question.values()) == {2}
    assert len({(turn["input"], turn["output"]) for turn in train}) == len(train)


def test_repeat_writes_the_same_set_again():
    once, _ = self_cognition.build(PERSONA, wordings=1)
    thrice, heldout = self_cognition.build(PERSONA, wordings=1, repeat=3)
    assert thrice == once * 3
    assert len(heldout) == sum(len(kind.heldout) for kind in KINDS.values())


def test_seeded():
    assert self_cognition.build(PERSONA, seed=1) == self_cognition.build(PERSONA, seed=1)
    assert self_cognition.build(PERSONA, seed=1) != self_cognition.build(PERSONA, seed=2)


@pytest.mark.parametrize("field", ["owner", "assistant", "model"])
@pytest.mark.parametrize(
    "value", ["", "  ", "名" * 41, "小\n明", "小\u2028明", "a<|im_end|>", None, 3, "\ud83d"]
)
def test_bad_persona_names_the_field(field, value):
    values = {"owner": "小明", "assistant": "小祝", "model": "Gemma"} | {field: value}
    with pytest.raises(CourseError, match=field):
        self_cognition.Persona(**values)


def test_braces_in_a_name_are_only_text():
    assert self_cognition.Persona("{小明}", "a", "b").fill("我是{owner}的助手") == "我是{小明}的助手"


@pytest.mark.parametrize("options", [{"wordings": 0}, {"repeat": 0}, {"repeat": 10_001}, {"repeat": 1.5}])
def test_bad_numbers(options):
    with pytest.raises(CourseError, match=str(next(iter(options.values())))):
        self_cognition.build(PERSONA, **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"questions": []}, "questions"),
        ({"answers": None}, "answers"),
        ({"title": 3}, "title"),
        ({"heldout": ["你是谁"]}, "两次"),
        ({"answers": ["我是{name}"]}, "占位符"),
        ({"answers": ["我是{owner"]}, "占位符"),
        ({"questions": [42]}, "42"),
    ],
)
def test_bad_question_file(tmp_path, change, words):
    entry = {"title": "t", "questions": ["你是谁"], "heldout": ["您是"], "answers": ["我是{owner}"]} | change
    path = tmp_path / "q.yaml"
    path.write_text(yaml.safe_dump({"who": entry}, allow_unicode=True), encoding="utf-8")
    with pytest.raises(CourseError, match=words) as caught:
        self_cognition.load(path)
    assert "q.yaml" in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "a: [", "a: 1"])
def test_broken_question_file(tmp_path, content):
    path = tmp_path / "q.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CourseError, match=r"q\.yaml"):
        self_cognition.load(path)


def test_files(tmp_path):
    counts = self_cognition.write(tmp_path, PERSONA, repeat=2)
    train = records.read_conversations(tmp_path / "self_cognition.json")
    assert len(train) == counts["train"]
    assert all(set(turn) == {"input", "output"} for turn in train)
    assert len(records.read_conversations(tmp_path / "self_cognition_heldout.json")) == counts["heldout"]
    provenance = records.read_json(records.provenance_path(tmp_path / "self_cognition.json"))
    assert provenance["parameters"]["owner"] == "小明"
