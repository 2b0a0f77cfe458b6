"""Prompts: built from the matrix, drawn from the seed, with no temperature in them."""

import pytest

from tianji_helpers import wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import prompts


@pytest.fixture(scope="module")
def matrix():
    return wishes.load()


def test_a_prompt_names_everything(matrix):
    prompt = prompts.build(matrix, "妹妹", "谈判顺利", "小红书")
    for words in ("妹妹", "“你”", "谈判顺利", "小红书", "10 到 60", prompt.example, prompt.requirement):
        assert words in prompt.text
    assert prompt.input == "祝妹妹谈判顺利,小红书风格"
    assert [message["role"] for message in prompt.messages] == ["system", "user"]
    assert prompt.messages[1]["content"] == prompt.text


def test_the_same_seed_gives_the_same_prompts_and_another_does_not(matrix):
    first = list(prompts.build_round(matrix, "正常", seed=1))
    assert first == list(prompts.build_round(matrix, "正常", seed=1))
    for other in (
        list(prompts.build_round(matrix, "正常", seed=2)),
        list(prompts.build_round(matrix, "正常", round=2, seed=1)),
    ):
        assert [p.input for p in other] == [p.input for p in first]
        assert [p.seed for p in other] != [p.seed for p in first]
        assert [p.text for p in other] != [p.text for p in first]


def test_all_examples_and_requirements_are_drawn(matrix):
    built = list(prompts.build_round(matrix, "小红书"))
    assert {p.example for p in built} == set(matrix.styles["小红书"].examples)
    assert {p.requirement for p in built} == set(matrix.requirements)
    assert len({p.seed for p in built}) == len(built)


def test_unsuitable_pairs_are_skipped(matrix):
    built = [(p.recipient, p.scene) for p in prompts.build_round(matrix, "严肃")]
    assert built == matrix.pairs()
    assert ("爷爷", "七夕节") not in built


def test_a_larger_limit_contains_a_smaller_one(matrix):
    few = {p.text for p in prompts.build_round(matrix, "正常", limit=10)}
    more = {p.text for p in prompts.build_round(matrix, "正常", limit=50)}
    assert len(few) == 10 and len(more) == 50 and few < more
    assert len(list(prompts.build_round(matrix, "正常", limit=10_000))) == len(matrix.pairs())


def test_no_temperature_in_any_message(matrix):
    for style in matrix.styles:
        for prompt in prompts.build_round(matrix, style):
            assert all(set(message) == {"role", "content"} for message in prompt.messages)
            assert "temperature" not in str(prompt.messages)


def test_an_unknown_cell_is_named(matrix):
    with pytest.raises(CourseError, match="没有叫 泼水节 的场景"):
        prompts.build(matrix, "姐姐", "泼水节", "正常")
