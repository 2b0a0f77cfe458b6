"""Exercises: the checks accept the solutions, and reject the stubs and what students get wrong."""

import ast
from pathlib import Path

import nbformat
import pytest
import yaml

from tianji_helpers import exercises
from tianji_helpers.paths import NOTEBOOKS
from tianji_toolbox.classroom import handed_in

LESSONS = sorted(NOTEBOOKS.glob("0*.ipynb"))
EXERCISES = exercises.EXERCISES
WRONG = yaml.safe_load(Path(__file__).with_name("wrong_answers.yaml").read_text(encoding="utf-8"))


def answers(file):
    """Run the exercises of a notebook; return the answers by number."""
    namespace, found = {}, {}
    for source in handed_in.read_section(file):
        exec(source, namespace)
        found |= {number: eval(code, namespace) for number, code in handed_in.answers_in(source)}
    return found


def stored(file):
    """Return what a notebook says that its checks printed."""
    cells = [cell for cell in nbformat.read(file, as_version=4).cells if handed_in.answers_in(cell.source)]
    return "".join(output.text for cell in cells for output in cell.get("outputs", []))


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda file: file.stem)
def test_every_lesson_has_exercises_from_easy_to_open(lesson):
    asked = [
        number for source in handed_in.read_section(lesson) for number, _ in handed_in.answers_in(source)
    ]
    assert asked == [number for number in EXERCISES if number[:2] == lesson.stem[:2]]
    assert 3 <= len(asked) <= 5
    assert "开放" in EXERCISES[asked[-1]].title


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda file: file.stem)
def test_the_solutions_are_accepted_and_say_so(lesson, capsys):
    file = NOTEBOOKS / "solutions" / lesson.name
    found = answers(file)
    printed = capsys.readouterr().out
    assert found.keys() == {number for number in EXERCISES if number[:2] == lesson.stem[:2]}
    for number, answer in found.items():
        assert exercises.hints(number, exercises.Answer(answer)) == [], number
    assert stored(file) == printed and printed.count("✓") == len(found)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda file: file.stem)
def test_the_untouched_stubs_are_rejected(lesson, capsys):
    for number, answer in answers(lesson).items():
        missing = exercises.hints(number, exercises.Answer(answer))
        assert missing and ("还没有动手" in missing[0] or number == "03-5"), (number, missing)
    printed = capsys.readouterr().out
    assert stored(lesson) == printed and "✓" not in printed


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda file: file.stem)
def test_stub_and_solution_ask_for_the_same_thing(lesson):
    def heads(file):
        return [
            (number, ast.unparse(node.args) if isinstance(node, ast.FunctionDef) else "")
            for source in handed_in.read_section(file)
            for number, code in handed_in.answers_in(source)
            for name in code.co_names
            for node in ast.walk(ast.parse(source))
            if getattr(node, "name", None) == name or getattr(node, "id", None) == name
            if not isinstance(getattr(node, "ctx", None), ast.Load)
        ]

    assert heads(lesson) == heads(NOTEBOOKS / "solutions" / lesson.name) != []


def test_there_are_three_typical_wrong_answers_for_each():
    assert WRONG.keys() == EXERCISES.keys()
    assert all(len(mistakes) >= 3 for mistakes in WRONG.values())


@pytest.mark.parametrize(
    ("number", "mistake"),
    [pytest.param(n, m, id=f"{n}-{i}") for n, all_ in WRONG.items() for i, m in enumerate(all_, 1)],
)
def test_a_typical_wrong_answer_is_rejected_with_a_hint(number, mistake):
    namespace = {}
    exec(mistake["code"], namespace)
    (name,) = [
        node.name if isinstance(node, ast.FunctionDef) else node.targets[0].id
        for node in ast.parse(mistake["code"]).body
        if isinstance(node, ast.FunctionDef | ast.Assign)
    ]
    missing = exercises.hints(number, exercises.Answer(namespace[name]))
    assert mistake["hint"] in "\n".join(missing)
    assert len(missing) <= exercises.MOST_HINTS and all(len(hint) < 300 for hint in missing)


ODD = [
    None,
    ...,
    0,
    -1.5,
    float("nan"),
    "",
    "祝",
    [],
    [1],
    [[]],
    {},
    {"messages": None},
    object(),
    print,
    int,
]
ODD += [lambda *_: None, lambda *_: 1, lambda *_: "x", lambda *_: [], lambda *_: [[], []], lambda *_: {}]
ODD += [lambda *_: [[1], [2]], lambda *_: {"messages": [{"role": "user"}]}, lambda *_: exit(3), lambda: 1]


@pytest.mark.parametrize("number", EXERCISES)
def test_an_answer_of_any_shape_gets_a_hint_and_raises_nothing(number):
    for answer in ODD:
        assert exercises.hints(number, exercises.Answer(answer)), answer


# other ways that are right too: a check asks what an answer does, not how
OTHERS = {
    "01-1": """
def answer(recipients, scenes, unsuitable):
    pairs = ((who, what) for what in scenes for who in recipients)
    return [pair for pair in pairs if pair[0] not in unsuitable.get(pair[1], ())]
""",
    "01-3": """
def answer(text, model, seed, round):
    return repr((text, model, seed, round))
""",
    "02-1": """
import re

def answer(text):
    return re.sub("^“([^“”]*)”$|^「([^「」]*)」$", r"\\1\\2", text)
""",
    "02-2": """
def answer(text):
    while "！！" in text or "～～" in text:
        text = text.replace("！！", "！").replace("～～", "～")
    return text
""",
    "03-4": """
def answer(about_me, general, ratio, seed):
    count = round(ratio * len(about_me))
    rows = about_me + [general[(seed + number) % len(general)] for number in range(count)]
    return sorted(rows, key=lambda row: hash((str(row), seed)))
""",
    "04-1": """
def answer(record):
    question = record["instruction"] + ("\\n" + record["input"] if record["input"] else "")
    messages = []
    for asked, said in [*(record.get("history") or []), (question, record["output"])]:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return {"messages": messages}
""",
    "04-4": """
def answer(count, alike):
    name = list(range(count))
    for one, other in alike:
        name = [name[one] if each == name[other] else each for each in name]
    return [[i for i in range(count) if name[i] == each] for each in sorted(set(name), reverse=True)]
""",
    "04-5": """
import random

def answer(rows, ratio):
    names = sorted({row["group"] for row in rows})
    random.Random(1).shuffle(names)
    train = []
    for name in names:
        group = [row for row in rows if row["group"] == name]
        if len(train) + len(group) / 2 <= ratio * len(rows):
            train += group
    return train, [row for row in rows if row not in train]
""",
    "05-3": """
import torch

def answer(losses, labels):
    return torch.tensor(losses, dtype=torch.float64)[torch.tensor(labels) != -100].mean().exp()
""",
    "05-4": """
def answer(text):
    letters = [letter for letter in text if letter.isalnum()]
    return len(set(letters)) < 0.55 * len(letters)
""",
    "06-1": """
import numpy as np

def answer(scores, temperature):
    scores = np.array(scores) - max(scores)
    weights = np.exp(scores / max(temperature, 1e-6))
    return weights / weights.sum()
""",
    "06-3": """
def answer(pieces, stop):
    said = ""
    for piece in pieces:
        said += piece
        if stop in said:
            return said[: said.index(stop)]
    return said
""",
}


@pytest.mark.parametrize("number", OTHERS)
def test_another_way_is_right_too(number):
    namespace = {}
    exec(OTHERS[number], namespace)
    assert exercises.hints(number, exercises.Answer(namespace["answer"])) == []
