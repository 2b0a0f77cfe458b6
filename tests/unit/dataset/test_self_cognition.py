"""The persona's data: rich, distinct, filled in, and honest about bad parameters."""

import itertools
from collections import Counter

import pytest
import yaml

from tianji_helpers import records
from tianji_helpers.dataset import self_cognition, splits
from tianji_helpers.errors import CourseError

PERSONA = self_cognition.Persona("小明", "小祝", "Gemma 3 270M")
KINDS = self_cognition.load()


def test_enough_distinct_questions():
    parts = self_cognition.build(PERSONA, wordings=1, general_ratio=0)
    questions = {part: [turn["input"] for turn in turns] for part, turns in parts.items()}
    assert len(KINDS) == 8
    assert len(questions["train"]) >= 80 and len(questions["test"]) >= 2 * len(KINDS)
    assert len(questions["validation"]) >= len(KINDS)
    everything = list(itertools.chain(*questions.values()))
    assert len(set(everything)) == len(everything)
    for one, other in itertools.combinations(questions.values(), 2):
        assert not splits.leakage(one, other)


def test_every_answer_names_the_persona_and_nothing_is_left_unfilled():
    turns = list(itertools.chain(*self_cognition.build(PERSONA, wordings=9, general_ratio=0).values()))
    assert self_cognition.knows_itself(PERSONA, [turn["output"] for turn in turns]) == 1
    text = "".join(turn["input"] + turn["output"] for turn in turns)
    assert "{" not in text and "}" not in text


def test_several_wordings_each():
    assert all(len(kind.answers) >= 3 for kind in KINDS.values())
    train = self_cognition.build(PERSONA, wordings=2, general_ratio=0)["train"]
    per_question = Counter(turn["input"] for turn in train)
    assert set(per_question.values()) == {2}
    assert len({(turn["input"], turn["output"]) for turn in train}) == len(train)


def test_repeat_writes_the_same_set_again():
    once = self_cognition.build(PERSONA, wordings=1)
    thrice = self_cognition.build(PERSONA, wordings=1, repeat=3)
    assert thrice == once | {"train": once["train"] * 3}
    assert len(thrice["test"]) == sum(len(kind.test) for kind in KINDS.values())


def test_few_questions_many_times_are_asked_the_same_exam():
    recipe = {"wordings": 1, "general_ratio": 0}
    few = self_cognition.build(PERSONA, max_questions=2, repeat=40, **recipe)
    copied = few.pop("train")
    everything = self_cognition.build(PERSONA, **recipe)
    assert len(copied) == 80 and {turn["input"] for turn in copied} == set(KINDS["who"].questions[:2])
    assert all(turn in everything["train"] for turn in copied) and few.items() <= everything.items()


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


@pytest.mark.parametrize(
    "token",
    [
        "<|im_end|>",
        "<end_of_turn>",
        "<start_of_turn>",
        "</s>",
        "<bos>",
        "<pad>",
        "<0x0A>",
        "[INST]",
        "[/INST]",
        "<<SYS>>",
        "[UNUSED_TOKEN_145]",
        "[gMASK]",
        "<think>",
        "<｜end▁of▁sentence｜>",
        "{{NAME}}",
        "{% if",
    ],
)
def test_tokens_of_any_template_are_refused(token):
    with pytest.raises(CourseError, match="对话模板的记号"):
        self_cognition.Persona(f"小明{token}", "小祝", "Gemma")


@pytest.mark.parametrize(
    "name", ["👨‍👩‍👧‍👦小家", "❤️", "🏳️‍🌈", "🇨🇳小明", "小明[VIP]", "a < b", "小明（1班）", "{小明}"]
)
def test_names_that_people_have_are_taken(name):
    assert self_cognition.Persona(name, "小祝", "Gemma").owner == name


@pytest.mark.parametrize(
    "name", ["小\u200d明", "小\u202e明", "小\u200b明", "小\u3000明", "小\n明", "小\ud83d"]
)
def test_invisible_characters_are_still_refused(name):
    with pytest.raises(CourseError, match="换行或控制字符"):
        self_cognition.Persona(name, "小祝", "Gemma")


@pytest.mark.parametrize("placeholder", ["{owner}", "{assistant}", "{model}"])
@pytest.mark.parametrize("field", ["owner", "assistant", "model"])
def test_a_placeholder_that_nobody_filled_is_no_name(field, placeholder):
    values = {"owner": "小明", "assistant": "小祝", "model": "Gemma"} | {field: f"小{placeholder}"}
    with pytest.raises(CourseError, match=rf"{field}.*没填的占位符 \{placeholder}"):
        self_cognition.Persona(**values)


def test_braces_in_a_name_are_only_text():
    assert self_cognition.Persona("{", "{0}", "{x!r}").fill("{owner}{assistant}{model}") == "{{0}{x!r}"
    assert self_cognition.Persona("{小明}", "a", "b").fill("我是{owner}的助手") == "我是{小明}的助手"


