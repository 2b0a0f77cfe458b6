"""What students see of ``check``: a verdict and hints, whatever they hand in."""

import numpy as np
import pytest
import torch

from tianji_helpers import exercises
from tianji_helpers.errors import CourseError
from tianji_helpers.exercises import answers, check


def test_a_right_answer_is_one_line(capsys):
    check("05-1", lambda prompt, answer, end: [-100] * len(prompt) + answer + [end])
    assert capsys.readouterr().out == "✓ 05-1 损失看哪里：通过\n"


def test_a_wrong_answer_gets_hints_and_raises_nothing(capsys):
    assert check("05-1", lambda prompt, answer, end: prompt + answer + [end]) is None
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "✗ 05-1 损失看哪里：还没有通过"
    assert rest and all(line.startswith("  · ") for line in rest)


def test_two_runs_print_the_same(capsys):
    for _ in range(2):
        check("06-1", lambda scores, temperature: [1 / len(scores) for _ in scores])
    printed = capsys.readouterr().out
    assert printed[: len(printed) // 2] * 2 == printed


@pytest.mark.parametrize("number", ["1-1", "08-1", "", None])
def test_an_unknown_number_names_the_known_ones(number):
    with pytest.raises(CourseError, match="01-1、01-2"):
        check(number, 1)


def test_a_function_cannot_change_what_it_is_given():
    given = {"rows": [1, 2]}
    assert exercises.Answer(lambda rows: rows["rows"].pop()).call(given) == 2
    assert given == {"rows": [1, 2]}


def test_arrays_and_tensors_are_lists():
    assert answers.plain({"a": np.arange(2), "b": torch.ones(1, 2)}) == {"a": [0, 1], "b": [[1.0, 1.0]]}


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (3, "一个函数，你交的是 3"),
        (lambda: 1, "TypeError"),
        (lambda x: None, "没有返回"),
        (lambda x: ..., "还没有动手"),
        (lambda x: print, "不是普通的数据"),
        (lambda x: "祝" * 2_000_000, "太长"),
        (lambda x: _raise(SystemExit(3)), "SystemExit: 3"),
        (lambda x: _raise(ValueError("一\n" * 500)), "ValueError: 一 一"),
        (lambda x: (lambda f: f(f))(lambda f: f(f)), "RecursionError"),
    ],
)
def test_what_goes_wrong_in_a_call_is_told(answer, hint):
    with pytest.raises(answers.Wrong) as wrong:
        exercises.Answer(answer).call("x")
    assert hint in str(wrong.value) and len(str(wrong.value)) < 300


def test_an_object_that_cannot_even_be_shown_is_told():
    class Shy:
        def __repr__(self):
            raise RuntimeError

    with pytest.raises(answers.Wrong, match="Shy 不是普通的数据"):
        exercises.Answer(Shy()).value()


@pytest.mark.parametrize("number", ["05-2", "06-1"])
def test_numbers_of_any_size_get_a_hint(number):
    for value in (10**3000, float("inf"), float("nan"), [10**3000] * 3):
        assert exercises.hints(number, exercises.Answer(lambda *_, value=value: value))


def test_a_student_can_stop_an_endless_answer():
    with pytest.raises(KeyboardInterrupt):
        exercises.hints("02-2", exercises.Answer(lambda text: _raise(KeyboardInterrupt())))
