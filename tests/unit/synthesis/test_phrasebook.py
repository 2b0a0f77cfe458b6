"""The phrasebook: every wish passes the rules, and a full run is varied."""

import random
import shutil
from pathlib import Path

import phrasebook
import pytest
from phrasebook import Phrasebook, dirt

from tianji_helpers import faults, wishes
from tianji_helpers.errors import CourseError


@pytest.fixture(scope="module")
def matrix():
    return wishes.load()


@pytest.fixture(scope="module")
def book(matrix):
    return Phrasebook(matrix)


@pytest.mark.slow
def test_no_wish_has_a_hard_fault(matrix, book):
    for style in matrix.styles:
        low, high = book.chars[style]
        for recipient, scene in matrix.pairs():
            for requirement in matrix.requirements:
                rng = random.Random(f"{recipient}{scene}{style}{requirement}")
                wish = book.compose(recipient, scene, style, requirement, rng)
                assert not faults.find(matrix.read(matrix.request(recipient, scene, style)), wish), wish
                assert low <= len(wish) <= high, wish


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_full_run_is_at_least_95_percent_distinct(matrix, book, seed):
    made = [
        book.compose(recipient, scene, style, "", random.Random(f"{seed}{recipient}{scene}{style}"))
        for style in matrix.styles
        for recipient, scene in matrix.pairs()
    ]
    assert len(made) == len(matrix.styles) * len(matrix.pairs())
    assert len(set(made)) >= 0.95 * len(made)


def test_the_requirement_decides_where_the_address_stands(matrix, book):
    tell, bare, inside = matrix.requirements[1:]
    for seed in range(30):
        compose = [book.compose("爷爷", "春节", "正常", r, random.Random(seed)) for r in (tell, bare, inside)]
        assert compose[0].startswith("爷爷，")
        assert "爷爷" not in compose[1] and "您" in compose[1]
        assert "爷爷" in compose[2] and not compose[2].startswith("爷爷，")


@pytest.mark.parametrize(("style", "file"), [("正常", "phrasebook"), ("文艺", "phrasebook_more")])
def test_a_scene_without_phrases_is_named_and_where_to_add_them(book, style, file):
    with pytest.raises(CourseError, match=rf"姐姐 × 圣诞节 × {style}.*{file}\.yaml"):
        book.compose("姐姐", "圣诞节", style)


@pytest.mark.parametrize(
    ("edited", "style", "old", "new"),
    [
        ("phrasebook.yaml", "正常", "祝{who}生日快乐", "祝{who}天天快乐"),
        ("phrasebook_more.yaml", "白话", "我嘴笨，就祝{who}生日快乐", "我嘴笨，就祝{who}天天快乐"),
    ],
)
def test_a_sentence_without_a_keyword_is_named(matrix, tmp_path, edited, style, old, new):
    for name in ("phrasebook.yaml", "phrasebook_more.yaml"):
        shutil.copy(Path(phrasebook.__file__).parent / name, tmp_path)
    file = tmp_path / edited
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(CourseError, match=rf"{edited} 的场景“生日”：{style}的句子“{new}”"):
        Phrasebook(matrix, tmp_path)


@pytest.mark.parametrize("kind", dirt.KINDS)
def test_every_kind_of_dirt_spoils_the_wish(matrix, book, kind):
    for seed in range(20):
        rng = random.Random(seed)
        for recipient in ("妹妹", "爷爷"):
            cell = (recipient, "生日", "正常")
            wish = book.compose(*cell, rng=rng)
            spoilt = dirt.soil(
                kind, wish, *cell[:2], lambda cell=cell, rng=rng: book.compose(*cell, rng=rng), rng
            )
            assert spoilt != wish