@pytest.mark.parametrize(
    "options",
    [
        {"max_questions": -1},
        {"wordings": 0},
        {"repeat": 0},
        {"repeat": 10_001},
        {"repeat": 1.5},
        {"general_ratio": -0.1},
        {"general_ratio": 10.5},
        {"general_ratio": float("nan")},
    ],
)
def test_bad_numbers(options):
    with pytest.raises(CourseError, match=str(next(iter(options.values())))):
        self_cognition.build(PERSONA, **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"questions": []}, "questions"),
        ({"answers": None}, "answers"),
        ({"title": 3}, "title"),
        ({"validation": ["你是谁"]}, "两次"),
        ({"test": ["你是哪个"]}, "两次"),
        ({"answers": ["我是{name}"]}, "占位符"),
        ({"answers": ["我是{owner"]}, "占位符"),
        ({"questions": [42]}, "42"),
    ],
)
def test_bad_question_file(tmp_path, change, words):
    entry = {"title": "t", "questions": ["你是谁"], "validation": ["你是哪个"], "test": ["您是"]}
    entry |= {"answers": ["我是{owner}"]} | change
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


GENERAL, PROBE = self_cognition.load_general()


def test_general_questions_are_about_nothing_of_the_persona():
    questions = [turn["input"] for turn in GENERAL + PROBE]
    persona = {PERSONA.fill(question) for kind in KINDS.values() for question in kind.all_questions}
    assert len(GENERAL) >= 40 and len(PROBE) >= 20
    assert len(set(questions)) == len(questions) and not set(questions) & persona
    assert not splits.leakage([turn["input"] for turn in GENERAL], [turn["input"] for turn in PROBE], 0.6)
    text = "".join(turn["input"] + turn["output"] for turn in GENERAL + PROBE)
    assert "我是" not in text and "{" not in text


@pytest.mark.parametrize("ratio", [0, 0.25, 1, 3])
def test_the_mixing_ratio_is_kept_and_every_general_row_comes_before_any_comes_again(ratio):
    train, *others = self_cognition.build(PERSONA, general_ratio=ratio).values()
    mixed = Counter(turn["input"] for turn in train if turn in GENERAL)
    assert mixed.total() == round(ratio * (len(train) - mixed.total()))
    if mixed:
        assert max(mixed.values()) - min(mixed.get(turn["input"], 0) for turn in GENERAL) <= 1
        first = [turn in GENERAL for turn in train[: len(train) // 2]]
        assert 0 < sum(first) < len(first)  # shuffled among the others
    assert others == list(self_cognition.build(PERSONA, general_ratio=0).values())[1:]


def test_no_general_rows_to_mix_in():
    with pytest.raises(CourseError, match="比例设成 0"):
        self_cognition.build(PERSONA, general=[])


def test_leak_counts_the_answers_that_name_the_persona():
    answers = ["杜甫是诗人。", "我是小祝，杜甫是诗人。", "小明教我的：杜甫是诗人。", "我是小助手。"]
    assert self_cognition.leak(PERSONA, answers) == 0.5
    assert self_cognition.leak(PERSONA, [turn["output"] for turn in PROBE]) == 0
    with pytest.raises(CourseError, match="没有一个回答"):
        self_cognition.leak(PERSONA, [])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "train"),
        ("train: [[a, b]]", "probe"),
        ("train: [[a, b], [c]]\nprobe: [[d, e]]", "train 第 2 项"),
        ("train: [[a, b]]\nprobe: [[a, c]]", "两次"),
        ("train: [[a, 3]]\nprobe: [[b, c]]", "train 第 1 项 第 2 项"),
        ('train: [[a, " "]]\nprobe: [[b, c]]', "train 第 1 项 第 2 项"),
        ("train: [", "YAML"),
    ],
)
def test_bad_general_file(tmp_path, content, words):
    path = tmp_path / "g.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CourseError, match=words) as caught:
        self_cognition.load_general(path)
    assert "g.yaml" in str(caught.value)


def test_files(tmp_path):
    counts = self_cognition.write(tmp_path / "self_cognition.json", PERSONA, repeat=2)
    train = records.read_conversations(tmp_path / "self_cognition.json")
    assert len(train) == counts["train"]
    assert all(set(turn) == {"input", "output"} for turn in train)
    for part in ("validation", "test"):
        assert len(records.read_conversations(tmp_path / f"self_cognition_{part}.json")) == counts[part]
    assert records.read_conversations(tmp_path / "self_cognition_probe.json") == PROBE
    provenance = records.read_json(records.provenance_path(tmp_path / "self_cognition.json"))
    assert provenance["parameters"]["owner"] == "小明"
